"""The whole model: text stays itself, rows do not know each other, gradients go where they should."""

import dataclasses

import pytest
import torch
from small_speech_lm import SPEC, VOCABULARY, HalvingEncoder, make_batch, move_lora, small_llm, small_speech_lm
from torch import Tensor, nn

from sonant.batch import Batch
from sonant.errors import ModelError
from sonant.models.adapters.base import build_adapter
from sonant.models.adapters.ctc_pooling import CTCPoolingConfig
from sonant.models.adapters.stack_mlp import StackMLPConfig
from sonant.models.lora import LoraConfig, add_lora, lora_disabled
from sonant.models.losses import TokenLoss
from sonant.models.speech_lm import SpeechLM, align_frames, eval_mode

FAMILIES = ["llama", "qwen3", "gemma", "gemma3_text"]
# Two turns with audio, audio at both ends, text alone, two audios in one slot.
ROWS = [(9, [(2, 7), (6, 12)]), (5, [(0, 20), (5, 3)]), (12, []), (3, [(1, 4), (1, 9)])]


@pytest.mark.parametrize("family", FAMILIES)
def test_text_only_rows_get_the_logits_of_the_plain_llm(family: str) -> None:
    model = small_speech_lm(family)
    batch = make_batch([(12, []), (7, [])])
    with torch.no_grad():
        found = model.logits(model(batch).hidden)
        expected = model.llm(input_ids=batch.token_ids).logits
    torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found[1, :7], expected[1, :7], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_gets_the_same_logits_alone_and_in_a_mixed_batch(family: str) -> None:
    model = small_speech_lm(family, lora=LoraConfig(rank=4))
    move_lora(model)
    with torch.no_grad():
        together = model(make_batch(ROWS))
        for index, row in enumerate(ROWS):
            alone = model(make_batch([row]))
            size = int(alone.spliced.lengths[0])
            assert size == int(together.spliced.lengths[index])
            torch.testing.assert_close(
                model.logits(together.hidden[index, :size]), model.logits(alone.hidden[0]), atol=1e-5, rtol=1e-5
            )


def test_inputs_are_embedding_rows_at_text_and_adapter_output_over_spans() -> None:
    model = small_speech_lm("gemma")
    batch = make_batch(ROWS)
    with torch.no_grad():
        spliced = model.embed(batch)
        audio, lengths = model.hear(batch)
    assert lengths.tolist() == [4, 6, 10, 2, 2, 5]
    table = model.llm.get_input_embeddings().weight * 8.0  # Gemma: sqrt(64)
    segment = 0
    for row, (length, slots) in enumerate(ROWS):
        inside = spliced.attention_mask[row].bool()
        text = inside & ~spliced.is_audio[row]
        assert torch.equal(spliced.inputs_embeds[row, text], table[batch.token_ids[row, :length]])
        frames = [audio[segment + i, : lengths[segment + i]] for i in range(len(slots))]
        if frames:
            assert torch.equal(spliced.inputs_embeds[row, inside & spliced.is_audio[row]], torch.cat(frames))
        segment += len(slots)


def test_a_longer_second_audio_leaves_the_first_turn_unchanged() -> None:
    model = small_speech_lm()
    short, long = make_batch([(9, [(2, 7), (6, 2)])]), make_batch([(9, [(2, 7), (6, 30)])])
    first_turn = 6 + 4
    with torch.no_grad():
        one, other = model(short), model(long)
    torch.testing.assert_close(one.hidden[0, :first_turn], other.hidden[0, :first_turn], atol=1e-5, rtol=1e-5)


def test_the_first_backward_reaches_what_trains_and_nothing_else() -> None:
    model = small_speech_lm(lora=LoraConfig(rank=4, layout="fused")).train()
    TokenLoss()(model, make_batch(ROWS)).total.backward()
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            assert not parameter.grad.any(), name  # B is zero, so that A cannot matter yet
        elif "lora_B" in name or (name.startswith(("encoders", "adapter")) and "ctc_head" not in name):
            assert parameter.grad.any() or _cannot_matter(name), name
        else:
            assert parameter.grad is None, name


def _cannot_matter(name: str) -> bool:
    """A key's bias shifts all scores of a query alike, one before batch norm is subtracted again: no gradient."""
    return name.endswith(("k_proj.bias", "depthwise_conv.bias"))


