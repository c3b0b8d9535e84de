"""The speech head over true frames and step by step: nobody sees the future, padding, or another row."""

from typing import Any

import pytest
import torch
from small_speech_head import FRAME_S, MEL, OWN, POINTER, clips, even_starts, small_head, states
from torch import Tensor

from sonant.errors import ModelError
from sonant.models.speech_head.config import SpeechHeadConfig
from sonant.models.speech_head.draws import Draws
from sonant.models.speech_head.head import SpeechHead
from sonant.models.speech_head.states import SpokenFrames
from sonant.models.speech_head.word_pointer import ages, pointers

WORDS, FRAMES = [[3, 2, 4], [5, 2]], (23, 14)
BODIES: dict[str, dict[str, Any]] = {
    "faithful": {},
    "faithful, two frames a step, stop": {"frames_per_step": 2, "stop": True},
    "latent and refined": {"latent": True, "refine_layers": 2, "prenet_dropout_at_test": True},
    "own": OWN | {"stop": True},
    "pointer": POINTER | {"frames_per_step": 3, "prenet_dropout_at_test": True},
    "pointer, energy": POINTER | {"frames_per_step": 2, "arm": "energy", "noise_dim": 8},
    "pointer, energy around a mean": POINTER | {"frames_per_step": 2, "arm": "energy", "around_mean": True},
    "pointer, window, refined": POINTER | {"window": 3, "refine_layers": 3},
}
each_body = pytest.mark.parametrize("changes", BODIES.values(), ids=BODIES)


def forced(head: SpeechHead, words: Any = WORDS, frames: tuple[int, ...] = FRAMES, mels: Tensor | None = None) -> Any:
    made, lengths = clips(*frames)
    return head(
        states(words, context=head.config.body == "llm"),
        made if mels is None else mels,
        lengths,
        word_starts=even_starts(words, frames),
        seeds=[sum(row) for row in words],
    )


