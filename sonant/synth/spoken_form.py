"""Written text as it is said: "2x^2+3=7" is "two x squared plus three equals seven".

    marks of markdown ─▶ addresses, code ─▶ dates, times, money, units ─▶ maths ─▶ numbers ─▶ letters and .,;:!?'-

English in full; German, French and Spanish for numbers, money, units, signs and common abbreviations. What is said for
each sign stands in spoken_form.yaml; numbers are spelt by the rules of Unicode's CLDR. Only the engine gets this form:
a clip's transcript stays the written text.
Source: VoiceTextBlender normalises before speaking (NeMo's grammars) and leaves maths and code out; here they are said.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from sonant.errors import SynthesisError

LANGUAGES = ("en", "de", "fr", "es")
Rule = Callable[[re.Match[str]], str]

_PUNCTUATION = ".,;:!?'-"
_TO_PUNCTUATION = str.maketrans(dict.fromkeys("’‘`´", "'") | dict.fromkeys("—–()", ", ") | {"…": "."})
_LATEX = {
    **{"times": "×", "cdot": "·", "div": "÷", "pm": "±", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠"},
    **{"neq": "≠", "approx": "≈", "infty": "∞", "sum": "∑", "prod": "∏", "int": "∫", "to": "→", "in": "∈"},
}
_ARROWS = {"->": "→", "=>": "⇒", "<=": "≤", ">=": "≥", "!=": "≠", "==": "="}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")


def spoken_form(text: str, *, language: str = "en") -> str:
    """Returns what an engine should say: letters, spaces and basic punctuation only; "" if nothing is left.

    Raises: SynthesisError for a language that has no rules here, or if `unicode-rbnf` is not installed.
    """
    if language not in LANGUAGES:
        raise SynthesisError(f"no rules to say {language!r}; there are some for {', '.join(LANGUAGES)}")
    return _Speaker(language).say(text)


class _Speaker:
    """The rules of one language, in the order in which they must run: later ones see only what earlier ones left."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.table = _tables()[language]
        self.words: dict[str, str] = self.table["words"]

    def say(self, text: str) -> str:
        text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", f" {self.words['and']} ", text)
        text = re.sub(r"(?<=[\d\s])([mk]?m[²³])(?!\w)", lambda m: f"\0{m[1]}\0", text)  # areas and volumes are units
        text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+(?!\0)", lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", text).replace(
            "\0", ""
        )
        text = "".join(c if c in "²³…™´°" else unicodedata.normalize("NFKC", c) for c in text).replace("⁄", "/")
        for rules in (self._markdown, self._addresses, self._abbreviations, self._calendar, self._amounts, self._maths):
            text = rules(text)
        return _tidied(self._signs(self._numbers(text)))

    def _markdown(self, text: str) -> str:
        text = re.sub(r"\$\$(.+?)\$\$", r" \1 ", text, flags=re.DOTALL)
        text = re.sub(
            r"(?<![\w$])\$(?=\S)([^$\n]*[\\^_=+A-Za-z][^$\n]*)(?<=\S)\$(?![\w$])", r"\1", text
        )  # maths, no money
        text = re.sub(r"!?\[([^\]\n]*)\]\([^)\s]*\)", r"\1", text)  # links and pictures: their words
        text = re.sub(r"`+([^`]+)`+", lambda m: self._code(m[1]), text)
        text = re.sub(r"(\*\*|__|~~)(?=\S)(.+?)(?<=\S)\1", r"\2", text)
        text = re.sub(r"(?<![\w*])([*_])(?=[^\s*])([^*\n]*?[^\s*])\1(?![\w*])", r"\2", text)
        text = re.sub(r"^\s*(?:#{1,6}|>|[-*+•])\s+", "", text, flags=re.MULTILINE)
        text = re.sub(r"(?<!\S)\*+(?=\S)|(?<=\S)\*+(?!\S)", "", text)  # marks whose partner is in another sentence
        return re.sub("|".join(_ARROWS), lambda m: _ARROWS[m[0]], text)

    def _code(self, text: str) -> str:
        signs = self.table["signs"] | self.table.get("code", _tables()["en"]["code"])
        text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
        text = re.sub(r"(?<=\d)\.(?=\d)", "\0", text)  # a decimal point is no dot
        return _named(text, signs).replace("\0", ".")

    def _addresses(self, text: str) -> str:
        def said(match: re.Match[str]) -> str:
            address = re.sub(r"^\w+://(?:www\.)?", "", match[0])
            return " " + self._code(address).replace(" at ", f" {self.words['at']} ") + " "

        text = re.sub(r"\b(?:https?|ftp)://[^\s<>()]*[\w/]|\bwww\.[^\s<>()]*[\w/]", said, text)
        text = re.sub(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b", said, text)
        text = re.sub(r"\b\w+\.(?:com|org|net|edu|gov|io|py|js|txt|csv|json|html|pdf|md)\b", said, text)
        text = re.sub(r"\b[A-Za-z]\w*(?:_\w*[A-Za-z]\w*)+(?:\(\))?", lambda m: self._code(m[0]), text)
        return re.sub(r"\b[a-z]+(?:[A-Z][a-z]+)+\b", lambda m: self._code(m[0]), text)

    def _abbreviations(self, text: str) -> str:
        for short, long in self.table["abbreviations"].items():
            numbered = r"(?=\s*\d)" if long == self.words["number"] else ""
            text = re.sub(rf"(?<!\w){re.escape(short)}(?!\w){numbered}", long, text)
        text = re.sub(r"\b(?:[A-Z]\.){2,}", lambda m: " ".join(m[0].split(".")), text)
        return re.sub(r"#(?=\d)", f" {self.words['number']} ", text)

    def _calendar(self, text: str) -> str:
        """Dates, years and times of day."""
        text = re.sub(r"\b(\d{4})-(\d\d)-(\d\d)\b", lambda m: self._date(m[3], m[2], m[1]), text)
        if self.language == "en":
            text = self._english_days(text)
        else:
            text = re.sub(r"\b(\d{1,2})[./](\d{1,2})[./](\d{4})\b", lambda m: self._date(m[1], m[2], m[3]), text)
        if self.language == "de":
            days = rf"(\bder )?\b(\d{{1,2}})\.\s*(?={'|'.join(self.table['months'])})"
            text = re.sub(days, self._german_day, text, flags=re.IGNORECASE)
        times = r"\b([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?\b(?:\s*([aApP])\.?\s?[mM]\b\.?)?"
        text = re.sub(rf"{times}(?:\s{self.words['hour']}\b)?" if self.words["hour"] else times, self._time, text)
        return re.sub(r"(?<=\d):(?=\d)", f" {self.words['to']} ", text)

    def _english_days(self, text: str) -> str:
        month = rf"({'|'.join(self.table['months'])}|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
        day, year = r"(\d{1,2})(?:st|nd|rd|th)?", r"\b(?:,? (\d{4})\b)?"
        text = re.sub(r"\b(\d{1,2})/(\d{1,2})/(\d{4})\b", lambda m: self._date(m[2], m[1], m[3]), text)
        text = re.sub(rf"\b{month} {day}{year}", lambda m: self._day(m[1], m[2], m[3]), text)
        text = re.sub(rf"(?:\bthe )?\b{day} (?:of )?{month}{year}", self._day_first, text)
        text = re.sub(r"\b(1[1-9]|20)?(\d)0'?s\b", self._decade, text)
        return re.sub(r"\b(\d{1,15})(?:st|nd|rd|th)\b", lambda m: self._ordinal(int(m[1])), text)

    def _date(self, day: str, month: str, year: str) -> str:
        """A date by numbers, its month by name; left as numbers if there is no such day."""
        if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
            return f"{day} {month} {year}"
        name = self.table["months"][int(month) - 1]
        if self.language == "en":
            return self._day(name, day, year)
        link = {"de": ". ", "fr": " ", "es": " de "}[self.language]
        return f"{int(day)}{link}{name}{' de' * (self.language == 'es')} {self._year(year)}"

    def _day(self, month: str, day: str, year: str | None) -> str:
        name = next(m for m in self.table["months"] if m.startswith(month[:3]))
        return f"{name} {self._ordinal(int(day))}" + (f", {self._year(year)}" if year else "")

    def _day_first(self, match: re.Match[str]) -> str:
        month, day, *year = self._day(match[2], match[1], match[3]).split(" ", 2)
        comma = "," if year else ""
        return " ".join([f"the {day.rstrip(',')} of {month}{comma}", *year])

    def _german_day(self, match: re.Match[str]) -> str:
        return f"{match[1] or ''}{self._ordinal(int(match[2]))}{'' if match[1] else 'n'} "

    def _decade(self, match: re.Match[str]) -> str:
        tens = self._number(f"{match[2]}0") if match[2] != "0" else "hundred"
        plural = tens[:-1] + "ies" if tens.endswith("y") else tens + "s"
        return f"{self._number(match[1])} {plural}" if match[1] else plural

    def _time(self, match: re.Match[str]) -> str:
        hour, minute, second, half = match.groups()
        spoken = [self._number(str(int(hour))), self.words["hour"]]
        if minute != "00":
            spoken += ["oh"] * (self.language == "en" and minute[0] == "0") + [self._number(str(int(minute)))]
        elif self.language == "en" and not half:
            spoken += ["o'clock"] if int(hour) <= 12 else ["hundred"]
        spoken += [self.words["and"], self._number(str(int(second)))] if second else []
        return " ".join(spoken) + (f" {half.lower()} m" if half else "")

    def _amounts(self, text: str) -> str:
        """Money, and numbers with a unit."""
        scale = "|".join(self.table["scales"])
        for sign, names in self.table["currencies"].items():
            said = self._money(names)
            number = r"(\d[\d.,]*\d|\d)"
            text = re.sub(rf"{re.escape(sign)}\s?{number}(?:\s?({scale}|[MBK])\b)?", said, text)
            text = re.sub(rf"{number}(?:\s({scale}))?\s?{re.escape(sign)}", said, text)
        units = self.table["units"]
        names = "|".join(re.escape(unit) for unit in sorted(units, key=len, reverse=True))
        # "3 m + 2" is algebra: no operator may follow a unit
        measured = rf"(?<![\w.,])(\d[\d.,]*)\s?({names})(?![\w²³'/^])(?!\s*[-+*/])"
        return re.sub(measured, lambda m: f"{m[1]} {units[m[2]][m[1] != '1']}", text)

    def _money(self, names: list[str]) -> Rule:
        one, many, cent, cents = names
        scales = {"K": "thousand", "M": "million", "B": "billion"}

        def said(match: re.Match[str]) -> str:
            amount, scale = match[1], match[2]
            if scale:
                return f"{amount} {scales.get(scale, scale)} {many}"
            whole, _, hundredths = amount.rpartition("." if self.language == "en" else ",")
            if not whole or len(hundredths) != 2 or not hundredths.isdecimal():
                return f"{amount} {one if amount == '1' else many}"
            coins = int(hundredths)
            spoken = f"{whole} {one if whole == '1' else many}"
            return spoken + (f" {self.words['and']} {coins} {cent if coins == 1 else cents}" if coins else "")

        return said

    def _maths(self, text: str) -> str:
        """LaTeX basics, powers, roots, fractions, function calls, minus signs and ranges."""
        w = self.words
        text = re.sub(r"\\[()\[\],;!]|\\(?:left|right|displaystyle)(?![a-z])", " ", text)
        text = re.sub(r"\\(?:text|mathrm|mathbf|operatorname)\{([^{}]*)\}", r"\1", text)
        root = r"(?:\\sqrt|\bsqrt|√)\s?(?:\{([^{}]*)\}|\(([^()]*)\)|(\w+))"
        for _ in range(3):  # nested as deep as anybody would say it
            text = re.sub(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", rf" \1 {w['over']} \2 ", text)
            text = re.sub(root, lambda m: f" {w['root']} {m[1] or m[2] or m[3] or ''} ", text)
        text = re.sub(r"\\([A-Za-z]+)", lambda m: f" {_LATEX.get(m[1], m[1])} ", text)
        text = re.sub(r"(?<=[\w)\]])\s?(?:\^|\*\*)\s?(?:\{([^{}]*)\}|\(([^()]*)\)|(-?\w+))", self._power, text)
        text = re.sub(r"\b([^\W\d_])_(?:\{([^{}]*)\}|(\w+))", lambda m: f"{m[1]} {w['sub']} {m[2] or m[3]} ", text)
        text = re.sub(r"\b([a-zA-Z]|sin|cos|tan|log|ln|exp|max|min|gcd)\(([^()]*)\)", rf"\1 {w['of']} \2 ", text)
        text = self._minus(re.sub(r"(?<![\w/.])(\d{1,3})/(\d{1,3})(?![\w/]|\.\d)", self._fraction, text))
        text = re.sub(r"(?<=[\d)])/(?=[\w(])|(?<![^\W\d])/(?=\d)|(?<=\b\w)/(?=\w\b)", f" {w['over']} ", text)
        text = re.sub(r"(?<=[\d)])\((?=[\w−])", " × (", text)
        return re.sub(r"\(([^()]*[+−×·÷=*^][^()]*)\)", rf" {w['open']} \1 {w['close']} ", text)

    def _minus(self, text: str) -> str:
        """Tells minus from ranges, telephone numbers and hyphens."""
        if re.search(r"[=+^×÷·√≤≥<>]", text):
            text = re.sub(r"(?<=[\w)])\s+[-–]\s+(?=\w\b|[\d(])", " − ", text)
        text = re.sub(r"\b(\d{3})-(\d{3}-)?(\d{4})\b", lambda m: " ".join(re.sub(r"\D", "", m[0])), text)
        operands = r"(?<![^\W\d_]{2})(?<=[\w)])-(?=[\d(]|[^\W\d_](?![^\W\d_]))"  # numbers, single letters, brackets
        text = re.sub(r"\S*[=+*^×÷·≤≥<>()]\S*", lambda m: re.sub(operands, "−", m[0]), text)
        text = re.sub(r"(?<=[\d)])\s+[-–]\s+(?=[\d(])|(?<![\w-])[-–](?=\d)|(?<=[=+*×÷(])\s?-\s?(?=\w)", " − ", text)
        return re.sub(r"(?<=\d)\s?[-–]\s?(?=\d)", f" {self.words['to']} ", text)

    def _power(self, match: re.Match[str]) -> str:
        exponent = match[1] or match[2] or match[3] or ""
        spoken = {"2": self.words["squared"], "3": self.words["cubed"]}.get(exponent)
        return f" {spoken or self.words['power'] + ' ' + re.sub('^-', '−', exponent)} "

    def _fraction(self, match: re.Match[str]) -> str:
        above, below = int(match[1]), int(match[2])
        if self.language != "en" or not 2 <= below <= 20 or not 1 <= above < below:
            return f"{match[1]} {self.words['over']} {match[2]}"
        part = {2: "half", 4: "quarter"}.get(below, self._ordinal(below))
        return f"{above} {part if above == 1 else 'halves' if below == 2 else part + 's'}"

    def _numbers(self, text: str) -> str:
        text = re.sub(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])", " ", text)
        if self.language == "en":
            return re.sub(r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)*", self._any_number, text)
        group = r"[  ]" if self.language == "fr" else r"\."
        return re.sub(rf"\d{{1,3}}(?:{group}\d{{3}})+(?!\d)(?:,\d+)?|\d+(?:[.,]\d+)*", self._any_number, text)

    def _any_number(self, match: re.Match[str]) -> str:
        written = match[0]
        if self.language == "en":
            written = written.replace(",", "")
        else:
            written = re.sub(r"[.   ](?=\d{3}(?!\d))", "", written).replace(",", ".")
        whole, *rest = written.split(".")
        is_year = not rest and re.fullmatch(r"1[1-9]\d\d|20[1-9]\d", match[0]) is not None
        # 3.14 is said by digits behind the point, 3.11.2 by numbers
        spoken = [self._year(whole) if is_year else self._number(whole)]
        for number in rest:
            spoken += [self.words["point"], self._digits(number) if len(rest) == 1 else self._number(number)]
        return f" {' '.join(spoken)} "

    def _signs(self, text: str) -> str:
        text = "".join(f" {_letter(c)} " if "GREEK" in unicodedata.name(c, "") else c for c in text)
        return _named(text, self.table["signs"])

    def _number(self, digits: str) -> str:
        has_zeros = len(digits) > 1 and digits[0] == "0"
        return self._digits(digits) if has_zeros or len(digits) > 15 else self._spelt(int(digits))

    def _digits(self, digits: str) -> str:
        return " ".join(self._spelt(int(digit)) for digit in digits)

    def _ordinal(self, number: int) -> str:
        return self._spelt(number, purpose="ORDINAL")

    def _year(self, digits: str) -> str:
        return self._spelt(int(digits), purpose="YEAR")

    def _spelt(self, number: int, *, purpose: str = "CARDINAL") -> str:
        engine, purposes = _speller(self.language)
        return str(engine.format_number(number, purposes[purpose]).text).replace("\N{SOFT HYPHEN}", "")


def _named(text: str, signs: dict[str, str]) -> str:
    """The text with every sign said; longer signs first."""
    pattern = "|".join(re.escape(sign) for sign in sorted(signs, key=len, reverse=True))
    return re.sub(pattern, lambda m: f" {signs[m[0]]} ", text)


def _letter(greek: str) -> str:
    return unicodedata.name(greek).split()[-1].lower() if "LETTER" in unicodedata.name(greek) else " "


def _tidied(text: str) -> str:
    """Only letters, spaces and basic punctuation, each mark once and behind a word."""
    text = text.translate(_TO_PUNCTUATION)
    text = "".join(c if c.isalpha() or unicodedata.category(c)[0] == "M" or c in _PUNCTUATION else " " for c in text)
    text = re.sub(r"(?<!\w)['-]+|['-]+(?!\w)", " ", text)  # quotes and dashes are no part of a word
    text = re.sub(r"\s+(?=[.,;:!?])", "", re.sub(r"\s+", " ", text))
    text = re.sub(r"[.,;:!?]*([.!?])[.,;:!?]*|([,;:])[,;:]*", r"\1\2", text)
    return re.sub(r"^[\s.,;:!?-]+", "", re.sub(r"([.,;:!?])(?=[^\W\d_])", r"\1 ", text)).strip()


@cache
def _tables() -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = yaml.safe_load(
        files("sonant.synth").joinpath("spoken_form.yaml").read_text("utf-8")
    )
    return tables


@cache
def _speller(language: str) -> Any:
    try:
        from unicode_rbnf import FormatPurpose, RbnfEngine
    except ImportError:
        raise SynthesisError("numbers cannot be said: unicode-rbnf is missing; pip install 'sonant[synth]'") from None
    return RbnfEngine.for_language(language), {purpose.name: purpose for purpose in FormatPurpose}
