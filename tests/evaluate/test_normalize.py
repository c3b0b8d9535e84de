import pytest

from sonant.errors import EvaluationError
from sonant.evaluate.metrics.named import metric_named
from sonant.evaluate.normalize import basic, normalizer, normalizer_version


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Hello,  World!", "hello world"),
        ("don't stop", "don't stop"),
        ("don’t stop", "don't stop"),  # it was two words, and ASCII's quotation marks were letters
        ("lʼété", "l'été"),
        ("it is 'red'", "it is red"),
        ("the dogs' 'n' cats", "the dogs n cats"),
        ("Der Hund läuft.", "der hund läuft"),
        ("  ", ""),
        ("well-known (fact)", "well known fact"),
        ("Ｆｕｌｌ width", "full width"),
    ],
)
def test_basic_forgives_case_punctuation_and_spaces_only(text: str, clean: str) -> None:
    assert basic(text) == clean


def test_basic_twice_is_basic_once() -> None:
    for text in ("A - b... C?", "'a'b' ''c ' d''e"):
        assert basic(basic(text)) == basic(text)


def test_none_leaves_the_text_alone() -> None:
    assert normalizer("none")("A, b") == "A, b"


def test_whisper_english_equals_the_normaliser_of_transformers() -> None:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    theirs = EnglishTextNormalizer({"colour": "color"})
    for text in ("Mr. Smith paid twenty-one dollars", "It's 5 o'clock, isn't it?"):
        assert normalizer("whisper_english")(text) == theirs(text)


def test_a_full_stop_leaves_no_space_to_count_as_a_character() -> None:
    assert normalizer("whisper_basic")("犬は赤い。") == "犬は赤い"
    assert metric_named("cer@whisper_basic").score(["犬は赤い"], ["犬は赤い。"]).value == 0


def test_squad_compares_as_its_own_script_does() -> None:
    assert normalizer("squad")("The Denver-Broncos, a team!") == "denverbroncos team"


def test_a_normaliser_has_a_version_and_an_unknown_one_is_told() -> None:
    assert normalizer_version("basic") == "2"
    assert normalizer_version("whisper_basic").startswith("whisper-normalizer ")
    with pytest.raises(EvaluationError, match=r"no normaliser 'none\?'; known are none, basic"):
        normalizer("none?")
