import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tiny_models import TOKENIZER, tiny_speech_lm
from torch import Tensor

from sonant.audio.mel import MelSpec
from sonant.batch import collate
from sonant.chat.messages import AudioPart, Conversation, user
from sonant.errors import RequestError
from sonant.generate.assistant import Assistant
from sonant.generate.engine import decode
from sonant.generate.reply import SoundChunk, SpokenReply, TextPiece
from sonant.generate.sampling import GenerationConfig
from sonant.models.checkpoint import save_speech_lm
from sonant.models.speech_head.head import SpeechHead
from sonant.models.speech_head.states import SpokenStates
from sonant.models.vocoders.base import stream_windows
from sonant.models.vocoders.vocos import Vocos, VocosConfig
from sonant.testing import tone

MEL = MelSpec(num_mels=8)
CONFIG = GenerationConfig(max_new_tokens=12, seed=3)
SMALL = {"mel": {"num_mels": 8}, "prenet_dim": 8, "postnet_dim": 8, "max_seconds": 1.0, "max_seconds_per_letter": 0.02}
OWN = {**SMALL, "body": "own", "dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 16, "stop": True}
HEADS: dict[str, dict[str, Any]] = {
    "of its own": {**OWN, "speaker_encoder": 0, "prenet_dropout_at_test": True, "latent": True, "refine_layers": 2},
    "with a pointer": {**OWN, "pointer": True, "frames_per_step": 2, "arm": "energy"},
    "in the LLM": {**SMALL, "body": "llm", "stop": True},
}


class Buzz:
    """A vocoder with a context of one frame: the mean of three frames, held for a hop."""

    mel, context_frames = MEL, 1

    def __call__(self, mels: Tensor, lengths: Tensor) -> Tensor:
        real = torch.arange(mels.shape[1]) < lengths[:, None]
        level = torch.nn.functional.pad(mels.mean(-1) * real, (1, 1)).unfold(1, 3, 1).mean(-1) * real
        return level.repeat_interleave(self.mel.hop_length, dim=1)

    def stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        return stream_windows(self, chunks)


def clip(seconds: float) -> AudioPart:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(seconds, 300 + 100 * seconds), 16_000, format="WAV")
    return AudioPart(data=buffer.getvalue())


QUESTIONS = [
    Conversation((user("Say it: ", clip(0.1)),), id="a"),
    Conversation((user(clip(0.3), " and then ", clip(0.2), " please, now that is long"),), id="b"),
    Conversation((user("only text"),), id="c"),
]


def built(head: dict[str, Any] | None, **llm: Any) -> Assistant:
    model = tiny_speech_lm(llm=llm, speech_head=head)
    return Assistant(model, TOKENIZER, vocoder=None if head is None else Buzz())


@pytest.fixture(scope="module", params=HEADS)
def assistant(request: pytest.FixtureRequest) -> Assistant:
    return built(HEADS[request.param])


@pytest.fixture(scope="module")
def own() -> Assistant:
    return built(HEADS["of its own"])


def head_of(assistant: Assistant) -> SpeechHead:
    head = assistant.model.speech_head
    assert head is not None
    return head


def read_by(head: SpeechHead, monkeypatch: pytest.MonkeyPatch) -> list[SpokenStates]:
    """The states that `head` begins with, as it begins."""
    read: list[SpokenStates] = []
    begin = head.begin

    def begun(states: SpokenStates, **rest: Any) -> Any:
        read.append(states)
        return begin(states, **rest)

    monkeypatch.setattr(head, "begin", begun)
    return read


def same(one: SpokenReply, other: SpokenReply) -> None:
    assert (one.text, one.token_ids, one.text_finished) == (other.text, other.token_ids, other.text_finished)
    assert one.speech_finished == other.speech_finished
    np.testing.assert_allclose(one.mels, other.mels, atol=1e-4)
    np.testing.assert_allclose(one.samples, other.samples, atol=1e-4)


def test_an_answer_sounds_the_same_alone_and_in_a_batch_though_sound_is_drawn(assistant: Assistant) -> None:
    answers = ["so it is", "so", "it was in the box"]
    together = assistant.speak_all(QUESTIONS, config=CONFIG, answers=answers)
    for question, answer, one in zip(QUESTIONS, answers, together, strict=True):
        same(one, assistant.speak_all([question], config=CONFIG, answers=[answer])[0])
    assert len({len(reply.samples) for reply in together}) == 3  # rows leave the batch apart


