"""What a speech head is taught by, against sums by hand; and the whole model with it, over any cut into batches."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_speech_head import MEL, POINTER, small_head, spoken_batch
from small_speech_lm import small_speech_lm
from torch import Tensor

from sonant.batch import Batch
from sonant.errors import ModelError, TrainingError
from sonant.models.losses import LossOutput, TokenLoss
from sonant.models.speech_head.config import SpeechLossConfig
from sonant.models.speech_head.losses import SpeechLoss, flux, frame_losses, kl_to_target, reconstruction
from sonant.models.speech_head.states import SpokenFrames
from sonant.models.speech_lm import SpeechLM

PUBLISHED = SpeechLossConfig()
ALL = torch.ones(1, 6, dtype=torch.bool)


def published_by_hand(x: Tensor, y: Tensor) -> float:
    """L_s + L_F + L_t of frames (F, M) by loops, K = 2, with means."""

    def l(a: list[float], b: list[float]) -> float:  # noqa: E743
        return sum(abs(p - q) + (p - q) ** 2 for p, q in zip(a, b, strict=True)) / len(a)

    def differences(z: list[list[float]], k: int, axis: str) -> list[float]:
        if axis == "bins":
            return [row[m + k] - row[m] for row in z for m in range(len(row) - k)]
        return [z[t + k][m] - z[t][m] for t in range(len(z) - k) for m in range(len(z[0]))]

    a, b = x.tolist(), y.tolist()
    total = l([v for row in a for v in row], [v for row in b for v in row])
    total += l(differences(a, 1, "bins"), differences(b, 1, "bins"))
    return total + sum(l(differences(a, k, "time"), differences(b, k, "time")) for k in (1, 2))


def test_with_all_options_off_the_loss_is_the_published_one() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 1, 6, 5)
    found = reconstruction(x, y, ALL, PUBLISHED)
    assert found.item() == pytest.approx(published_by_hand(x[0], y[0]), rel=1e-5)
    frames = SpokenFrames(target=y, valid=ALL, last=torch.zeros(1, 6).bool(), coarse=x)
    assert frame_losses(frames, PUBLISHED).keys() == {"mel"}
    assert frame_losses(frames, PUBLISHED)["mel"].item() == pytest.approx(found.item())


def test_a_lag_is_no_derivative() -> None:
    # D_2 z = z[t + 2] - z[t]; the second derivative of a square is constant, its lag-2 difference grows.
    only = SpeechLossConfig(l2=0, mel_deltas=(), time_deltas=(2,))
    square = (torch.arange(6.0) ** 2)[None, :, None]
    found = reconstruction(square, 0 * square, ALL, only)
    whole, lagged = sum(t**2 for t in range(6)) / 6, sum((t + 2) ** 2 - t**2 for t in range(4)) / 4
    assert found.item() == pytest.approx(whole + lagged)


def test_a_constant_moves_the_frames_alone_and_equality_costs_nothing() -> None:
    x = torch.randn(1, 6, 5)
    assert reconstruction(x, x, ALL, PUBLISHED).item() == 0
    assert reconstruction(x + 0.5, x, ALL, PUBLISHED).item() == pytest.approx(0.5 + 0.25, rel=1e-4)


def test_kl_and_flux_are_what_melle_says() -> None:
    y = torch.randn(1, 6, 5)
    assert kl_to_target(y, torch.zeros_like(y), y).abs().max() == 0
    mean, variance = torch.tensor(1.5), torch.tensor(0.25)
    truth = torch.distributions.Normal(0.5, 1.0)
    expected = torch.distributions.kl_divergence(torch.distributions.Normal(mean, variance.sqrt()), truth)
    assert kl_to_target(mean, variance.log(), torch.tensor(0.5)).item() == pytest.approx(expected.item())
    still, moving = y[:, :1].expand_as(y), y[:, :1] + torch.arange(6)[None, :, None]
    assert flux(still, still, ALL).item() == 0
    assert flux(moving, moving, ALL).item() == pytest.approx(-1)
    assert flux(2 * moving, moving, ALL) < flux(moving, moving, ALL)


def test_the_energy_is_least_for_samples_of_the_truth() -> None:
    # y is +1 or -1. Samples of that cost less than its mean does; a mean is what regression would give.
    torch.manual_seed(0)
    sign = torch.randint(2, (3, 4000, 1, 1)) * 2.0 - 1
    config = SpeechLossConfig()

    def cost(a: Tensor, b: Tensor) -> float:
        one = torch.ones(4000, 1, dtype=torch.bool)
        frames = SpokenFrames(target=sign[0], valid=one, last=one, coarse=a, other=b)
        return frame_losses(frames, config)["mel"].mean().item()

    assert cost(sign[1], sign[2]) == pytest.approx(1.0, abs=0.1)  # 1 + 1 - 1
    assert cost(0 * sign[0], 0 * sign[0]) == pytest.approx(2.0, abs=0.01)


def test_stop_and_pointer_are_means_over_steps_and_a_last_step_counts_a_hundredfold() -> None:
    logits = torch.tensor([[0.3, -0.7, 9.0]])
    frames = SpokenFrames(
        target=torch.zeros(1, 3, 2),
        valid=torch.tensor([[True, True, False]]),
        last=torch.tensor([[False, True, False]]),
        coarse=torch.zeros(1, 3, 2),
        stop_logits=logits,
        advance_logits=logits,
        advance=torch.tensor([[1.0, 1.0, 0.0]]),
    )
    parts, p = frame_losses(frames, PUBLISHED), logits.sigmoid()[0]
    assert parts["stop"].item() == pytest.approx((-(1 - p[0]).log() - 100 * p[1].log()).item() / 2, rel=1e-5)
    assert parts["pointer"].item() == pytest.approx(-(p[0].log() + p[1].log()).item() / 2, rel=1e-5)


ROWS = [(9, [(1, 12)], 9), (7, [(2, 8)], 0), (12, [(3, 10)], 16)]
BODIES: dict[str, dict[str, Any]] = {
    "faithful": {"stop": True, "frames_per_step": 2},
    "pointer": POINTER | {"frames_per_step": 2, "speaker_encoder": 0, "refine_layers": 2, "latent": True},
}
each_body = pytest.mark.parametrize("changes", BODIES.values(), ids=BODIES)
LOSS = SpeechLoss(TokenLoss(), SpeechLossConfig(flux=0.5))


def speaking(changes: dict[str, Any]) -> SpeechLM:
    model = small_speech_lm()
    speaker = model.speech_encoders[0].dim if "speaker_encoder" in changes else None
    model.speech_head = small_head(**changes, speaker_dim=speaker, prenet_dropout=0, temperature=0)
    return model.eval()


@each_body
def test_any_cut_into_batches_and_any_padding_gives_one_loss_and_one_gradient(changes: dict[str, Any]) -> None:
    # The open re-implementation summed its loss over padding too (defect 7).
    model = speaking(changes)

    def gradients(batches: list[Batch]) -> tuple[float, list[Tensor]]:
        model.zero_grad()
        outputs = [LOSS(model, batch) for batch in batches]
        total = torch.stack([out.total for out in outputs]).sum()
        total.backward()
        assert sum(out.weight for out in outputs) == sum(LOSS.weight(batch) for batch in batches)
        return total.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    together, grads = gradients([spoken_batch(ROWS)])
    apart, grads_apart = gradients([spoken_batch([row]) for row in ROWS])
    assert together == pytest.approx(apart, rel=1e-4)
    torch.testing.assert_close(grads, grads_apart, rtol=1e-3, atol=1e-4)


def test_divided_by_its_weight_the_loss_is_mean_text_loss_plus_mean_frame_loss() -> None:
    model, batch = speaking(BODIES["faithful"]), spoken_batch(ROWS[:1])
    out: LossOutput = SpeechLoss(TokenLoss(), PUBLISHED)(model, batch)
    text = TokenLoss()(model, batch)
    means = {name: total.item() / weight for name, (total, weight) in out.parts.items()}
    expected = text.total.item() / text.weight + means["mel"] + means["stop"]
    assert out.total.item() / out.weight == pytest.approx(expected, rel=1e-5)
    assert out.parts["test"] == text.parts["test"]


@each_body
def test_a_batch_in_which_nothing_is_said_still_reaches_every_parameter(changes: dict[str, Any]) -> None:
    model = speaking(changes).train()
    silent = spoken_batch([(*row[:2], 0) for row in ROWS])
    out = LOSS(model, silent)
    assert out.total.item() == pytest.approx(TokenLoss()(model, silent).total.item(), rel=1e-4)
    out.total.backward()
    assert model.speech_head is not None
    assert all(p.grad is not None and not p.grad.any() for p in model.speech_head.parameters())


def test_frames_stand_behind_the_end_of_the_text_and_each_target_is_predicted_from_the_frame_before() -> None:
    # Offsets off by one and one `eos` for text and speech: defects 3 and 4.
    model, batch = speaking({}), spoken_batch([(6, [(1, 8)], 3)])
    output = model(batch)
    states = model.spoken_states(batch, output)
    assert states.context is not None
    # row    t0 a a a a t1 t2 t3 t4 t5   t4 is spoken, t5 ends the text; then begin of speech, y0, y1
    assert states.context.lengths.tolist() == [10]
    torch.testing.assert_close(states.hidden[0, 0], output.hidden[0, 8])
    seen: list[Tensor] = []
    hook = model.llm.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    head, spoken = model.speech_head, batch.spoken
    assert head is not None
    assert spoken is not None
    frames = head(states, spoken.mels, spoken.mel_lengths)
    hook.remove()
    read = seen[0][0]
    assert len(read) == 10 + 3
    torch.testing.assert_close(read[:10], output.spliced.inputs_embeds[0, :10])
    torch.testing.assert_close(read[10], head.begin_of_speech)
    for t in (0, 1):
        torch.testing.assert_close(read[11 + t], head.prenet.outer(head.prenet.inner(spoken.mels[0, t]).relu()))
    for t in (0, 1, 2):
        state = model.llm.get_decoder()(inputs_embeds=seen[0][:, : 11 + t]).last_hidden_state[0, -1]
        torch.testing.assert_close(
            frames.coarse[0, t], head.postnet.outer(head.postnet.inner(state).relu()), rtol=1e-4, atol=1e-5
        )
    torch.testing.assert_close(frames.target[0], spoken.mels[0])
    # Without prompt and frames there is the text again, as one would write it.
    kept = output.spliced.labels[0][~output.spliced.is_audio[0]]
    assert kept.tolist() == batch.token_ids[0].tolist()
    assert not output.spliced.loss_mask[0, :5].any()


def test_the_speaker_is_the_last_clip_heard_before_the_answer() -> None:
    model = speaking(BODIES["pointer"])
    batch = spoken_batch([(9, [(1, 12), (3, 10), (8, 6)], 9), (7, [], 9), (8, [(1, 8)], 9)])
    said = batch.spoken
    assert said is not None
    output = model(batch)
    assert output.voices is not None
    states = model.spoken_states(batch, output)
    expected = torch.stack([output.voices[1], torch.zeros(32), output.voices[3]])
    torch.testing.assert_close(states.speaker, expected)
    features = next(iter(batch.features.values()))[1:2, :10]
    frames = model.speech_encoders[0](features, torch.tensor([10]))
    torch.testing.assert_close(output.voices[1], frames[0].mean(0))


@pytest.mark.parametrize(("form", "moved"), [("taught", True), ("read", False)])
def test_frames_teach_the_llm_only_if_they_may(form: str, moved: bool) -> None:
    model = speaking(POINTER | {"llm_states": form})
    SpeechLoss(TokenLoss(), SpeechLossConfig(text=0.0))(model, spoken_batch(ROWS)).total.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.llm.parameters()) == moved


def test_what_cannot_be_taught_is_refused_with_its_rows() -> None:
    batch = spoken_batch(ROWS)
    with pytest.raises(ModelError, match="no speech head"):
        LOSS(small_speech_lm(), batch)
    with pytest.raises(TrainingError, match="'row 0', 'row 2'"):
        LOSS(speaking({}), replace(batch, loss_mask=torch.zeros_like(batch.loss_mask)))
    unmarked = spoken_batch(ROWS, word_starts=torch.full((2, 1), float("nan")))
    with pytest.raises(TrainingError, match="words without a start"):
        LOSS(speaking(POINTER), unmarked)
    LOSS(speaking({}), unmarked)  # without a pointer nobody asks
    assert MEL.num_mels == 16