def test_lora_disabled_gives_the_base_model_also_over_audio() -> None:
    base, model = small_speech_lm(), small_speech_lm(lora=LoraConfig(rank=4))
    move_lora(model)
    model.adapter.load_state_dict(base.adapter.state_dict())
    model.encoders.load_state_dict(base.encoders.state_dict())
    batch = make_batch(ROWS)
    with torch.no_grad():
        changed = model(batch).hidden
        with lora_disabled(model):
            assert torch.equal(model(batch).hidden, base(batch).hidden)
        assert not torch.allclose(changed, base(batch).hidden, atol=1e-3)


def test_frames_of_twice_the_rate_are_averaged_in_pairs_and_trimmed_to_the_shorter() -> None:
    fast = torch.tensor([[1.0, 3, 5, 7, 9], [2.0, 4, 6, 0, 0]])[..., None]
    slow = torch.tensor([[10.0, 20, 30, 40], [50.0, 0, 0, 0]])[..., None]
    frames, lengths = align_frames([fast, slow], [torch.tensor([5, 3]), torch.tensor([4, 1])], [50.0, 25.0])
    assert lengths.tolist() == [3, 1]
    assert frames.tolist() == [[[2, 10], [6, 20], [9, 30]], [[3, 50], [0, 0], [0, 0]]]


def test_other_rates_take_the_frame_nearest_in_time() -> None:
    fast = torch.arange(1.0, 7.0)[None, :, None]  # six frames at 15 Hz last as long as four at 10 Hz
    frames, lengths = align_frames([torch.zeros(1, 4, 1), fast], [torch.tensor([4]), torch.tensor([6])], [10.0, 15.0])
    assert lengths.tolist() == [4]
    # Centres at 0.05, 0.15, 0.25, 0.35 s fall into frames 0, 2, 3, 5 of 1/15 s.
    assert frames[0, :, 1].tolist() == [1, 3, 4, 6]


def test_nearest_frames_never_leave_the_clip() -> None:
    for length in range(1, 12):
        fast = torch.ones(1, length, 1)
        frames, lengths = align_frames(
            [fast, torch.zeros(1, 30, 1)], [torch.tensor([length]), torch.tensor([30])], [12.0, 10.0]
        )
        assert frames[0, : lengths[0], 0].tolist() == [1.0] * int(lengths[0])


def test_two_encoders_listen_at_once() -> None:
    torch.manual_seed(0)
    encoders = [HalvingEncoder(32), HalvingEncoder(16, frame_rate_hz=25.0)]
    encoders[1].output_lengths = lambda lengths: (lengths + 3) // 4  # type: ignore[method-assign]
    pool = encoders[1].forward
    encoders[1].forward = lambda features, lengths: pool(features, lengths)[:, ::2]  # type: ignore[method-assign]
    adapter = build_adapter(StackMLPConfig(stack=2), in_dims=[32, 16], out_dim=64)
    model = SpeechLM(encoders, adapter, small_llm()).eval()
    assert model.feature_specs == (SPEC,)
    with torch.no_grad():
        audio, lengths = model.hear(make_batch(ROWS))
        assert lengths.tolist() == [1, 2, 3, 1, 1, 2]
        alone, _ = model.hear(make_batch([ROWS[0]]))
        torch.testing.assert_close(audio[:2, :2], alone, atol=1e-6, rtol=1e-5)


def test_parts_that_do_not_fit_are_refused_with_the_widths() -> None:
    adapter = build_adapter(StackMLPConfig(), in_dims=[99], out_dim=64)
    with pytest.raises(ModelError, match=r"maps width 99 to 64.*in_dims=\[32\], out_dim=64"):
        SpeechLM([HalvingEncoder(32)], adapter, small_llm())
    with pytest.raises(ModelError, match="3 speech encoders"):
        SpeechLM([HalvingEncoder(32)] * 3, adapter, small_llm())
    batch = dataclasses.replace(make_batch(ROWS), features={}, feature_lengths={})
    with pytest.raises(ModelError, match="no features"):
        small_speech_lm()(batch)


