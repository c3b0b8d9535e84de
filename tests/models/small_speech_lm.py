"""Stand-ins for the tests of models: an encoder that halves its input, hand-made batches, whole small models."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sonant.audio.features import FeatureSpec
from sonant.batch import Batch
from sonant.models.adapters.base import build_adapter
from sonant.models.adapters.conformer import ConformerConfig
from sonant.models.encoders.base import zero_padding
from sonant.models.llm import LLMConfig, load_llm
from sonant.models.lora import LoraConfig, add_lora
from sonant.models.speech_lm import SpeechLM

SPEC = FeatureSpec.tiny()
VOCABULARY = 50


class HalvingEncoder(nn.Module):
    """Two feature frames become one of width `dim`, by a linear layer and a convolution over time."""

    feature_spec = SPEC

    def __init__(self, dim: int = 32, *, frame_rate_hz: float = 50.0) -> None:
        super().__init__()
        self.dim, self.frame_rate_hz = dim, frame_rate_hz
        self.architecture: dict[str, Any] = {}
        self.input = nn.Linear(2 * SPEC.dim, dim)
        self.ctc_head = nn.Linear(dim, VOCABULARY + 1)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return (lengths + 1) // 2

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        features = nn.functional.pad(zero_padding(features, lengths), (0, 0, 0, features.shape[1] % 2))
        return zero_padding(
            torch.tanh(self.input(features.unflatten(1, (-1, 2)).flatten(2))), self.output_lengths(lengths)
        )

    def ctc_logits(self, frames: Tensor) -> Tensor:
        return self.ctc_head(frames)


def architecture(family: str = "llama", **changes: Any) -> dict[str, Any]:
    """Returns the settings of a random language model of two layers, 64 wide."""
    shape = {
        "model_type": family,
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return shape | changes


def small_llm(family: str = "llama", *, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    attention = "eager" if family == "gemma2" else "sdpa"  # its soft-capped attention has no fast kernel
    return load_llm(LLMConfig(architecture=architecture(family, **changes), attention=attention))


def small_speech_lm(family: str = "llama", *, lora: LoraConfig | None = None, seed: int = 0) -> SpeechLM:
    """Returns a model of which LoRA has already moved, so that it makes a difference."""
    llm = small_llm(family, seed=seed)
    encoder = HalvingEncoder()
    config = ConformerConfig(dim=32, num_layers=1, num_heads=4, dropout=0.0)
    adapter = build_adapter(config, in_dims=[32], out_dim=64)
    if lora is not None:
        add_lora(llm, lora)
    return SpeechLM([encoder], adapter, llm).eval()


def move_lora(model: nn.Module) -> None:
    """Gives every B random values: LoRA starts as no change at all."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)


def make_batch(
    rows: Sequence[tuple[int, Sequence[tuple[int, int]]]], *, seed: int = 0, tasks: Sequence[str] = ()
) -> Batch:
    """Returns a batch of rows given as (number of tokens, [(position, feature frames) of each audio]).

    The last third of each row is supervised. What a row holds depends on its number of tokens and its audios alone, so
    that the same row in another batch is the same.
    """
    ids, masks, audio, said = [], [], [], []
    for length, slots in rows:
        generator = torch.Generator().manual_seed(seed + 1000 * length)
        ids.append(torch.randint(VOCABULARY, (length,), generator=generator))
        masks.append((torch.arange(length) >= length - length // 3).float())
        audio += [torch.randn(frames, SPEC.dim, generator=generator) for _, frames in slots]
        said += [torch.randint(VOCABULARY, (1 + frames // 4,), generator=generator) for _, frames in slots]
    features = nn.utils.rnn.pad_sequence(audio, batch_first=True) if audio else torch.zeros(0, 0, SPEC.dim)
    return Batch(
        ids=tuple(f"row {i}" for i in range(len(rows))),
        tasks=tuple(tasks) or ("test",) * len(rows),
        token_ids=nn.utils.rnn.pad_sequence(ids, batch_first=True),
        token_lengths=torch.tensor([length for length, _ in rows]),
        loss_mask=nn.utils.rnn.pad_sequence(masks, batch_first=True),
        prompt_ids=nn.utils.rnn.pad_sequence([row[:2] for row in ids], batch_first=True),
        prompt_lengths=torch.tensor([min(length, 2) for length, _ in rows]),
        audio_row=torch.tensor([row for row, (_, slots) in enumerate(rows) for _ in slots], dtype=torch.int64),
        audio_position=torch.tensor([position for _, slots in rows for position, _ in slots], dtype=torch.int64),
        transcript_ids=nn.utils.rnn.pad_sequence(said, batch_first=True) if said else torch.zeros(0, 0).long(),
        transcript_lengths=torch.tensor([len(words) for words in said], dtype=torch.int64),
        features={SPEC: features},
        feature_lengths={SPEC: torch.tensor([len(a) for a in audio], dtype=torch.int64)},
        audio_duration_s=0.0,
    )