@each_body
def test_stepping_with_true_frames_fed_back_equals_the_pass_over_them(changes: dict[str, Any]) -> None:
    # The open re-implementation of Spectron fed hidden states back, which it had never seen in training (defect 5).
    head = small_head(**changes)
    mels, lengths = clips(*FRAMES)
    expected = forced(head)
    r, num_steps = head.config.frames_per_step, expected.last.shape[1]
    state = head.begin(states(WORDS, context=head.config.body == "llm"), seeds=[sum(row) for row in WORDS])
    state.most_steps = -(-lengths // r)
    truth = torch.nn.functional.pad(mels, (0, 0, 0, num_steps * r - mels.shape[1])).unflatten(1, (num_steps, r))
    if head.config.pointer:  # it is driven by its marks, too
        pointer = pointers(even_starts(WORDS, FRAMES), torch.tensor([3, 2]), state.most_steps, step_s=FRAME_S * r)
    for step in range(num_steps):
        if head.config.pointer:
            state.pointer, state.age = pointer[state.rows, step], ages(pointer)[state.rows, step]
            state.stay = torch.full((len(state.rows),), 1e9)
        head.stop = None if head.stop is None else torch.nn.Linear(head.stop.in_features, 1)
        if head.stop is not None:
            torch.nn.init.constant_(head.stop.bias, -1e9)
        made = head.step(state, true_frames=truth[state.rows, step])
        for line, row in enumerate(made.rows):
            found = (made.frames[line] - head.mean) / head.deviation
            torch.testing.assert_close(found, expected.output[row, step * r : (step + 1) * r], rtol=1e-4, atol=1e-5)
    assert not state.rows


@each_body
def test_a_frame_changes_no_step_up_to_its_own(changes: dict[str, Any]) -> None:
    head = small_head(**changes)
    mels, _ = clips(*FRAMES)
    before = forced(head)
    mels[0, 12] += 1.0
    after = forced(head, mels=mels)
    moved = (before.output[0] - after.output[0]).abs().amax(-1) > 1e-6
    own_step = 12 // head.config.frames_per_step
    first = (own_step + 1) * head.config.frames_per_step
    assert not moved[:first].any()
    assert moved[first : first + head.config.frames_per_step].any()


@each_body
def test_a_row_alone_is_the_row_in_a_padded_batch(changes: dict[str, Any]) -> None:
    head = small_head(**changes)
    both, alone = forced(head), forced(head, WORDS[1:], FRAMES[1:])
    for name in ("output", "stop_logits", "advance_logits", "mean"):
        whole, one = getattr(both, name), getattr(alone, name)
        if one is not None:
            torch.testing.assert_close(whole[1:, : one.shape[1]][..., : one.shape[-1]], one, rtol=1e-4, atol=1e-5)


@each_body
def test_a_row_is_spoken_alike_alone_and_beside_others(changes: dict[str, Any]) -> None:
    head = small_head(**changes, max_seconds_per_letter=3 * FRAME_S)
    for end in (head.stop, head.advance):
        if end is not None:
            torch.nn.init.constant_(end.bias, -1.0)
            torch.nn.init.zeros_(end.weight)
    together = spoken(head, WORDS, seeds=[4, 5])
    alone = spoken(head, WORDS[1:], seeds=[5])
    torch.testing.assert_close(together[1], alone[0], rtol=1e-4, atol=1e-4)
    assert len(together[0]) > len(together[1])


@each_body
def test_every_parameter_gets_a_finite_gradient(changes: dict[str, Any]) -> None:
    head = small_head(**changes).train()
    out = forced(head)
    ends = [out.output, out.other, out.mean, out.log_variance, out.stop_logits, out.advance_logits]
    sum(x.square().mean() for x in ends if x is not None).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_what_stands_in_padding_reaches_neither_frames_nor_gradients() -> None:
    head = small_head(**POINTER)
    mels, lengths = clips(*FRAMES)

    def gradients(padding: float) -> list[Tensor]:
        given = mels.clone()
        given[1, 14:] = padding
        head.zero_grad()
        out = head(states(WORDS), given, lengths, word_starts=even_starts(WORDS, FRAMES), seeds=[0, 1])
        (out.output[out.valid].square().sum() + out.advance_logits[out.steps].sum()).backward()
        return [p.grad.clone() for p in head.parameters() if p.grad is not None]

    torch.testing.assert_close(gradients(0.0), gradients(1e4))


def test_pre_and_post_net_are_not_linear() -> None:
    # Two linear layers in a row are one, as in the open re-implementation (defect 6).
    head = small_head()
    a, b = torch.randn(2, 1, 1, MEL.num_mels)
    assert not torch.allclose(head.prenet(a + b, Draws()), head.prenet(a, Draws()) + head.prenet(b, Draws()))
    a, b = torch.randn(2, 1, 1, 64)
    together, apart = head.postnet(a + b, Draws()), [head.postnet(x, Draws()).frames for x in (a, b)]
    assert not torch.allclose(together.frames, apart[0] + apart[1])


def test_always_on_dropout_makes_two_seeds_differ_and_one_seed_repeat() -> None:
    head = small_head(**POINTER, prenet_dropout_at_test=True, max_seconds=1.0)
    one, other, again = (spoken(head, WORDS[:1], seeds=[seed])[0] for seed in (1, 2, 1))
    size = min(len(one), len(other))
    assert not torch.allclose(one[:size], other[:size])
    assert torch.equal(one, again)
    silent = small_head(**POINTER, max_seconds=1.0)
    assert torch.equal(*(spoken(silent, WORDS[:1], seeds=[seed])[0] for seed in (1, 2)))


def test_a_latent_without_temperature_is_its_mean() -> None:
    drawn = small_head(latent=True, temperature=0.0).postnet(torch.randn(1, 3, 64), Draws([0]))
    net = small_head(latent=True).postnet.net
    torch.testing.assert_close(drawn.frames, drawn.mean + net(drawn.mean))


def test_two_frames_a_step_halve_the_steps_and_differ_within_a_group() -> None:
    head = small_head(**OWN, frames_per_step=2, max_seconds=0.5)  # 40 frames
    state, steps = head.begin(states(WORDS[:1]), seeds=[0]), []
    while state.rows:
        steps.append(head.step(state).frames)
    assert len(steps) == 20
    assert all(not torch.allclose(frames[0, 0], frames[0, 1]) for frames in steps)


def test_an_odd_clip_is_padded_to_whole_steps_and_what_is_added_counts_nothing() -> None:
    out: SpokenFrames = forced(small_head(frames_per_step=2), WORDS[:1], (23,))
    assert out.target.shape == (1, 24, 16)
    assert out.valid.sum() == 23
    assert not out.valid[0, 23]
    assert out.last.tolist() == [[False] * 11 + [True]]
    assert out.steps.sum() == 12


def test_speech_that_never_stops_is_cut_off_and_says_so() -> None:
    head = small_head(max_seconds=10 * FRAME_S)  # the published head has no rule to stop by
    state = head.begin(states(WORDS, context=True), seeds=[0, 1])
    done = [head.step(state).done for _ in range(10)]
    assert not state.rows
    assert not torch.cat(done).any()
    by_letters = small_head(max_seconds=10.0, max_seconds_per_letter=2 * FRAME_S)
    state = by_letters.begin(states(WORDS, context=True), seeds=[0, 1])
    assert state.most_steps.tolist() == [2 * (9 + 1), 2 * (7 + 1)]


def test_normalisation_is_of_the_data_and_undone_in_what_is_said() -> None:
    head = small_head(**OWN, normalise=True, max_seconds=0.1)
    mels, _ = clips(50, 40)
    head.fit_normalisation([mels[0], mels[1, :40]])
    every = torch.cat([mels[0], mels[1, :40]])
    torch.testing.assert_close(head.mean, every.mean(0))
    torch.testing.assert_close(head.deviation, every.std(0, unbiased=False))
    out = forced(head, WORDS[:1], (23,))
    torch.testing.assert_close(out.target * head.deviation + head.mean, clips(23)[0])
    with pytest.raises(ModelError, match="set normalise to true"):
        small_head().fit_normalisation([mels[0]])
    with pytest.raises(ModelError, match="no frames"):
        head.fit_normalisation([])


def test_a_speaker_changes_what_is_said_and_must_be_given_if_asked() -> None:
    head = small_head(**OWN, speaker_encoder=0, speaker_dim=8, max_seconds=0.1)
    said = states(WORDS, speaker=True)
    assert said.speaker is not None
    mels, lengths = clips(*FRAMES)
    other = states([[4, 2, 4], [5, 2]], speaker=True)
    swapped = type(said)(**{**vars(said), "speaker": other.speaker})
    assert not torch.allclose(head(said, mels, lengths).output[0], head(swapped, mels, lengths).output[0])
    with pytest.raises(ModelError, match="speaker vector"):
        head(states(WORDS), mels, lengths)
    with pytest.raises(ModelError, match="speaker_encoder=None"):
        small_head(speaker_dim=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pointer": True}, "body to own"),
        ({"latent": True, "arm": "energy"}, "choose one"),
        ({"refine_layers": 2, "arm": "energy"}, "set it to 0"),
        ({"around_mean": True}, "set arm to energy"),
        ({"body": "own", "dim": 30, "num_heads": 4}, "multiple of twice the heads"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpeechHeadConfig.model_validate(changes)


def spoken(head: SpeechHead, words: Any, *, seeds: list[int]) -> list[Tensor]:
    state = head.begin(states(words, context=head.config.body == "llm"), seeds=seeds)
    frames: list[list[Tensor]] = [[] for _ in words]
    while state.rows:
        step = head.step(state)
        for line, row in enumerate(step.rows):
            frames[row].append(step.frames[line])
    return [torch.cat(row) for row in frames]
