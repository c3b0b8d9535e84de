from pathlib import Path

import pytest

from sonant.chat.messages import AudioPart, TextPart
from sonant.data.prompts import SPLITS, fill, instructed, load_prompt_bank
from sonant.errors import ConfigError

CLIP = AudioPart("a.wav")
PLAIN = ("asr", "summary", "emotion", "verification", "instruction", "continuation")
FIELDS = {"translation": {"{target_language}"}, "spoken_qa": {"{question}"}} | {name: set() for name in PLAIN}


@pytest.mark.parametrize("name", FIELDS)
def test_a_shipped_bank_has_twenty_wordings_and_holds_a_quarter_out(name: str) -> None:
    bank = load_prompt_bank(name)
    counts = {split: len(bank.of(split)) for split in SPLITS}
    assert sum(counts.values()) >= 20
    assert counts["test"] >= sum(counts.values()) / 4
    assert counts["dev"] > 0
    for split in SPLITS:
        assert all(field in text for field in FIELDS[name] for text in bank.of(split))
        assert all(instructed(text, CLIP, question="why?", target_language="German") for text in bank.of(split))


def test_a_row_always_gets_the_same_wording_and_many_rows_get_all() -> None:
    bank = load_prompt_bank("asr")
    picked = [bank.pick("train", f"row-{i}") for i in range(500)]
    assert picked == [bank.pick("train", f"row-{i}") for i in range(500)]
    assert set(picked) == set(bank.of("train"))
    assert bank.pick("test", "row-0") in bank.of("test")


def test_the_recording_stands_where_the_wording_says_or_last() -> None:
    assert instructed("Transcribe:", CLIP) == (TextPart("Transcribe:"), CLIP)
    assert instructed("{audio} What?", CLIP) == (CLIP, TextPart(" What?"))
    assert instructed("Here: {audio} What?", CLIP) == (TextPart("Here: "), CLIP, TextPart(" What?"))


def test_fields_are_filled_once_and_their_braces_stay_plain() -> None:
    assert fill("{a} and {b} {audio}", a="{b}", b="2") == "{b} and 2 {audio}"
    assert instructed("{audio} {question}", CLIP, question="what is {audio}?") == (CLIP, TextPart(" what is {audio}?"))
    assert instructed("{question}", CLIP, question="{audio}") == (TextPart("{audio}"), CLIP)
    assert fill('{question} as {"a": {}}', question="why {x}?") == 'why {x}? as {"a": {}}'


def test_a_field_that_is_not_given_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs \{question\}; given are a"):
        fill("{question}", a="1")
    with pytest.raises(ConfigError, match=r"needs \{target_language\}; given are no fields"):
        instructed("Say it in {target_language}.", CLIP)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [a]\ndev: [b]\n", "'test' is required"),
        ("train: [a]\ndev: [b]\ntest: []\n", "at least 1 item"),
        ("train: [a]\ndev: [b]\ntest: ['A ']\n", "test wording 'A ' stands also in train"),
        ("train: [a]\ndev: [b]\ntest: [' ']\n", "is empty"),
        ("train: [a]\ndev: [b]\ntest: ['{audio} {audio}']\n", "twice"),
        ("train: [a]\ndev: [b]\ntset: [c]\n", "did you mean 'test'"),
    ],
)
def test_a_bank_with_a_fault_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_prompt_bank(str(tmp_path / "mine.yaml"))


def test_a_bank_of_ones_own_is_named_by_its_file_and_an_unknown_one_lists_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("train: [a]\ndev: [b]\ntest: [c]\n")
    bank = load_prompt_bank(str(tmp_path / "mine.yaml"))
    assert (bank.name, bank.of("dev"), len(bank.sha256)) == ("mine", ("b",), 64)
    with pytest.raises(ConfigError, match="no prompt bank 'ars'; shipped are asr, "):
        load_prompt_bank("ars")
