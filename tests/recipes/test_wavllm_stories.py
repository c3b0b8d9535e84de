"""WavLLM from the sound to the answer: each known defect of the published code is a story that ends well here.

Two encoders of the real strides (Whisper in windows of 30 s, WavLM uncut), the published adapter, LoRA; all of it tiny.
"""

import functools
import io
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sonant.batch import Batch, collate, make_example
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.cli.train import preset_path
from sonant.config import load_config
from sonant.errors import RequestError
from sonant.generate.assistant import Assistant
from sonant.generate.engine import decode
from sonant.generate.sampling import GenerationConfig
from sonant.models.adapters.base import Adapter
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.freeze import FreezePlan
from sonant.models.losses import TokenLoss
from sonant.models.speech_lm import SpeechLM
from sonant.recipes.wavllm import WavLLM, extended
from sonant.testing import byte_tokenizer

TOKENIZER = byte_tokenizer()
WHISPER = {
    "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 1, "encoder_ffn_dim": 32, "num_mel_bins": 80,
    "max_source_positions": 1500,
}  # fmt: skip
WAVLM = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32, "conv_dim": [4] * 7,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "vocab_size": TOKENIZER.vocab_size, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512, "initializer_range": 0.2,
}  # fmt: skip
ADAPTER = {"kind": "conv_glu", "dim": 16, "bottleneck_dim": 8, "branch_dim": 16}


def preset(name: str) -> WavLLM:
    return load_config(WavLLM, [preset_path("wavllm", name)])


