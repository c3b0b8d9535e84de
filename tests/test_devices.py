"""What runs on a GPU mixes nothing of the CPU into it: losses, decoding, voices and validation, on a pretended one.

No machine of ours has a GPU. Three recipes gave features on the CPU to a model on the GPU, and nobody saw it.
"""

import io
from contextlib import nullcontext
from typing import Any

import pytest
import soundfile
import torch
from pretend_gpu import OnGPU, PretendGPU, batch_on_gpu, model_on_gpu, on_gpu
from tiny_models import GROUPED, TINY, TOKENIZER, tiny_speech_lm

from sonant.batch import Batch, collate, make_example
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.errors import ModelError
from sonant.generate import engine
from sonant.generate.engine import RunningBatch, generate
from sonant.generate.recognizer import CTCRecognizer
from sonant.generate.sampling import GenerationConfig
from sonant.models.device import device_named
from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.load import load_encoder
from sonant.models.encoders.tiny_speaker import TinySpeakerEncoder
from sonant.models.losses import TokenLoss
from sonant.models.speech_lm import SpeechLM
from sonant.models.vocoders.vocos import Vocos, VocosConfig
from sonant.models.voice_losses import VoiceLoss, VoiceLossConfig, VoiceStudent, VoiceTruth
from sonant.recipes.tiny_speaker_encoder import _heard
from sonant.recipes.tiny_vocoder import mel_distances
from sonant.testing import tone

NEVER: frozenset[int] = frozenset()
SPEAKER_SHAPE = {"dim": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 16}
SPEAKER = {"kind": "tiny_speaker", "architecture": SPEAKER_SHAPE}
MODELS: dict[str, dict[str, Any]] = {
    "stacked frames": {"encoders": [TINY], "adapter": {"kind": "stack_mlp"}, "llm": GROUPED},
    "a waveform, and a prompt that scales LoRA": {"prompt_lora": {"form": "residual", "hidden_dim": 8}},
    "two encoders, pooled by CTC": {
        "encoders": [TINY, SPEAKER],
        "adapter": {"kind": "ctc_pooling", "soft_embedding": True, "voice_parts": 2},
    },
}
CONFIGS = [
    GenerationConfig(max_new_tokens=3),
    GenerationConfig(max_new_tokens=3, temperature=0.8, top_k=5, top_p=0.9, repetition_penalty=1.2, seed=1),
]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> PretendGPU:
    monkeypatch.setattr(engine, "fast_matmul", lambda *args, **kwargs: nullcontext("highest"))
    return PretendGPU()


def clip(duration_s: float) -> AudioPart:
    file = io.BytesIO()
    soundfile.write(file, tone(duration_s), 16_000, format="WAV")
    return AudioPart(data=file.getvalue(), transcript="beep")


def batch_for(model: SpeechLM, *, for_generation: bool = False) -> Batch:
    asked = (user("what is it? ", clip(0.8)), user(clip(0.4)), user("no sound at all"))
    rows = [
        Conversation(
            (turn, *([] if for_generation else [assistant("beep")])), id=str(i), task="asr" if i < 2 else "text"
        )
        for i, turn in enumerate(asked)
    ]
    specs = model.feature_specs
    return collate([make_example(row, TOKENIZER, specs, for_generation=for_generation) for row in rows])


@pytest.mark.parametrize("parts", MODELS.values(), ids=MODELS)
def test_a_loss_is_all_on_the_gpu(parts: dict[str, Any], gpu: PretendGPU) -> None:
    model = model_on_gpu(tiny_speech_lm(**parts))
    batch = batch_on_gpu(batch_for(model))
    with gpu:
        out = TokenLoss(kl_weight=1.0)(model, batch)
    assert isinstance(out.total, OnGPU)
    assert gpu.faults == []


@pytest.mark.parametrize("parts", MODELS.values(), ids=MODELS)
def test_answers_are_decoded_all_on_the_gpu(parts: dict[str, Any], gpu: PretendGPU) -> None:
    model = model_on_gpu(tiny_speech_lm(**parts))
    batch = batch_on_gpu(batch_for(model, for_generation=True))
    with gpu:
        answers = generate(model, batch, config=CONFIGS[1], stop_ids=NEVER)
    assert [len(answer) for answer in answers] == [3, 3, 3]
    assert gpu.faults == []


def test_rows_join_and_leave_all_on_the_gpu(gpu: PretendGPU) -> None:
    model = model_on_gpu(tiny_speech_lm(**MODELS["stacked frames"]))
    batch = batch_on_gpu(batch_for(model, for_generation=True))
    with gpu:
        running = RunningBatch(model, stop_ids=NEVER)
        running.join(batch, [*CONFIGS, CONFIGS[0]])
        running.step()
        running.join(batch, [CONFIGS[1], *CONFIGS])
        running.leave([0])
        while running.rows:
            running.step()
    assert gpu.faults == []


def test_a_recogniser_hears_where_its_encoder_is(gpu: PretendGPU) -> None:
    encoder = load_encoder(EncoderConfig(kind="tiny", architecture=TINY["architecture"] | {"vocab_size": 200}))
    recognizer = CTCRecognizer(model_on_gpu(encoder), TOKENIZER)  # type: ignore[type-var]
    with gpu:
        recognizer.transcribe([clip(0.5), clip(0.3)])
    assert gpu.faults == []


def test_a_vocoder_is_measured_where_it_is(gpu: PretendGPU) -> None:
    vocoder = model_on_gpu(Vocos(VocosConfig(dim=8, num_layers=1, hidden_dim=8, steps=1)))
    row = Conversation((user(clip(0.5)), assistant("beep")), id="beep")
    with gpu:
        distances = mel_distances(vocoder, {"dev": [row]})
    assert distances["dev"] > 0
    assert gpu.faults == []


def test_voices_are_told_apart_where_their_encoder_is(gpu: PretendGPU) -> None:
    encoder = TinySpeakerEncoder(EncoderConfig(kind="tiny_speaker", architecture=SPEAKER_SHAPE))
    student = model_on_gpu(VoiceStudent(encoder, num_speakers=3, num_throats=2, num_manners=4))
    rows = [Conversation((user(clip(1.2), clip(0.9)), assistant("yes")), id=str(i)) for i in range(2)]
    spec = encoder.feature_spec
    batch = batch_on_gpu(collate([make_example(row, TOKENIZER, [spec]) for row in rows]))
    truth = VoiceTruth(speakers=(0, 1), throats=(0, 1), manners=(0, 1))
    with gpu:
        out = VoiceLoss({"0": truth, "1": truth}, spec=spec, config=VoiceLossConfig())(student, batch)
        heard = _heard(student, batch, torch.Generator().manual_seed(0))
    assert isinstance(out.total, OnGPU)
    assert heard.shape == (2, 6)
    assert gpu.faults == []


def test_what_mixes_both_devices_is_found(gpu: PretendGPU) -> None:
    here = torch.arange(3)
    with gpu:
        there = on_gpu(torch.arange(3))
        assert (there + 1).device.type == "cuda"
        assert there.cpu().device.type == "cpu"
        assert torch.zeros(2, device=there.device).device.type == "cuda"
        assert gpu.faults == []
        _ = there * here, here[there], there.numpy()
    assert [fault.split(":")[0] for fault in gpu.faults] == ["mul", "__getitem__", "numpy"]


def test_a_device_is_found_by_name_and_refused_by_name() -> None:
    assert device_named("cpu") == torch.device("cpu")
    assert device_named("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ModelError, match=r"device 'gpu' cannot be used .*give auto, cpu, or cuda"):
        device_named("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="device 'cuda' cannot be used"):
            device_named("cuda")
