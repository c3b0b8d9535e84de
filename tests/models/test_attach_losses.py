"""SpeechMapper's second stage against plain loops over the LLM."""

import dataclasses
from typing import Any

import pydantic
import pytest
import torch
import torch.nn.functional as F
from small_speech_lm import HalvingEncoder, make_batch, small_llm
from torch import Tensor

from sonant.batch import Batch
from sonant.errors import ModelError, TrainingError
from sonant.models.adapters.base import build_adapter
from sonant.models.adapters.conv_transformer import ConvTransformerConfig
from sonant.models.adapters.stack_mlp import StackMLPConfig
from sonant.models.attach_losses import AttachConfig, AttachLoss, DistillConfig
from sonant.models.conv_transformer import ConvBlockConfig
from sonant.models.embedding_table import pad_vector
from sonant.models.losses import TokenLoss
from sonant.models.speech_lm import SpeechLM

# Two audios in a row, one before all text, text alone, one audio; 6, 8, 10 and 4 vectors for 4, 5, 6 and 3 tokens.
ROWS = [(9, [(2, 12), (6, 16)]), (5, [(0, 20)]), (12, []), (6, [(1, 8)])]
BLOCK = ConvBlockConfig(kernel=1, stride=1, num_layers=1, num_heads=2, ffn_dim=16)


def speech_lm(family: str = "llama") -> SpeechLM:
    """A frozen LLM and a projector of one vector a frame."""
    llm = small_llm(family).requires_grad_(False)
    adapter = build_adapter(ConvTransformerConfig(blocks=(BLOCK,), dropout=0.0), in_dims=[32], out_dim=64)
    return SpeechLM([HalvingEncoder().requires_grad_(False)], adapter, llm).train()


def read_ids(batch: Batch, row: int) -> tuple[Tensor, list[bool]]:
    """A row with the transcripts written in the place of its audio, and which tokens were there before."""
    ids, own = batch.token_ids[row, : batch.token_lengths[row]].tolist(), [True] * int(batch.token_lengths[row])
    for clip in reversed((batch.audio_row == row).nonzero().flatten().tolist()):
        place, said = (
            int(batch.audio_position[clip]),
            batch.transcript_ids[clip, : batch.transcript_lengths[clip]].tolist(),
        )
        ids[place:place], own[place:place] = said, [False] * len(said)
    return torch.tensor([ids]), own


def saying_the_transcript(model: SpeechLM, batch: Batch) -> SpeechLM:
    """The model, its projector already perfect: its vectors are the embeddings of what is said."""
    embeds = model.llm.get_input_embeddings()(batch.transcript_ids)
    adapter: Any = model.adapter
    adapter.forward = lambda frames, lengths: (embeds, batch.transcript_lengths)
    return model


def gradients(model: SpeechLM, loss: Tensor) -> list[Tensor]:
    model.zero_grad()
    loss.backward()
    return [weight.grad.clone() for weight in model.adapter.parameters() if weight.grad is not None]


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_vectors_equal_to_the_embeddings_of_the_text_give_exactly_the_texts_logits(family: str) -> None:
    batch = make_batch(ROWS)
    model = saying_the_transcript(speech_lm(family), batch).eval()
    with torch.no_grad():
        output = model(batch)
        for row in range(batch.num_rows):
            ids, own = read_ids(batch, row)
            expected = model.llm(input_ids=ids).logits[0]
            found = model.logits(output.hidden[row, : ids.shape[1]])
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
            is_audio = output.spliced.is_audio[row, : ids.shape[1]]
            assert is_audio.tolist() == [not mine for mine in own]
            without = output.spliced.labels[row, : ids.shape[1]][~is_audio]
            assert torch.equal(without, batch.token_ids[row, : batch.token_lengths[row]])


@pytest.mark.parametrize("distill", [None, DistillConfig(layers=(1, 2))])
def test_gradients_reach_the_projector_alone_and_all_of_it(distill: DistillConfig | None) -> None:
    model = speech_lm()
    AttachLoss(AttachConfig(sigma=0.5, distill=distill))(model, make_batch(ROWS)).total.backward()
    for name, parameter in model.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert reached == name.startswith("adapter."), name