def build(*, llm: dict[str, Any] | None = None, wavlm: dict[str, Any] | None = None, **more: Any) -> SpeechLM:
    """A random model of stage 1 whose LoRA has moved, as after training."""
    torch.manual_seed(0)
    values = {
        "encoders": [
            {"kind": "whisper", "architecture": WHISPER},
            {"kind": "wavlm", "architecture": WAVLM | (wavlm or {}), "weighted_states": True},
        ],
        "adapter": ADAPTER,
        "llm": {"architecture": LLAMA | (llm or {})},
        "lora": {"rank": 4, "alpha": 4, "dropout": 0.1, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    }
    model = build_speech_lm(SpeechLMConfig.model_validate(values | more))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.fixture(scope="module")
def model() -> SpeechLM:
    return build()


@functools.cache
def clip(seconds: float, seed: int = 0) -> AudioPart:
    buffer = io.BytesIO()
    samples = np.random.default_rng(seed).normal(size=round(16_000 * seconds)) * 0.1
    soundfile.write(buffer, samples.astype(np.float32), 16_000, format="WAV")
    return AudioPart(data=buffer.getvalue())


ROWS = [
    Conversation((user(clip(0.4), " write the words"), assistant("a dog")), id="asr"),
    Conversation((user("first ", clip(1.3, 1), " then say how"), assistant("words: no\nmanner: sad")), id="combined"),
    Conversation((user(clip(0.7, 2)), assistant("blue")), id="spoken query"),
    Conversation((user("what is the sky?"), assistant("blue")), id="text"),
]


def batch_of(model: SpeechLM, *rows: Conversation, for_generation: bool = False) -> Batch:
    return collate([make_example(r, TOKENIZER, model.feature_specs, for_generation=for_generation) for r in rows])


@torch.no_grad()
def test_generation_reads_the_training_sequence_and_the_first_logits_are_those_of_training(model: SpeechLM) -> None:
    """Defect 1: BOS stood behind the audio at inference where training had the first piece of the prompt."""
    asked = [row.prompt() for row in ROWS]
    trained, answered = batch_of(model, *ROWS), batch_of(model, *asked, for_generation=True)
    (step,) = decode(model, answered, config=GenerationConfig(max_new_tokens=1), stop_ids=frozenset())
    forced = model(trained)
    logits = model.logits(forced.hidden)
    for row, size in enumerate(answered.token_lengths.tolist()):
        assert trained.token_ids[row, :size].tolist() == answered.token_ids[row, :size].tolist()
        answer = TOKENIZER.encode_text(ROWS[row].reference)
        assert trained.token_ids[row, size : size + len(answer)].tolist() == answer
        first = int(forced.spliced.loss_mask[row].nonzero()[0])  # where the answer begins, audio included
        torch.testing.assert_close(step.logits[row], logits[row, first - 1], atol=1e-4, rtol=1e-4)


def test_a_long_prompt_still_gets_its_whole_answer_budget(model: SpeechLM) -> None:
    """Defect 2: prompt tokens were taken off the 512 of the answer."""
    prompt = Conversation((user(clip(0.4), "x" * 400),))
    config = GenerationConfig(max_new_tokens=48)
    steps = list(decode(model, batch_of(model, prompt, for_generation=True), config=config, stop_ids=frozenset()))
    assert len(steps) == 48


def test_audio_that_overflows_the_positions_of_the_llm_is_refused(model: SpeechLM) -> None:
    """Defect 3: beyond 2,048 positions nothing was said. Here text and answer fit; 150 vectors more do not."""
    long = Conversation((user(clip(12.0), "x" * 250),))
    with pytest.raises(RequestError, match="this LLM holds 512: shorten the audio or the text"):
        next(decode(model, batch_of(model, long, for_generation=True), config=GenerationConfig(), stop_ids=frozenset()))


@torch.no_grad()
def test_31_s_of_audio_are_388_vectors_alone_and_beside_a_longer_clip(model: SpeechLM) -> None:
    """Defect 5: a short last window of Whisper kept the frames of its padding. 388 = 375 + 13."""
    short, long = (Conversation((user(clip(seconds)),)) for seconds in (31.0, 45.0))
    alone, lengths = model.hear(batch_of(model, short))
    beside, both = model.hear(batch_of(model, short, long))
    assert lengths.tolist() == [375 + 13] == [model.audio_tokens(31.0)]
    assert both.tolist() == [388, model.audio_tokens(45.0)]
    assert model.audio_tokens(70.0) == 375 + 375 + 125
    torch.testing.assert_close(beside[0, :388], alone[0], atol=1e-4, rtol=1e-4)
    assert not beside[0, 388:].any()


def test_the_encoders_differ_by_at_most_one_vector_from_a_tenth_of_a_second_to_thirty(model: SpeechLM) -> None:
    whisper, wavlm = model.speech_encoders
    samples = torch.arange(1_600, 480_001, 397)
    mels = torch.tensor([whisper.feature_spec.num_frames(size) for size in samples.tolist()])
    frames = [whisper.output_lengths(mels), wavlm.output_lengths(samples)]
    adapter: Adapter = model.adapter  # type: ignore[assignment]
    vectors = [adapter.output_lengths(each) for each in frames]
    for found, each in zip(vectors, frames, strict=True):
        assert found.tolist() == [-(-size // 4) for size in each.tolist()]
    assert (vectors[0] - vectors[1]).abs().max() <= 1


@torch.no_grad()
def test_without_its_audio_a_row_is_its_text_and_the_loss_is_the_sum_by_hand_over_either_divisor(
    model: SpeechLM,
) -> None:
    batch = batch_of(model, *ROWS)
    output = model(batch)
    spliced, log_probs = output.spliced, model.logits(output.hidden).double().log_softmax(-1)
    total, num_answer = 0.0, 0
    for row, conversation in enumerate(ROWS):
        heard = spliced.is_audio[row, : int(spliced.lengths[row])]
        ids = spliced.labels[row, : len(heard)][~heard]
        assert ids.tolist() == batch.token_ids[row, : int(batch.token_lengths[row])].tolist()
        assert set(spliced.labels[row][spliced.is_audio[row]].tolist()) <= {-100}
        answer = [*TOKENIZER.encode_text(conversation.reference), TOKENIZER.end_of_turn_id]
        places = spliced.loss_mask[row].nonzero().flatten().tolist()
        assert spliced.labels[row, places].tolist() == answer  # neither prompt nor audio is predicted
        total -= sum(float(log_probs[row, place - 1, token]) for place, token in zip(places, answer, strict=True))
        num_answer += len(answer)
    num_prompt = sum(len('""' + text) for text in ("write the words", "first then say how", "", "what is the sky?"))
    for over, weight in (("answer", num_answer), ("prompt_and_answer", num_prompt + num_answer)):
        found = TokenLoss(over=over)(model, batch)  # type: ignore[arg-type]
        assert found.total.item() == pytest.approx(total, rel=1e-4)
        assert found.weight == weight


def test_a_model_of_stage_one_trains_and_answers() -> None:
    """Defect 7: LoRA without a prompt scale had no code path."""
    model = build()
    FreezePlan(preset("faithful").stage1.groups).apply(model)
    assert model.prompt_adapter is None
    TokenLoss(over="prompt_and_answer")(model.train(), batch_of(model, *ROWS)).total.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.any() for p in trained.values())
    assert Assistant(model, TOKENIZER).reply(ROWS[0].prompt(), config=GenerationConfig(max_new_tokens=3)).token_ids


def test_a_frozen_wavlm_hears_the_same_twice_in_training() -> None:
    """Defect 9: in train mode it would have masked, dropped out and skipped layers."""
    noisy = {"apply_spec_augment": True, "mask_time_prob": 0.5, "mask_time_length": 2, "mask_feature_prob": 0.5}
    model = build(wavlm=noisy | {"hidden_dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5})
    FreezePlan(preset("faithful").stage1.groups).apply(model)
    batch = batch_of(model, ROWS[1])
    wavlm = model.train().speech_encoders[1]
    spec = wavlm.feature_spec
    first, second = (wavlm(batch.features[spec], batch.feature_lengths[spec]) for _ in range(2))
    assert torch.equal(first, second)
    assert first.requires_grad  # its layer weights train all the same


def test_default_decoding_is_repeatable(model: SpeechLM) -> None:
    """Defect 10: ASR was sampled at temperature 0.5."""
    replies = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        replies.append(Assistant(model, TOKENIZER).reply(ROWS[1].prompt()))
    assert replies[0] == replies[1]
    assert GenerationConfig().temperature == 0


@torch.no_grad()
def test_a_row_without_audio_is_plain_chat_text(model: SpeechLM) -> None:
    """Defect 11: text rows had the embedding of token 0 in the place of frames."""
    row = ROWS[3]
    turns = [{"role": message.role, "content": message.parts[0].text} for message in row.messages]  # type: ignore[union-attr]
    plain = TOKENIZER.hf.apply_chat_template(turns, return_dict=False)
    alone = batch_of(model, row)
    assert alone.token_ids[0].tolist() == plain
    assert alone.num_audio == 0
    expected = model.llm(input_ids=torch.tensor([plain])).logits[0]
    torch.testing.assert_close(model.logits(model(alone).hidden)[0], expected, atol=1e-5, rtol=1e-5)
    together = model(batch_of(model, *ROWS))
    torch.testing.assert_close(model.logits(together.hidden[3, : len(plain)]), expected, atol=1e-4, rtol=1e-4)
    assert not together.spliced.is_audio[3].any()


@pytest.mark.parametrize("name", ["faithful", "best"])
def test_each_stage_trains_the_adapter_the_layer_weights_and_lora_of_attention(name: str) -> None:
    config = preset(name)
    assert config.stage2 is not None
    assert config.model.lora is not None
    model = build(lora=config.model.lora.model_dump() | {"rank": 2})

    def trained(groups: Any) -> set[str]:
        FreezePlan(groups).apply(model)
        return {n for n, p in model.named_parameters() if p.requires_grad}

    every = {n for n, _ in model.named_parameters()}
    expected = {n for n in every if n.startswith("adapter.")} | {"encoders.1.layer_weights"}
    expected |= {n for n in every if ".lora_" in n}
    assert trained(config.stage1.groups) == expected
    assert {n.split(".lora_")[0].split(".")[-1] for n in expected if ".lora_" in n} == set(config.model.lora.targets)
    assert set(config.model.lora.targets) == {"q_proj", "k_proj", "v_proj", "o_proj"}
    extended(model, config.stage2)
    adapter = {f"prompt_adapter.{part}.{kind}" for part in ("down", "up", "attention") for kind in ("weight", "bias")}
    assert trained(config.stage2.groups) == expected | adapter


def test_the_tiny_stages_train_the_adapter_lora_and_the_prompt_adapter() -> None:
    config = preset("tiny")
    assert config.stage2 is not None
    model = build_speech_lm(config.model)
    FreezePlan(config.stage1.groups).apply(model)
    first = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n in first if not n.startswith("adapter.")} == {
        n for n, _ in model.named_parameters() if "lora_" in n
    }
    assert "adapter.ctc_head.weight" not in first
    FreezePlan(config.stage2.groups).apply(extended(model, config.stage2))
    second = {n for n, p in model.named_parameters() if p.requires_grad}
    assert second - first == {n for n, _ in model.named_parameters() if n.startswith("prompt_adapter.")}
    assert first <= second


WORDS, BOTH = " words?", " first the words; then the manner"
BY_HEART = [(WORDS, "dog"), (WORDS, "red hen"), (WORDS, "a cat"), ("", "blue"), ("", "four")]
BY_HEART += [(BOTH, "w: fox\nm: sad"), (BOTH, "w: cow\nm: calm"), (BOTH, "w: dog\nm: angry")]
OVERFIT = [
    Conversation((user(clip(0.3, 10 + i), asked), assistant(said)), id=str(i))
    for i, (asked, said) in enumerate(BY_HEART)
]


@pytest.mark.recipe
@pytest.mark.parametrize("form", ["residual", "clip"])
def test_eight_rows_of_three_kinds_are_learnt_by_heart(form: str) -> None:
    """Transcription, a combined instruction, a spoken query: through both stages, all parts together."""
    config = preset("best" if form == "residual" else "faithful")
    assert config.stage2 is not None
    model = build(lora={"rank": 8, "alpha": 8, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]})
    batch = batch_of(model, *OVERFIT)
    for stage, steps in ((config.stage1, 100), (config.stage2, 250)):
        groups = FreezePlan(stage.groups).apply(extended(model, stage))
        optimizer = torch.optim.Adam([p for group in groups for p in group["params"]], lr=5e-3)
        model.train()
        for _ in range(steps):
            optimizer.zero_grad()
            found = TokenLoss(over=config.loss_over)(model, batch)
            (found.total / found.weight).backward()
            optimizer.step()
    said = Assistant(model, TOKENIZER).replies([row.prompt() for row in OVERFIT])
    assert [reply.text for reply in said] == [row.reference for row in OVERFIT]
    assert all(reply.finished for reply in said)
