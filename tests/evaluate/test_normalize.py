import pytest

from sonant.evaluate.normalize import basic, normalizer


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Hello,  World!", "hello world"),
        ("don't stop", "don't stop"),
        ("Der Hund läuft.", "der hund läuft"),
        ("  ", ""),
        ("well-known (fact)", "well known fact"),
        ("Ｆｕｌｌ width", "full width"),
    ],
)
def test_basic_forgives_case_punctuation_and_spaces_only(text: str, clean: str) -> None:
    assert basic(text) == clean


def test_basic_twice_is_basic_once() -> None:
    assert basic(basic("A - b... C?")) == basic("A - b... C?")


def test_none_leaves_the_text_alone() -> None:
    assert normalizer("none")("A, b") == "A, b"


def test_whisper_english_equals_the_normaliser_of_transformers() -> None:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    theirs = EnglishTextNormalizer({"colour": "color"})
    for text in ("Mr. Smith paid twenty-one dollars", "It's 5 o'clock, isn't it?"):
        assert normalizer("whisper_english")(text) == theirs(text)
