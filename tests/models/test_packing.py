"""Packing: rows one behind the other give what each gives alone, in every family, forward and backward."""

from collections.abc import Iterator

import pytest
import torch
from small_speech_lm import small_llm
from torch import Tensor

from sonant.models.llm import final_hidden, token_embeddings
from sonant.models.lora import LoraConfig, add_lora, scaled_lora, wait_for_scale
from sonant.models.packing import Pack, reads_packs

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "granite", "cohere", "phi3", "olmo2"]
LENGTHS = (5, 12, 1, 7)


def rows(llm: object, lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    token_ids = torch.randint(1, 50, (len(lengths), max(lengths)))
    return token_embeddings(llm, token_ids), torch.tensor(lengths)  # type: ignore[arg-type]


def test_a_pack_holds_what_counts_and_gives_it_back() -> None:
    padded = torch.tensor([[1, 2, 3], [4, 0, 0], [5, 6, 0]])
    pack = Pack.of(torch.tensor([3, 1, 2]), 3)
    assert pack.pack(padded)[:, :6].tolist() == [[1, 2, 3, 5, 6, 4]]
    assert pack.position_ids[:, :6].tolist() == [[0, 1, 2, 0, 1, 0]]
    assert pack.of_rows(torch.tensor([7, 8, 9]))[:6].tolist() == [7, 7, 7, 9, 9, 8]
    assert torch.equal(pack.unpack(pack.pack(padded)), padded)


def test_rows_of_about_one_length_attend_side_by_side() -> None:
    pack = Pack.of(torch.tensor([4, 40, 0, 36, 31, 12]), 40)
    assert [(where, group.lengths, group.width) for where, group in pack.groups] == [
        (slice(0, 107), (40, 36, 31), 48),
        (slice(107, 119), (12,), 16),
        (slice(119, 123), (4,), 16),
    ]


@pytest.fixture
def matmul(request: pytest.FixtureRequest) -> Iterator[str]:
    """Two roads through attention on a CPU: its kernel, and products."""
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("family", "matmul"),
    [(family, "highest") for family in FAMILIES] + [("llama", "medium"), ("gemma3_text", "medium")],
    indirect=["matmul"],
)
@pytest.mark.usefixtures("matmul")
def test_packed_rows_have_the_hidden_states_and_gradients_of_each_alone(family: str) -> None:
    llm = small_llm(family).double()
    assert reads_packs(llm)
    embeds, lengths = rows(llm)
    together, apart = (embeds.detach().clone().requires_grad_() for _ in range(2))
    packed = final_hidden(llm, together, lengths)
    alone = [final_hidden(llm, apart[i : i + 1, :n])[0] for i, n in enumerate(LENGTHS)]
    for row, expected in zip(packed, alone, strict=True):
        torch.testing.assert_close(row[: len(expected)], expected)
        assert not row[len(expected) :].any()
    packed.square().sum().backward()
    torch.stack([row.square().sum() for row in alone]).sum().backward()
    torch.testing.assert_close(together.grad, apart.grad)


@pytest.mark.parametrize("matmul", ["highest", "medium"], indirect=True)
@pytest.mark.usefixtures("matmul")
def test_a_layer_that_sees_a_window_back_sees_no_further_in_a_pack() -> None:
    llm = small_llm("mistral", sliding_window=4)
    embeds, lengths = rows(llm)
    packed = final_hidden(llm, embeds, lengths)
    for i, n in enumerate(LENGTHS):
        torch.testing.assert_close(packed[i, :n], final_hidden(llm, embeds[i : i + 1, :n])[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(packed[1], final_hidden(small_llm("mistral"), embeds)[1], atol=1e-4)


def test_nothing_is_computed_for_padding() -> None:
    llm, seen = small_llm(), []
    llm.get_decoder().layers[0].mlp.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[:2]))
    embeds, lengths = rows(llm)
    final_hidden(llm, embeds, lengths)
    assert seen == [(1, 32)]  # 25 positions, filled up to a multiple of 32


def test_rows_of_one_length_stay_side_by_side() -> None:
    llm = small_llm()
    embeds, lengths = rows(llm, (6, 6))
    assert torch.equal(final_hidden(llm, embeds, lengths), final_hidden(llm, embeds))


def test_soft_capped_attention_has_no_fast_kernel_and_stays_padded() -> None:
    llm = small_llm("gemma2")
    embeds, lengths = rows(llm)
    assert not reads_packs(llm)
    assert torch.equal(final_hidden(llm, embeds, lengths), final_hidden(llm, embeds))


def test_a_family_whose_convolutions_would_mix_packed_rows_is_found_out_when_it_is_loaded() -> None:
    llm = small_llm("lfm2", layer_types=["conv", "full_attention"])
    assert not reads_packs(llm)
    embeds, lengths = rows(llm)
    assert torch.equal(final_hidden(llm, embeds, lengths), final_hidden(llm, embeds))


@pytest.mark.parametrize("depth", [1, 2])
def test_each_row_of_a_pack_keeps_its_own_scale_of_lora(depth: int) -> None:
    llm = small_llm()
    add_lora(llm, LoraConfig(rank=4))
    for name, parameter in llm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    shape = wait_for_scale(llm)
    embeds, lengths = rows(llm)
    scale = torch.rand(len(LENGTHS), depth, shape.dim)
    with scaled_lora(llm, scale):
        packed = final_hidden(llm, embeds, lengths)
    for i, n in enumerate(LENGTHS):
        with scaled_lora(llm, scale[i : i + 1]):
            alone = final_hidden(llm, embeds[i : i + 1, :n])
        torch.testing.assert_close(packed[i, :n], alone[0], atol=1e-5, rtol=1e-5)