def test_the_text_of_a_spoken_answer_is_the_written_one(assistant: Assistant) -> None:
    written = assistant.replies(QUESTIONS, config=CONFIG)
    spoken = assistant.speak_all(QUESTIONS, config=CONFIG)
    assert [(r.text, r.token_ids, r.finished) for r in written] == [
        (r.text, r.token_ids, r.text_finished) for r in spoken
    ]


def test_streamed_chunks_joined_are_the_whole_and_the_last_event_holds_all_of_it(assistant: Assistant) -> None:
    for question in QUESTIONS[1:]:
        whole = assistant.speak(question, config=CONFIG)
        *events, last = assistant.stream_speech(question, config=CONFIG)
        assert isinstance(last, SpokenReply)
        same(whole, last)
        assert "".join(event.text for event in events if isinstance(event, TextPiece)) == whole.text
        chunks = [event.samples for event in events if isinstance(event, SoundChunk)]
        np.testing.assert_allclose(np.concatenate(chunks), whole.samples, atol=1e-4)
        kinds = [type(event) for event in events]
        assert kinds == sorted(kinds, key=[TextPiece, SoundChunk].index)  # what is said has been written before


def test_the_first_sound_comes_while_frames_are_still_to_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    assistant = built({**OWN, "stop": False, "max_seconds_per_letter": None})
    head, made = head_of(assistant), [0]
    step = head.step

    def counted(*args: Any, **kwargs: Any) -> Any:
        made[0] += 1
        return step(*args, **kwargs)

    monkeypatch.setattr(head, "step", counted)
    counts = [
        made[0]
        for event in assistant.stream_speech(QUESTIONS[2], config=CONFIG)
        if isinstance(event, SoundChunk | SpokenReply)
    ]
    assert counts[0] == 20 < counts[-1] == 80  # the first quarter of a second, of one second


