"""Prompt-aware LoRA: what the written question says, hand-computed, in a batch as alone, in step on every road."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_speech_lm import make_batch, move_lora, small_llm, small_speech_lm
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from two_ranks import RANK_ROWS, loss_model, recompute_layers, run_rank

from sonant.batch import Batch
from sonant.errors import ModelError
from sonant.models.build import add_prompt_lora
from sonant.models.llm import final_hidden, last_layer_hidden, token_embeddings
from sonant.models.lora import LoraConfig, ScaleShape, lora_disabled, lora_layers, merge_lora, scaled_lora
from sonant.models.losses import TokenLoss
from sonant.models.prompt_lora import PromptAdapter, PromptLoraConfig
from sonant.models.speech_lm import SpeechLM
from sonant.train.distributed import Parallel

ROWS = [(9, [(2, 7), (6, 12)]), (12, []), (6, [(1, 4)])]
PROMPTS = [[7, 3, 9, 4, 11], [5], [8, 8, 2]]


def plain(alpha: float = 6.0) -> SpeechLM:
    model = small_speech_lm(lora=LoraConfig(rank=4, alpha=alpha))
    move_lora(model)
    return model


def scaled(*, moved: bool = True, checkpointing: bool = False, **settings: Any) -> SpeechLM:
    """A model whose prompt adapter has already learned something, unless it shall be as at the start."""
    model = plain()
    torch.manual_seed(5)
    add_prompt_lora(model, PromptLoraConfig(**settings))
    if moved and model.prompt_adapter is not None:
        with torch.no_grad():
            for parameter in model.prompt_adapter.parameters():
                parameter.normal_(std=0.3)
    if checkpointing:
        recompute_layers(model)
    return model


def asked(rows: Sequence[Any] = ROWS, prompts: Sequence[Sequence[int]] = PROMPTS, *, seed: int = 0) -> Batch:
    ids = pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    return dataclasses.replace(make_batch(rows, seed=seed), prompt_ids=ids, prompt_lengths=lengths)


def logits(model: SpeechLM, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model.logits(model(batch).hidden)


def scale_of(model: SpeechLM, batch: Batch) -> Tensor:
    with torch.no_grad():
        scale = model.lora_scale(batch)
    assert scale is not None
    return scale


def prompt_adapter(model: SpeechLM) -> PromptAdapter:
    assert model.prompt_adapter is not None
    return model.prompt_adapter


def set_scale(model: SpeechLM, value: float) -> None:
    """Makes s the same number everywhere, by v = the bias of W2."""
    with torch.no_grad():
        prompt_adapter(model).up.weight.zero_()
        prompt_adapter(model).up.bias.fill_(value)


@pytest.mark.parametrize("granularity", ["vector", "scalar", "layer"])
def test_the_residual_form_starts_as_the_model_of_stage_one_bit_by_bit(granularity: str) -> None:
    model = scaled(moved=False, granularity=granularity)
    assert torch.equal(scale_of(model, asked()), torch.ones_like(scale_of(model, asked())))
    assert torch.equal(logits(model, asked()), logits(plain(), asked()))


def test_the_start_is_equal_bit_by_bit_under_autocast_too() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(logits(scaled(moved=False), asked()), logits(plain(), asked()))


def test_the_last_matrix_learns_first_as_b_does_in_lora() -> None:
    model = scaled(moved=False)
    TokenLoss()(model, asked()).total.backward()
    adapter = prompt_adapter(model)
    assert not adapter.down.weight.grad.any()
    assert adapter.up.weight.grad.any()
    assert all(parameter.grad is not None for parameter in adapter.parameters())  # ranks exchange all of them


def test_the_clip_form_stays_between_0_and_3_and_reaches_both() -> None:
    model = scaled(form="clip")
    with torch.no_grad():
        prompt_adapter(model).up.weight.normal_(std=20.0)
    scale = scale_of(model, asked())
    assert (scale.min(), scale.max()) == (0.0, 3.0)


@pytest.mark.parametrize("form", ["clip", "residual"])
def test_the_scale_of_three_tokens_is_the_one_computed_by_hand(form: str) -> None:
    torch.manual_seed(0)
    adapter = PromptAdapter(PromptLoraConfig(form=form, hidden_dim=2), dim=3, shape=ScaleShape(1, (2,)))
    nn.init.normal_(adapter.up.weight)
    hidden = torch.randn(1, 3, 3)
    w1, b1, w2, b2 = (p.tolist() for layer in (adapter.down, adapter.up) for p in (layer.weight, layer.bias))
    z, weights = [], []
    for h in hidden[0].tolist():
        inner = [sum(w * x for w, x in zip(row, h, strict=True)) + b for row, b in zip(w1, b1, strict=True)]
        inner = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in inner]
        z.append([sum(w * x for w, x in zip(row, inner, strict=True)) + b for row, b in zip(w2, b2, strict=True)])
        said = sum(w * x for w, x in zip(adapter.attention.weight[0].tolist(), z[-1], strict=True))
        weights.append(math.exp(said + adapter.attention.bias.item()))
    v = [sum(weight * row[i] for weight, row in zip(weights, z, strict=True)) / sum(weights) for i in range(2)]
    expected = [min(max(x, 0), 3) if form == "clip" else 1 + math.tanh(x) for x in v]
    found = adapter(hidden, torch.tensor([3]))
    assert found.shape == (1, 1, 2)
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_a_scale_of_zero_or_lora_off_or_b_of_zero_gives_the_base_llm() -> None:
    base = logits(small_speech_lm(), asked())
    model = scaled(form="clip")
    assert not torch.allclose(logits(model, asked()), base, atol=1e-3)
    with lora_disabled(model.llm):
        assert torch.equal(logits(model, asked()), base)
    set_scale(model, -1.0)
    assert torch.equal(logits(model, asked()), base)
    set_scale(model, 2.0)
    with torch.no_grad():
        for layer in lora_layers(model.llm):
            layer.lora_B["default"].weight.zero_()
    assert torch.equal(logits(model, asked()), base)


def test_lora_switched_off_inside_a_scale_is_off_and_then_scaled_again() -> None:
    model, ids = scaled(), torch.arange(6)[None]
    base = small_llm()(input_ids=ids).logits
    with scaled_lora(model.llm, torch.full((1, 1, 1), 2.0)):
        before = model.llm(input_ids=ids).logits
        with lora_disabled(model.llm):
            assert torch.equal(model.llm(input_ids=ids).logits, base)
        assert torch.equal(model.llm(input_ids=ids).logits, before)


def test_without_a_scale_the_llm_refuses_to_run() -> None:
    with pytest.raises(ModelError, match="waits for a scale"):
        scaled().llm(input_ids=torch.arange(6)[None])


def test_the_fixed_form_multiplies_lora_by_its_number_and_can_be_merged() -> None:
    fixed, clip = scaled(form="fixed", scale=2.0), scaled(form="clip")
    assert fixed.prompt_adapter is None
    set_scale(clip, 2.0)
    expected = logits(fixed, asked())
    torch.testing.assert_close(logits(clip, asked()), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(plain(alpha=12.0), asked()), expected, atol=1e-5, rtol=1e-5)
    merge_lora(fixed.llm)
    torch.testing.assert_close(logits(fixed, asked()), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["clip", "residual"])
def test_a_lora_that_prompts_scale_is_not_merged_and_stays_whole(form: str) -> None:
    model = scaled(form=form)
    before = logits(model, asked())
    with pytest.raises(ModelError, match="each prompt gives it another scale"):
        merge_lora(model.llm)
    assert torch.equal(logits(model, asked()), before)


def test_the_scale_depends_on_the_prompt_alone() -> None:
    model = scaled()
    before = scale_of(model, asked())
    assert torch.equal(scale_of(model, asked(seed=9)), before)  # other audio, other text around
    with torch.no_grad():
        for layer in lora_layers(model.llm):
            layer.lora_B["default"].weight.mul_(3)
    assert torch.equal(scale_of(model, asked()), before)
    other = scale_of(model, asked(prompts=[PROMPTS[0], [6], PROMPTS[2]]))
    torch.testing.assert_close(other[[0, 2]], before[[0, 2]], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(other[1], before[1], atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma"])
def test_the_prompt_is_read_before_the_final_norm_or_after_it(family: str) -> None:
    llm, ids = small_llm(family), torch.tensor([PROMPTS[0]])
    embeds = token_embeddings(llm, ids)
    after = llm(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    found = last_layer_hidden(llm, embeds)
    assert torch.equal(final_hidden(llm, embeds), after)
    llm.get_decoder().norm = nn.Identity()
    before = llm(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(found, before)
    assert not torch.allclose(before, after, atol=1e-3)


def test_the_final_norm_is_a_setting_that_counts() -> None:
    without, with_norm = (scale_of(scaled(final_norm=norm), asked()) for norm in (False, True))
    assert not torch.allclose(without, with_norm, atol=1e-3)


@pytest.mark.parametrize("granularity", ["vector", "scalar", "layer"])
def test_rows_of_three_prompt_lengths_are_what_each_is_alone(granularity: str) -> None:
    model = scaled(granularity=granularity)
    together, scales = logits(model, asked()), scale_of(model, asked())
    for row, (length, audio) in enumerate(ROWS):
        alone = asked([(length, audio)], [PROMPTS[row]])
        torch.testing.assert_close(scale_of(model, alone)[0], scales[row], atol=1e-5, rtol=1e-5)
        found = logits(model, alone)[0]
        torch.testing.assert_close(together[row, : len(found)], found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("granularity", "shape"), [("scalar", (3, 1, 1)), ("vector", (3, 1, 192)), ("layer", (3, 2, 192))]
)
def test_a_scale_has_a_piece_for_each_width_or_layer(granularity: str, shape: tuple[int, ...]) -> None:
    """q, o and down_proj are 64 wide, k and v (grouped queries) 32, gate and up 96: 192 together."""
    assert scale_of(scaled(granularity=granularity), asked()).shape == shape


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_layer_gives_what_its_formula_says(num_layers: int) -> None:
    model = scaled()
    scale, x = torch.randn(2, num_layers, 192), torch.randn(2, 5, 64)
    layer = model.llm.get_decoder().layers[1]
    with torch.no_grad(), scaled_lora(model.llm, scale):
        for linear, piece in (
            (layer.self_attn.q_proj, slice(0, 64)),
            (layer.self_attn.k_proj, slice(64, 96)),
            (layer.self_attn.v_proj, slice(64, 96)),
            (layer.mlp.up_proj, slice(96, 192)),
        ):
            w, a, b = (part.weight for part in (linear.base_layer, linear.lora_A["default"], linear.lora_B["default"]))
            expected = torch.empty(2, 5, len(w))
            for row in range(2):
                s = scale[row, num_layers - 1, piece]
                for place in range(5):
                    expected[row, place] = w @ x[row, place] + s * (6 / 4) * (b @ (a @ x[row, place]))
            torch.testing.assert_close(linear(x), expected, atol=1e-5, rtol=1e-5)


def gradients(model: SpeechLM) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("granularity", ["vector", "layer"])
def test_computed_again_each_of_two_interleaved_batches_has_its_own_scale(granularity: str) -> None:
    """The published code keeps s on the module: the second forward would lend its s to the first backward."""
    batches = [asked(), asked(prompts=[[1, 2], [30, 31, 32, 33], [40]], seed=3)]
    kept = scaled(granularity=granularity)
    expected = []
    for batch in batches:
        TokenLoss()(kept, batch).total.backward()
        expected.append(gradients(kept))
    again = scaled(granularity=granularity, checkpointing=True)
    for part in (kept.llm, again.llm):
        part.train()  # the LLM alone: batch norm would see other frames
    losses = [TokenLoss()(again, batch).total for batch in batches]
    for loss, wanted in zip(losses, expected, strict=True):
        loss.backward()
        found = gradients(again)
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_a_layer_computed_again_may_go_backward_twice() -> None:
    model = scaled(checkpointing=True)
    model.llm.train()
    loss = TokenLoss()(model, asked()).total
    loss.backward(retain_graph=True)
    first = gradients(model)
    loss.backward()
    second = gradients(model)
    assert all(torch.equal(second[name], gradient) for name, gradient in first.items())


def test_the_kl_of_text_rows_is_to_the_llm_without_lora() -> None:
    model, batch = scaled(form="clip"), asked()
    output = TokenLoss(kl_weight=1.0)(model, batch)
    assert output.parts["kl"][0] > 1e-3
    output.total.backward()
    assert prompt_adapter(model).up.weight.grad.any()
    set_scale(model, -1.0)  # s == 0
    assert TokenLoss(kl_weight=1.0)(model, batch).parts["kl"][0].item() == pytest.approx(0, abs=1e-6)


def test_the_published_adapter_has_8_40_million_parameters() -> None:
    with torch.device("meta"):
        adapter = PromptAdapter(PromptLoraConfig(form="clip"), dim=4096, shape=ScaleShape(32, (4096,)))
    sizes = {name: parameter.numel() for name, parameter in adapter.named_parameters()}
    assert adapter.down.weight.shape == (1024, 4096)
    assert sum(sizes.values()) == 2 * 4096 * 1024 + 1024 + 4096 + 4097 == pytest.approx(8.40e6, abs=0.005e6)


@pytest.mark.recipe
@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_two_ranks_have_the_gradient_of_one_process(how: Parallel, tmp_path: Path) -> None:
    """The ranks also compute their layers again (gradient checkpointing); the one process keeps them."""
    torch.multiprocessing.spawn(run_rank, (str(tmp_path), how, True), nprocs=2)
    model = loss_model(prompt_lora=True).train()
    model.adapter.eval()
    TokenLoss(kl_weight=0.1)(model, make_batch(RANK_ROWS[0] + RANK_ROWS[1])).total.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert any("prompt_adapter" in name for name in expected)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            largest = max(1.0, float(gradient.abs().max()))
            assert float((found[name] - gradient).abs().max()) < 1e-5 * largest, name
