"""What is cached is what the model would have heard: alone, in a batch, averaged, and through the whole model."""

from pathlib import Path

import pytest
import torch

from sonant.audio.io import save
from sonant.batch import Batch, CachedFrames, collate, make_example
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data.frame_cache import FrameCache, write_frame_cache
from sonant.data.manifest import write
from sonant.errors import AudioError
from sonant.generate.assistant import Assistant
from sonant.generate.encode import clip_encoder, with_frames
from sonant.generate.sampling import GenerationConfig
from sonant.models.adapters.stack_mlp import StackMLPConfig
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.encoders.base import EncoderConfig
from sonant.models.llm import LLMConfig
from sonant.models.speech_lm import SpeechLM
from sonant.testing import byte_tokenizer, tone

TOKENIZER = byte_tokenizer()
ENCODER = {"vocab_size": 30, "dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 64, "letter_layer": 1}
LLM = {
    "model_type": "llama",
    "vocab_size": TOKENIZER.vocab_size,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def small_model(average: int) -> SpeechLM:
    torch.manual_seed(0)
    encoder = EncoderConfig(kind="tiny", architecture=ENCODER, average=average)
    config = SpeechLMConfig(encoders=(encoder,), adapter=StackMLPConfig(stack=2), llm=LLMConfig(architecture=LLM))
    return build_speech_lm(config)


@pytest.fixture
def rows(tmp_path: Path) -> list[Conversation]:
    for number, seconds in enumerate([0.33, 0.5, 0.71]):
        save(tmp_path / f"{number}.wav", tone(seconds, 300 + 100 * number), sample_rate_hz=16_000)
    clips = [AudioPart(str(tmp_path / f"{number}.wav")) for number in range(3)]
    rows = [Conversation((user(clip, "what?"), assistant("yes")), id=str(n)) for n, clip in enumerate(clips)]
    rows.append(Conversation((user(AudioPart(str(tmp_path / "2.wav"), 0.1, 0.4), "and?", clips[0]),), id="3"))
    write(tmp_path / "rows.jsonl", rows)
    return rows


def cache_of(model: SpeechLM, folder: Path, *, name: str = "cache", batch_s: float = 120.0) -> FrameCache:
    encode = clip_encoder(model.speech_encoders[0])
    write_frame_cache(
        [folder / "rows.jsonl"], folder / name, encode=encode, spec=model.encoded_specs[0], batch_s=batch_s
    )
    return FrameCache(folder / name)


def batch_of(model: SpeechLM, rows: list[Conversation], cache: FrameCache | None = None) -> Batch:
    cached: dict[object, CachedFrames] = {} if cache is None else {cache.spec: cache}
    return collate([make_example(row, TOKENIZER, model.specs_given(cached), cached=cached) for row in rows])  # type: ignore[arg-type]


@pytest.mark.parametrize("average", [1, 2])
def test_the_model_hears_the_same_from_the_cache(tmp_path: Path, rows: list[Conversation], average: int) -> None:
    """SpeechMapper, build spec section 9, test 9."""
    model = small_model(average)
    cache = cache_of(model, tmp_path)
    assert cache.spec.frame_rate_hz == 25 / average
    with torch.no_grad():
        heard, recalled = model(batch_of(model, rows)), model(batch_of(model, rows, cache))
    assert torch.equal(heard.spliced.lengths, recalled.spliced.lengths)
    torch.testing.assert_close(heard.hidden, recalled.hidden, atol=2e-3, rtol=0)


def test_answers_are_the_same_from_the_cache(tmp_path: Path, rows: list[Conversation]) -> None:
    model = small_model(1)
    cache = cache_of(model, tmp_path)
    config = GenerationConfig(max_new_tokens=8)
    questions = [row.prompt() for row in rows]
    heard = Assistant(model, TOKENIZER).replies(questions, config=config)
    recalled = Assistant(model, TOKENIZER, cached={cache.spec: cache}).replies(questions, config=config)
    assert [reply.token_ids for reply in heard] == [reply.token_ids for reply in recalled]


def test_frames_do_not_depend_on_the_batch_they_were_made_in(tmp_path: Path, rows: list[Conversation]) -> None:
    model = small_model(2)
    together = cache_of(model, tmp_path)
    alone = cache_of(model, tmp_path, name="alone", batch_s=0.01)
    for part in (part for row in rows for part in row.audio_parts):
        torch.testing.assert_close(together(part), alone(part), atol=2e-3, rtol=1e-3)  # an ulp of 16 bits


def test_a_clip_that_cannot_be_heard_is_named(tmp_path: Path) -> None:
    encode = clip_encoder(small_model(1).speech_encoders[0])
    with pytest.raises(AudioError, match=r"gone.wav"):
        encode([AudioPart(str(tmp_path / "gone.wav"))])


@pytest.mark.parametrize("average", [1, 2])
def test_rows_with_frames_are_heard_as_rows_with_features(rows: list[Conversation], average: int) -> None:
    model = small_model(average)
    rows = [*rows, Conversation((user("only text"), assistant("no")), id="4")]
    examples = [make_example(row, TOKENIZER, model.feature_specs) for row in rows]
    ahead = with_frames(model, examples)
    assert [set(example.features) for example in ahead] == [{*model.encoded_specs}] * len(rows)
    with torch.no_grad():
        heard, read = model(collate(examples)), model(collate(ahead))
        alone = model(collate(with_frames(model, examples[3:4])))
    assert torch.equal(heard.spliced.lengths, read.spliced.lengths)
    torch.testing.assert_close(heard.hidden, read.hidden, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone.hidden[0], heard.hidden[3, : alone.hidden.shape[1]], atol=1e-5, rtol=0)


def test_frames_that_a_cache_gave_stay_as_they_are(tmp_path: Path, rows: list[Conversation]) -> None:
    model = small_model(1)
    cache = cache_of(model, tmp_path)
    cached: dict[object, CachedFrames] = {cache.spec: cache}
    (example,) = [make_example(rows[3], TOKENIZER, [cache.spec], cached=cached)]  # type: ignore[arg-type]
    (ahead,) = with_frames(model, [example])
    for kept, given in zip(ahead.features[cache.spec], example.features[cache.spec], strict=True):
        assert kept is given
