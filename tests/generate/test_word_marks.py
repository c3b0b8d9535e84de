from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sonant.chat.messages import AudioPart, Conversation, TextPart, assistant, user
from sonant.chat.tokenizer import ChatTokenizer
from sonant.errors import ModelError
from sonant.generate.word_marks import WordMarker, marked_rows
from sonant.models.encoders.base import SpeechEncoder
from sonant.models.parts import resolve_part
from sonant.synth.tts import SpeechRequest, load_synthesizer, marks_of, speak
from sonant.synth.world.spectron import spoken_by
from sonant.synth.world.text import speech_texts

Told = list[tuple[AudioPart, str, list[float]]]


@pytest.fixture(scope="module")
def marker() -> WordMarker:
    return WordMarker.from_parts()


class Tokens:
    """The tiny encoder as one that spells in tokens only."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        self.encoder, self.feature_spec, self.frame_rate_hz = encoder, encoder.feature_spec, encoder.frame_rate_hz
        self.output_lengths, self.ctc_logits = encoder.output_lengths, encoder.ctc_logits  # type: ignore[attr-defined]

    def __call__(self, *args: object) -> object:
        return self.encoder(*args)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Clips of the eight voices, what is said, and when each word begins, as espeak knows it."""
    pytest.importorskip("espeakng_loader")
    texts = [text for text in speech_texts("dev", 40, seed=3) if 3 <= len(text.split()) <= 8][:12]
    voices = spoken_by()
    requests = [SpeechRequest(text, voices[i % 8].voice, pitch=voices[i % 8].pitch) for i, text in enumerate(texts)]
    clips = speak(load_synthesizer("espeak"), requests, folder=tmp_path_factory.mktemp("clips"), marks=True)
    return [
        (AudioPart(path=str(clip)), text, [start_s for _, start_s in marks_of(clip) or ()])
        for clip, text in zip(clips, texts, strict=True)
    ]


def distance_s(marker: WordMarker, told: Told) -> float:
    found = marker.starts([part for part, _, _ in told], [text for _, text, _ in told])
    pairs = [
        pair for starts, (_, _, true) in zip(found, told, strict=True) for pair in zip(starts or (), true, strict=True)
    ]
    assert len(pairs) > 45
    return float(np.mean([abs(start - true) for start, true in pairs if start is not None]))


def test_marks_of_letters_are_within_40_ms_of_those_of_espeak(marker: WordMarker, told: Told) -> None:
    assert distance_s(marker, told) < 0.04


def test_an_encoder_that_spells_in_tokens_marks_within_80_ms(marker: WordMarker, told: Told) -> None:
    tokens = WordMarker(Tokens(marker.encoder), marker.tokenizer)  # type: ignore[arg-type]
    assert distance_s(tokens, told) < 0.08


def test_a_clip_is_marked_alike_alone_and_in_a_batch(marker: WordMarker, told: Told) -> None:
    parts, texts = [part for part, _, _ in told[:3]], [text for _, text, _ in told[:3]]
    assert marker.starts(parts, texts) == [marker.starts([p], [t])[0] for p, t in zip(parts, texts, strict=True)]


def test_capitals_and_marks_are_not_heard_and_a_word_without_letters_stays_unknown(
    marker: WordMarker, told: Told
) -> None:
    part, text, _ = told[0]
    first, *rest = text.split()
    (plain,), (dressed,) = (marker.starts([part], [t]) for t in (text, f"{first.upper()} -- {' '.join(rest)}!"))
    assert plain
    assert dressed
    assert dressed[1] is None
    assert [dressed[0], *dressed[2:]] == plain


def test_rows_are_marked_where_their_text_is_known_and_what_became_of_each_is_counted(
    marker: WordMarker, told: Told
) -> None:
    (part, text, _), (other, other_text, _) = told[0], told[1]
    heard = AudioPart(path=part.path, transcript=text)
    rows = [
        Conversation((user("Transcribe: ", part), assistant(text)), task="asr"),
        Conversation((user(heard), assistant(TextPart(other_text), other)), task="spoken_qa"),
        Conversation((user(part), assistant("yes")), task="spoken_qa"),
        Conversation((user(AudioPart(path=part.path, extra={"words": []})), assistant("yes"))),
        Conversation((user(AudioPart(path=part.path, transcript="much too long " * 40)), assistant("yes"))),
        Conversation((user(AudioPart(path=part.path, duration_s=0.5)), assistant(text, part))),
    ]
    counts: Counter[str] = Counter()
    first, answered, *others = marked_rows(rows, marker, counts)
    words = first.audio_parts[0].extra["words"]
    assert [word for word, _ in words] == text.split()
    assert [part.extra["words"] for part in answered.heard_parts] == [words]
    assert answered.spoken
    assert [word for word, _ in answered.spoken.extra["words"]] == other_text.split()
    assert others == rows[2:]
    assert +counts == {
        "marked": 3,
        "without a transcript": 2,
        "had marks": 1,
        "more letters than the recording has frames": 1,
        "cut from what is heard, so its words are not known: mark words before cutting": 1,
    }


def test_an_encoder_without_a_ctc_head_is_refused() -> None:
    with pytest.raises(ModelError, match="no CTC head"):
        WordMarker(object(), ChatTokenizer.from_folder(resolve_part("tiny/llm")))  # type: ignore[arg-type]


def test_the_verb_writes_marks_beside_transcripts_and_keeps_the_rest(tmp_path: Path, told: Told) -> None:
    from typer.testing import CliRunner

    from sonant.cli.main import app
    from sonant.data.manifest import Manifest, write

    part, text, true = told[2]
    write(tmp_path / "a.jsonl", [Conversation((user(part), assistant(text)), id="x", task="asr", extra={"kept": 1})])
    done = CliRunner().invoke(app, ["data", "mark-words", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
    assert done.exit_code == 0, done.output
    assert "1 marked" in done.output
    (row,) = Manifest(tmp_path / "b.jsonl")
    assert len(row.audio_parts[0].extra["words"]) == len(true)
    assert row.extra["kept"] == 1
