import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonant.errors import SynthesisError
from sonant.synth.spoken_form import LANGUAGES, spoken_form

pytest.importorskip("unicode_rbnf")

ENGLISH = {
    "Solve 2x^2+3=7.": "Solve two x squared plus three equals seven.",
    "x² + y³ = z^{n+1}": "x squared plus y cubed equals z to the power of n plus one",
    "What is 1/2 + 3/4 - 7/25?": "What is one half plus three quarters minus seven over twenty-five?",
    "√16 = sqrt(16) = 4": "the square root of sixteen equals the square root of sixteen equals four",
    r"\frac{a+b}{2} \leq \sqrt{x_1}": "a plus b over two is at most the square root of x sub one",
    "$E = mc^2$, α + β_2 = π": "E equals mc squared, alpha plus beta sub two equals pi",
    "f(x) = 3(x-2)": "f of x equals three times open parenthesis x minus two close parenthesis",
    "12 * 7 ≥ 80 or 5-3=2": "twelve times seven is at least eighty or five minus three equals two",
    "$3.50, €20 or $5 million.": "three dollars and fifty cents, twenty euros or five million dollars.",
    "2024-01-31, January 5, 2020.": "January thirty-first, twenty twenty-four, January fifth, twenty twenty.",
    "the 4th of July 1776; 3/4/2023": "the fourth of July, seventeen seventy-six; March fourth, twenty twenty-three",
    "At 14:30, 3:05 p.m. or 9:00.": "At fourteen thirty, three oh five p m or nine o'clock.",
    "1999, the 1990s, 1,234,567, 007": "nineteen ninety-nine, the nineteen nineties, "
    "one million two hundred thirty-four thousand five hundred sixty-seven, zero zero seven",
    "-5°C, 10kg, 60 mph, 1 m, 3 m², 3.14%": "minus five degrees Celsius, ten kilograms, sixty miles per hour, "
    "one meter, three square meters, three point one four percent",
    "Pages 10-20, a well-known man's 21st.": "Pages ten to twenty, a well-known man's twenty-first.",
    "`x == y[0]` in foo_bar.py": "x equals equals y open bracket zero close bracket in foo underscore bar dot py",
    "https://a.org/b?c=1 joe.doe@ex.com": "a dot org slash b question mark c equals one joe dot doe at ex dot com",
    "Dr. Li, e.g. Mr. Ng; No. 5 is #1, no.": "doctor Li, for example mister Ng; number five is number one, no.",
    "**Bold**, [a link](http://x.y) & “this” (now).": "Bold, a link and this, now.",
    "**See a->b (well-made, e.g.) in repo#7.": "See a to b, well-made, for example, in repo number seven.",
    "Call 555-123-4567; H₂O; 2½ cups…": "Call five five five one two three four five six seven; H two O; "
    "two and one half cups.",
}


@pytest.mark.parametrize(("written", "said"), ENGLISH.items())
def test_english_is_said_as_people_say_it(written: str, said: str) -> None:
    assert spoken_form(written) == said


@pytest.mark.parametrize(
    ("language", "written", "said"),
    [
        ("de", "Am 3. Mai 2024: 1.234,50 € für 3,14 %", "Am dritten Mai zweitausendvierundzwanzig: "
         "eintausendzweihundertvierunddreißig Euro und fünfzig Cent für drei Komma eins vier Prozent"),
        ("de", "z. B. um 14:30 Uhr, 5 km", "zum Beispiel um vierzehn Uhr dreißig, fünf Kilometer"),
        ("fr", "M. Dupont a 71 ans.", "monsieur Dupont a soixante-et-onze ans."),
        ("fr", "1 234 + 2 = 1 236", "mille deux cent trente-quatre plus deux égale mille deux cent trente-six"),
        ("es", "El Sr. Gil: 1.000,5 km", "El señor Gil: mil coma cinco kilómetros"),
    ],
)  # fmt: skip
def test_other_languages_say_numbers_money_and_units_their_way(language: str, written: str, said: str) -> None:
    assert spoken_form(written, language=language) == said


@pytest.mark.parametrize(("language", "written"), [("en", "$5.,6 is none"), ("de", "5,.6€ is none")])
def test_an_amount_that_is_none_is_said_all_the_same(language: str, written: str) -> None:
    assert spoken_form(written, language=language).endswith("is none")  # it was a traceback


def test_plain_words_stay_as_they_are() -> None:
    text = "Where is the man's well-known house, and why? It's here: go!"
    assert spoken_form(text) == text


@given(
    st.text(st.characters(codec="utf-8") | st.sampled_from("0123456789+-*/^=_$%()[]{}\\.,:;'`xyE€# \n"), max_size=40)
)
def test_only_letters_spaces_and_basic_punctuation_are_left(text: str) -> None:
    for language in LANGUAGES:
        said = spoken_form(text, language=language)
        assert all(c.isalpha() or c in " .,;:!?'-" or ord(c) > 0x300 for c in said)
        assert said == said.strip()
        assert not any(c.isdigit() for c in said)


def test_a_language_without_rules_is_refused() -> None:
    with pytest.raises(SynthesisError, match="no rules to say 'ja'; there are some for en, de, fr, es"):
        spoken_form("1", language="ja")
