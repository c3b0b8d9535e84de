"""Losses: sums that add up over any split, right at every position, cheap in memory, honest about what cannot be."""

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_speech_lm import HalvingEncoder, make_batch, small_speech_lm
from torch import nn
from two_ranks import RANK_ROWS, ROWS, loss_model, run_rank

from sonant.batch import Batch
from sonant.errors import ModelError, TrainingError
from sonant.models.lora import LoraConfig, lora_disabled
from sonant.models.losses import CTCLoss, TokenLoss, unwrap
from sonant.models.speech_lm import SpeechLM
from sonant.train.distributed import Parallel

TASKS = ("asr", "chat", "asr", "")


def _by_hand(model: SpeechLM, batch: Batch) -> dict[int, float]:
    """Row -> sum of -log p of its supervised tokens, position by position in float64."""
    sums = {}
    with torch.no_grad():
        output = model(batch)
        log_probs = model.logits(output.hidden).double().log_softmax(-1)
    for row in range(batch.num_rows):
        s, total = output.spliced, 0.0
        for t in range(1, int(s.lengths[row])):
            if s.loss_mask[row, t]:
                total -= float(s.loss_mask[row, t] * log_probs[row, t - 1, s.labels[row, t]])
        sums[row] = total
    return sums


@pytest.mark.parametrize("chunk_tokens", [1, 4, 1000])
def test_the_loss_is_the_sum_computed_by_hand_and_split_by_task(chunk_tokens: int) -> None:
    model, batch = loss_model(), make_batch(ROWS, tasks=TASKS)
    expected = _by_hand(model, batch)
    output = TokenLoss(chunk_tokens=chunk_tokens)(model, batch)
    assert output.total.item() == pytest.approx(sum(expected.values()), rel=1e-5)
    assert output.weight == 3 + 4 + 2 + 5 == batch.num_target_tokens
    sums = {task: (total.item(), weight) for task, (total, weight) in output.parts.items()}
    assert sums == {
        "asr": (pytest.approx(expected[0] + expected[2], rel=1e-5), 5.0),
        "chat": (pytest.approx(expected[1], rel=1e-5), 4.0),
        "other": (pytest.approx(expected[3], rel=1e-5), 5.0),
    }


def test_the_sum_can_be_divided_by_prompts_and_answers_together() -> None:
    """WavLLM's code; what is predicted, and the sum, are the same."""
    model, batch = loss_model(), make_batch(ROWS, tasks=TASKS)
    output = TokenLoss(over="prompt_and_answer")(model, batch)
    assert output.total.item() == pytest.approx(sum(_by_hand(model, batch).values()), rel=1e-5)
    assert output.weight == 3 + 4 + 2 + 5 + sum(batch.prompt_lengths.tolist())
    assert min(batch.prompt_lengths) > 0


def test_chunks_give_the_same_gradients_as_all_at_once() -> None:
    gradients = []
    for chunk_tokens in (3, 1000):
        model = loss_model()
        TokenLoss(chunk_tokens=chunk_tokens, kl_weight=0.5)(model, make_batch(ROWS)).total.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_weights_of_the_mask_scale_the_loss() -> None:
    model, batch = loss_model(), make_batch(ROWS)
    half = dataclasses.replace(batch, loss_mask=batch.loss_mask * 0.5)
    whole, halved = TokenLoss()(model, batch), TokenLoss()(model, half)
    assert halved.total.item() == pytest.approx(whole.total.item() / 2, rel=1e-6)
    assert halved.weight == whole.weight / 2


def test_the_sum_over_batches_of_one_is_the_sum_over_the_batch() -> None:
    model = loss_model()
    together = TokenLoss()(model, make_batch(ROWS)).total.item()
    alone = sum(TokenLoss()(model, make_batch([row])).total.item() for row in ROWS)
    assert together == pytest.approx(alone, rel=1e-5)


def test_logits_are_made_for_supervised_positions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = loss_model(), []
    whole = model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: seen.append(hidden.shape) or whole(hidden))
    with torch.no_grad():
        TokenLoss(chunk_tokens=10)(model, make_batch(ROWS))
    assert [tuple(shape) for shape in seen] == [(10, 64), (4, 64)]


def test_without_targets_the_loss_is_zero_and_differentiable() -> None:
    model, batch = loss_model(), make_batch(ROWS)
    empty = dataclasses.replace(batch, loss_mask=torch.zeros_like(batch.loss_mask))
    output = TokenLoss(kl_weight=1.0)(model, empty)
    output.total.backward()
    assert output.total.item() == 0.0
    assert output.weight == 0.0
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_kl_is_that_of_text_rows_to_the_model_without_lora() -> None:
    model, batch = loss_model(), make_batch(ROWS)
    plain, output = TokenLoss()(model, batch), TokenLoss(kl_weight=0.1)(model, batch)
    with torch.no_grad():
        log_probs = model.logits(model(batch).hidden).log_softmax(-1)
        with lora_disabled(model):
            base = model.logits(model(batch).hidden).log_softmax(-1)
    divergence = (base.exp() * (base - log_probs)).sum(-1)
    # Rows 1 and 3 hold text alone: their last thirds are predicted from one position before.
    expected = divergence[1, 7:11].sum() + divergence[3, 9:14].sum()
    kl, weight = output.parts["kl"]
    assert weight == 9.0
    assert kl.item() == pytest.approx(expected.item(), rel=1e-4)
    assert kl > 1e-3
    assert output.total.item() == pytest.approx(plain.total.item() + 0.1 * expected.item(), rel=1e-5)