@torch.no_grad()
def test_states_of_the_pass_over_question_and_answer_are_those_in_which_it_was_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The state of a token is what the next one was drawn from: else a voice would read what it never learned."""
    own = built(HEADS["of its own"], initializer_range=0.2)  # larger weights make 1e-4 of the last bit of some states
    read = read_by(head_of(own), monkeypatch)
    never: frozenset[int] = frozenset()
    for question in QUESTIONS:
        steps = list(decode(own.model, collate([own.example(question)]), config=CONFIG, stop_ids=never))
        answer = TOKENIZER.decode([int(step.token_ids[0]) for step in steps])
        drawn_from = torch.stack([step.logits[0] for step in steps])[1:]
        own.speak_all([question], config=CONFIG)
        logits = own.model.logits(read[-1].hidden[0])
        spoken = slice(None, logits.shape[0]) if answer.split() else slice(0)
        torch.testing.assert_close(logits[: len(drawn_from)][spoken], drawn_from[spoken], atol=1e-4, rtol=1e-4)


def test_speech_that_does_not_end_is_cut_off_where_its_text_says_and_told(assistant: Assistant) -> None:
    head = head_of(assistant)
    never = head.advance if head.advance is not None else head.stop
    assert never is not None
    before = never.bias.detach().clone()
    try:
        never.bias.data.fill_(-1e4)
        short, long = assistant.speak_all([QUESTIONS[2]] * 2, answers=["abcd", "abcdefgh ijkl"])
        never.bias.data.fill_(1e4)
        (ended,) = assistant.speak_all([QUESTIONS[2]], answers=["a"])
    finally:
        never.bias.data.copy_(before)
    for reply, most_s in ((short, 0.02 * 5), (long, 0.02 * 14)):
        assert (reply.finished, reply.text_finished, reply.speech_finished) == (False, True, False)
        assert 0 <= reply.duration_s - most_s < head.step_s + 1e-6
    assert ended.finished


def test_only_what_follows_the_last_boundary_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assistant = built({**OWN, "spoken_after": " | "})
    read = read_by(head_of(assistant), monkeypatch)
    texts = ["heard | then | said so", "all of it", "nothing after | "]
    replies = assistant.speak_all([QUESTIONS[2]] * 3, answers=texts)
    assert [reply.spoken_text for reply in replies] == ["said so", "all of it", ""]
    letters = [bytes(row[row >= 0].tolist()).decode() for states in read for row in states.letters]
    assert letters == ["said so", "all of it"]
    assert read[0].token_word[0].tolist()[:7] == [0, 0, 0, 0, 0, 1, 1]  # bytes: " said so" without the space before
    assert len(replies[2].samples) == 0


def test_an_answer_without_a_letter_has_no_sound_and_is_finished(own: Assistant) -> None:
    silent, loud = own.speak_all(QUESTIONS[:2], answers=["  ", "so"], config=CONFIG)
    assert silent.samples.shape == (0,)
    assert silent.mels.shape == (0, 8)
    assert silent.finished
    same(loud, own.speak_all(QUESTIONS[1:2], answers=["so"], config=CONFIG)[0])


def test_the_same_seed_draws_the_same_sound_and_another_another(own: Assistant) -> None:
    first, again, other = (
        own.speak_all(QUESTIONS[:1], answers=["so it is"], config=GenerationConfig(seed=seed))[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.mels, again.mels)
    size = min(len(first.mels), len(other.mels))
    assert not np.allclose(first.mels[:size], other.mels[:size], atol=1e-3)


def test_without_lora_the_base_model_speaks_and_lora_is_back_while_its_stream_is_open(assistant: Assistant) -> None:
    with_lora = assistant.speak_all(QUESTIONS[:1], answers=["so"], config=CONFIG)[0]
    stream = assistant.stream_speech(QUESTIONS[0], config=CONFIG, lora=False)
    next(event for event in stream if isinstance(event, SoundChunk))
    same(with_lora, assistant.speak_all(QUESTIONS[:1], answers=["so"], config=CONFIG)[0])
    base = assistant.speak_all(QUESTIONS[:1], answers=["so"], config=CONFIG, lora=False)[0]
    size = min(len(base.mels), len(with_lora.mels))
    assert not np.allclose(base.mels[:size], with_lora.mels[:size], atol=1e-5)


def test_times_are_told_and_first_sound_only_of_a_stream(own: Assistant) -> None:
    whole = own.speak(QUESTIONS[0], config=CONFIG)
    *_, streamed = own.stream_speech(QUESTIONS[0], config=CONFIG)
    assert isinstance(streamed, SpokenReply)
    assert whole.first_sound_s is None
    assert streamed.first_sound_s is not None
    assert 0 < streamed.first_sound_s <= streamed.seconds
    assert whole.real_time_factor == whole.seconds / (len(whole.samples) / 16_000)


def test_a_model_without_a_voice_says_what_to_train_before_it_answers() -> None:
    silent = built(None)
    for ask in (silent.speak, lambda question: next(iter(silent.stream_speech(question)))):
        with pytest.raises(RequestError, match=r"no voice .* train spectron"):
            ask(QUESTIONS[2])
    assert silent.reply(QUESTIONS[2], config=CONFIG).text


def test_a_vocoder_for_other_mels_is_refused_with_both() -> None:
    assistant = built({**OWN, "mel": {"num_mels": 9}})
    with pytest.raises(RequestError, match="num_mels 9 against 8"):
        assistant.speak(QUESTIONS[2])


def test_speech_that_may_not_fit_the_llm_is_refused_with_all_numbers() -> None:
    assistant = built({**HEADS["in the LLM"], "max_seconds_per_letter": None}, max_position_embeddings=110)
    with pytest.raises(RequestError, match=r"speech may take 80 more; .* holds 110"):
        assistant.speak(QUESTIONS[2], config=CONFIG)


def test_a_model_folder_speaks_as_the_model_did(assistant: Assistant, tmp_path: Path) -> None:
    save_speech_lm(assistant.model, TOKENIZER, tmp_path / "model")
    loaded = Assistant.from_folder(tmp_path / "model", vocoder=Buzz())
    for one, other in zip(*(each.speak_all(QUESTIONS, config=CONFIG) for each in (assistant, loaded)), strict=True):
        same(one, other)


def test_a_vocoder_in_the_model_folder_is_the_models_own_and_its_chunks_joined_are_the_whole(
    own: Assistant, tmp_path: Path
) -> None:
    save_speech_lm(own.model, TOKENIZER, tmp_path / "model")
    Vocos(VocosConfig(mel=MEL, dim=8, num_layers=1, hidden_dim=8, steps=1)).save(tmp_path / "model" / "vocoder")
    loaded = Assistant.from_folder(tmp_path / "model")
    assert isinstance(loaded.voice.vocoder, Vocos)
    whole = loaded.speak(QUESTIONS[2], config=CONFIG)
    *_, streamed = loaded.stream_speech(QUESTIONS[2], config=CONFIG)
    assert isinstance(streamed, SpokenReply)
    assert np.abs(whole.samples).max() > 0
    np.testing.assert_allclose(streamed.samples, whole.samples, atol=1e-4)