def test_without_audio_a_silent_pass_gives_every_hearing_part_a_zero_gradient_and_text_still_trains() -> None:
    model = small_speech_lm(lora=LoraConfig(rank=4)).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    batch = make_batch([(9, []), (6, [])])
    output = TokenLoss()(model, batch)
    output.total.backward()
    for name, parameter in model.named_parameters():
        if name.startswith(("encoders", "adapter")) and "ctc_head" not in name:
            assert torch.equal(parameter.grad, torch.zeros_like(parameter)), name
    assert any(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if "lora_B" in n)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), f"{name} learnt from silence"
    assert model.training
    assert model.adapter.training
    assert output.total.item() == pytest.approx(TokenLoss()(model.eval(), batch).total.item(), rel=1e-6)


def test_every_micro_batch_gives_all_trained_parameters_gradients_and_the_llm_layers_theirs_in_one_order() -> None:
    """FSDP2 sends a layer's gradients when backward reaches its input: another order on one rank killed a run."""
    for what, batch in _kinds_of_batches().items():
        model = _pooling_model()
        reached = _reached_by_backward(model, batch)
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == [], what
        assert reached == [1, 0], what


def test_text_alone_can_be_differentiated_although_the_llm_is_frozen() -> None:
    model = small_speech_lm().train()
    model.llm.requires_grad_(False)
    TokenLoss(kl_weight=0.1)(model, make_batch([(9, [])])).total.backward()
    assert not any(p.grad.any() for p in model.adapter.parameters())


def _kinds_of_batches() -> dict[str, Batch]:
    audio, text = make_batch(ROWS), make_batch([(12, []), (7, [])])
    return {
        "audio": audio,
        "text only": text,
        "clips without a spike": dataclasses.replace(audio, features={SPEC: torch.zeros_like(audio.features[SPEC])}),
        "no target": dataclasses.replace(audio, loss_mask=torch.zeros_like(audio.loss_mask)),
        "text without target": dataclasses.replace(text, loss_mask=torch.zeros_like(text.loss_mask)),
    }


def _pooling_model() -> SpeechLM:
    """With the parts of the tiny preset: LoRA and CTC pooling are trained; in zeros nothing is heard."""
    torch.manual_seed(0)
    llm = small_llm()
    add_lora(llm, LoraConfig(rank=4))
    adapter = build_adapter(CTCPoolingConfig(vocab_size=VOCABULARY), in_dims=[32], out_dim=64)
    adapter.anchor(llm.get_input_embeddings().weight)
    encoder = HalvingEncoder().requires_grad_(False)
    with torch.no_grad():
        encoder.input.bias.zero_()
        adapter.ctc_head.bias.copy_(torch.arange(VOCABULARY + 1) == VOCABULARY)
    return SpeechLM([encoder], adapter, llm).train()


def _reached_by_backward(model: SpeechLM, batch: Batch) -> list[int]:
    """The LLM's layers, in the order in which the backward pass of the loss reaches their inputs."""
    reached: list[int] = []

    def watch(number: int, entered: Tensor) -> None:
        if entered.requires_grad:
            entered.register_hook(lambda gradient: reached.append(number))

    for number, layer in enumerate(model.llm.get_decoder().layers):
        layer.register_forward_pre_hook(lambda _, inputs, number=number: watch(number, inputs[0]))
    TokenLoss(kl_weight=0.1)(model, batch).total.backward()
    return reached


def test_ctc_pooling_gives_each_row_its_own_number_of_vectors() -> None:
    torch.manual_seed(0)
    adapter = build_adapter(CTCPoolingConfig(vocab_size=VOCABULARY), in_dims=[32], out_dim=64)
    llm = small_llm()
    adapter.anchor(llm.get_input_embeddings().weight)
    model = SpeechLM([HalvingEncoder()], adapter, llm).eval()
    batch = make_batch(ROWS)
    with torch.no_grad():
        together = model(batch)
        _, lengths = model.hear(batch)
        assert torch.equal(together.spliced.lengths, batch.token_lengths.index_add(0, batch.audio_row, lengths))
        alone = model(make_batch([ROWS[1]]))
    size = int(alone.spliced.lengths[0])
    torch.testing.assert_close(together.hidden[1, :size], alone.hidden[0], atol=1e-5, rtol=1e-5)


def test_eval_mode_is_left_part_by_part_also_after_an_exception() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    model[1].eval()
    with eval_mode(model):
        assert not any(part.training for part in model.modules())
    with pytest.raises(RuntimeError, match="inside"), eval_mode(model):
        raise RuntimeError("inside")
    assert model.training
    assert model[0].training
    assert not model[1].training