def test_sigma_0_has_the_gradient_of_the_cross_entropy_sigma_1_that_of_the_squared_error() -> None:
    model, batch = speech_lm(), make_batch(ROWS)
    ce = gradients(model, TokenLoss()(model, batch).total)
    mse = gradients(model, squared_error_by_hand(model, batch, alpha=5.0))
    mixed = {}
    for sigma in (0.0, 0.3, 1.0):
        output = AttachLoss(AttachConfig(sigma=sigma))(model, batch)
        assert output.weight == batch.num_target_tokens
        assert set(output.parts) == {"ce"} if sigma == 0 else {"mse"} if sigma == 1 else {"ce", "mse"}
        mixed[sigma] = gradients(model, output.total)
    for zero, some, one, from_ce, from_mse in zip(mixed[0.0], mixed[0.3], mixed[1.0], ce, mse, strict=True):
        torch.testing.assert_close(zero, from_ce)
        torch.testing.assert_close(one, from_mse, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(some, 0.7 * from_ce + 0.3 * from_mse, atol=1e-6, rtol=1e-4)


def squared_error_by_hand(model: SpeechLM, batch: Batch, *, alpha: float) -> Tensor:
    """Clip by clip: tokens and the first pad, then the other pads; as heavy as the row's answer."""
    table = model.llm.get_input_embeddings().weight
    pad, total = pad_vector(table), torch.zeros(())
    vectors, lengths = model.hear(batch)
    for clip, row in enumerate(batch.audio_row.tolist()):
        said, size = batch.transcript_ids[clip, : batch.transcript_lengths[clip]], int(lengths[clip])
        wanted = torch.cat([table[said], pad.expand(size - len(said), -1)])
        errors = (vectors[clip, :size] - wanted).square().mean(1)
        words = len(said) + 1
        of_clip = alpha * errors[:words].mean()
        if size > words:
            of_clip = of_clip + (10 - alpha) * errors[words:].mean()
        total = total + of_clip * batch.loss_mask[row, 1:].sum() / (batch.audio_row == row).sum()
    return total


def test_the_squared_error_can_be_measured_in_the_scale_of_the_table() -> None:
    model, batch = speech_lm(), make_batch(ROWS)
    plain, scaled = (
        AttachLoss(AttachConfig(sigma=1.0, alpha=7.0, divide_by_rms=divide))(model, batch).total.item()
        for divide in (False, True)
    )
    assert plain == pytest.approx(squared_error_by_hand(model, batch, alpha=7.0).item(), rel=1e-5)
    mean_square = model.llm.get_input_embeddings().weight.square().mean().item()
    assert scaled == pytest.approx(plain / mean_square, rel=1e-5)


def test_nothing_is_left_to_distil_when_the_vectors_are_the_text() -> None:
    batch = make_batch(ROWS)
    model = saying_the_transcript(speech_lm(), batch)
    output = AttachLoss(AttachConfig(distill=DistillConfig(layers=(1, -1))))(model, batch)
    assert output.total.item() == pytest.approx(0.0, abs=1e-4)
    assert AttachLoss(AttachConfig(distill=DistillConfig(layers=(1,))))(speech_lm(), batch).total.item() > 0.1


def test_distillation_compares_states_and_predictions_as_a_loop_over_rows_does() -> None:
    model, batch = speech_lm(), make_batch(ROWS)
    hidden, logits = torch.zeros(()), torch.zeros(())
    with torch.no_grad():
        for row in range(batch.num_rows):
            alone = make_batch([ROWS[row]])
            ids, own = read_ids(batch, row)
            taught = model.llm(input_ids=ids, output_hidden_states=True)
            spliced = model.embed(alone)
            heard = model.llm(inputs_embeds=spliced.inputs_embeds, output_hidden_states=True)
            tokens = [place for place, mine in enumerate(own) if mine]
            mine = (~spliced.is_audio[0]).nonzero().flatten().tolist()
            pairs = list(zip(mine, tokens, strict=True))  # the places of each token, heard and read
            answer = float(alone.loss_mask[0, 1:].sum())
            if alone.num_audio:
                behind = pairs[int(alone.audio_position.min()) :]
                one, other = heard.hidden_states[1][0], taught.hidden_states[1][0]
                errors = [(one[a] - other[b]).square().sum() / other[b].square().sum() for a, b in behind]
                hidden = hidden + answer * torch.stack(errors).mean()
            for token, (a, b) in enumerate(pairs):
                if token and alone.loss_mask[0, token]:
                    logits = logits + F.kl_div(
                        heard.logits[0, a - 1].log_softmax(-1),
                        taught.logits[0, b - 1].log_softmax(-1),
                        log_target=True,
                        reduction="sum",
                    )
    output = AttachLoss(AttachConfig(distill=DistillConfig(layers=(1,), hidden=0.5, logits=2.0)))(model, batch)
    assert output.parts["hidden"][0].item() == pytest.approx(hidden.item(), rel=1e-4)
    assert output.parts["logits"][0].item() == pytest.approx(logits.item(), rel=1e-3)
    assert output.total.item() == pytest.approx(0.5 * hidden.item() + 2 * logits.item(), rel=1e-3)


@pytest.mark.parametrize(
    "config", [AttachConfig(sigma=0.9), AttachConfig(sigma=0.2, distill=DistillConfig(layers=(1, 2)))]
)
def test_the_sum_over_rows_alone_is_the_sum_over_the_batch(config: AttachConfig) -> None:
    model, loss = speech_lm(), AttachLoss(config)
    together = loss(model, make_batch(ROWS))
    alone = [loss(model, make_batch([row])) for row in ROWS]
    assert together.total.item() == pytest.approx(sum(output.total.item() for output in alone), rel=1e-4)
    assert together.weight == sum(output.weight for output in alone)


@pytest.mark.parametrize("config", [AttachConfig(sigma=1.0), AttachConfig(distill=DistillConfig(layers=(1,)))])
def test_a_batch_without_audio_or_answers_still_reaches_the_projector(config: AttachConfig) -> None:
    model, batch = speech_lm(), make_batch([(9, [])])
    AttachLoss(config)(model, batch).total.backward()
    assert all(weight.grad is not None and weight.grad.eq(0).all() for weight in model.adapter.parameters())
    silent = make_batch(ROWS)
    output = AttachLoss(config)(model, dataclasses.replace(silent, loss_mask=torch.zeros_like(silent.loss_mask)))
    assert output.total.item() == output.weight == 0


def test_what_cannot_be_taught_is_refused_by_name() -> None:
    batch = make_batch(ROWS)
    unknown = dataclasses.replace(batch, transcript_lengths=batch.transcript_lengths * torch.tensor([1, 0, 1, 1]))
    with pytest.raises(TrainingError, match="1 of 4 rows do not say what is spoken: 'row 0'; give their audio"):
        AttachLoss(AttachConfig(sigma=0.1))(speech_lm(), unknown)
    AttachLoss(AttachConfig())(speech_lm(), unknown)
    with pytest.raises(ModelError, match=r"distill.layers \[1, 12\]: the LLM has layers 1 to 2; \[12\] is not"):
        AttachLoss(AttachConfig(distill=DistillConfig()))(speech_lm(), batch)
    with pytest.raises(pydantic.ValidationError, match="distill teaches nothing"):
        DistillConfig(hidden=0.0, logits=0.0)
    adapter = build_adapter(StackMLPConfig(stack=1), in_dims=[32], out_dim=64)
    with pytest.raises(ModelError, match="StackMLPAdapter has no slot for each token; distil, or use"):
        AttachLoss(AttachConfig(sigma=0.1))(SpeechLM([HalvingEncoder()], adapter, small_llm()), batch)


@pytest.mark.recipe
@pytest.mark.parametrize(
    "config", [AttachConfig(sigma=0.9, divide_by_rms=True), AttachConfig(distill=DistillConfig(layers=(1, 2)))]
)
def test_a_projector_learns_from_either_loss(config: AttachConfig) -> None:
    torch.manual_seed(0)
    model, batch, loss = speech_lm(), make_batch(ROWS), AttachLoss(config)
    optimizer = torch.optim.Adam(model.adapter.parameters(), lr=3e-3)
    totals = []
    for _ in range(150):
        optimizer.zero_grad()
        total = loss(model, batch).total
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.5 * totals[0]