def test_kl_is_zero_before_lora_has_moved_and_on_rows_with_audio() -> None:
    fresh = small_speech_lm(lora=LoraConfig(rank=4)).train()
    fresh.adapter.eval()
    assert TokenLoss(kl_weight=1.0)(fresh, make_batch(ROWS)).parts["kl"][0].item() == pytest.approx(0.0, abs=1e-5)
    kl, weight = TokenLoss(kl_weight=1.0)(loss_model(), make_batch([ROWS[0]])).parts["kl"]
    assert (kl.item(), weight) == (0.0, 0.0)


def test_a_wrapped_model_is_unwrapped() -> None:
    model = nn.Linear(2, 2)
    assert unwrap(model) is model


def _ctc_batch(transcripts: list[list[int]], frames: list[int]) -> Batch:
    batch = make_batch([(len(t) + 2, [(1, 2 * n)]) for t, n in zip(transcripts, frames, strict=True)])
    token_ids, mask = batch.token_ids.clone(), torch.zeros_like(batch.loss_mask)
    for row, transcript in enumerate(transcripts):
        token_ids[row, 1 : len(transcript) + 2] = torch.tensor([*transcript, 49])  # 49 ends the turn
        mask[row, 1 : len(transcript) + 2] = 1.0
    return dataclasses.replace(batch, token_ids=token_ids, loss_mask=mask, tasks=("asr",) * len(transcripts))


def test_ctc_is_the_probability_of_all_alignments() -> None:
    torch.manual_seed(0)
    encoder, batch = HalvingEncoder(), _ctc_batch([[3, 4], [5, 5]], [3, 4])
    loss = CTCLoss(stop_ids={49})
    output = loss(encoder, batch)
    frames = encoder(batch.features[encoder.feature_spec], batch.feature_lengths[encoder.feature_spec])
    probabilities = encoder.ctc_logits(frames).detach().softmax(-1)
    expected = 0.0
    for row, (transcript, size) in enumerate([([3, 4], 3), ([5, 5], 4)]):
        total = 0.0
        for path in itertools.product([3, 4, 5, 50], repeat=size):
            collapsed = [key for key, _ in itertools.groupby(path) if key != 50]
            if collapsed == transcript:
                total += float(torch.stack([probabilities[row, t, k] for t, k in enumerate(path)]).prod())
        expected -= math.log(total)
    assert output.total.item() == pytest.approx(expected, rel=1e-4)
    assert output.weight == loss.weight(batch) == 4.0
    assert output.parts["asr"][1] == 4.0
    output.total.backward()
    assert encoder.input.weight.grad.any()


def test_ctc_refuses_rows_that_no_alignment_fits_and_names_them() -> None:
    batch = _ctc_batch([[3, 4], [5, 5], [6]], [2, 2, 1])  # a repeated token needs a blank in between
    with pytest.raises(TrainingError, match="1 of 3 rows cannot be aligned by CTC: 'row 1' needs 3 frames and has 2"):
        CTCLoss(stop_ids={49})(HalvingEncoder(), batch)


def test_ctc_wants_one_audio_a_row_and_a_head() -> None:
    with pytest.raises(TrainingError, match="'row 0' has 2, 'row 1' has 0"):
        CTCLoss(stop_ids=())(HalvingEncoder(), make_batch(ROWS[:2]))
    with pytest.raises(ModelError, match="Linear has no CTC head"):
        CTCLoss(stop_ids=())(nn.Linear(2, 2), make_batch(ROWS))


@pytest.mark.recipe
@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_two_ranks_of_text_and_audio_have_the_gradient_of_one_rank_on_both(how: Parallel, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_rank, (str(tmp_path), how), nprocs=2)
    model = loss_model().train()
    model.adapter.eval()
    TokenLoss(kl_weight=0.1)(model, make_batch(RANK_ROWS[0] + RANK_ROWS[1])).total.backward()
    expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_cross_entropy_of_torch_agrees_on_text_rows() -> None:
    model, batch = loss_model(), make_batch([ROWS[1]])
    with torch.no_grad():
        logits = model.llm(input_ids=batch.token_ids).logits
    expected = F.cross_entropy(logits[0, 7:11], batch.token_ids[0, 8:], reduction="sum")
    assert TokenLoss()(model, batch).total.item() == pytest.approx(expected.item(), rel=1e-5)
