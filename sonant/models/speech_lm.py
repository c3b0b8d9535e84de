"""The speech language model: encoders hear, an adapter translates, a language model reads and answers.

features ──encoder──▶ frames ─┐
features ──encoder──▶ frames ─┴─aligned──adapter──▶ audio ─┐
                                             token_ids ──▶ splice ──LLM──▶ hidden ──head──▶ logits
                                                                             └───speech head──▶ log mel frames
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from sonant.audio.features import FeatureSpec
from sonant.audio.mel import MelSpec
from sonant.batch import Batch
from sonant.config import Config
from sonant.errors import ModelError
from sonant.models.adapters.base import Adapter
from sonant.models.encoders.averaged import mean_of_frames
from sonant.models.encoders.base import SpeechEncoder, zero_padding
from sonant.models.encoders.identity import encoded_spec
from sonant.models.llm import final_hidden, last_layer_hidden, next_token_logits, token_embeddings
from sonant.models.lora import lora_disabled, scaled_lora
from sonant.models.prompt_lora import PromptAdapter
from sonant.models.speech_head.head import SpeechHead
from sonant.models.speech_head.reading import context_lengths, last_heard, read_spoken, silent_states
from sonant.models.speech_head.states import LLMContext, SpokenStates
from sonant.models.splice import Slots, Spliced, splice

_SILENCE_S = 0.5  # of the dummy pass that keeps ranks in step; longer than any encoder's receptive field needs


@dataclass(frozen=True, eq=False)
class SpeechLMOutput:
    """What the LLM made of a batch, before its head: logits of every position would not fit at large vocabularies."""

    hidden: Tensor  # (B, L, D)
    spliced: Spliced
    voices: Tensor | None = None  # (A, V) who speaks in each clip, where a speech head asks
    scale: Tensor | None = None  # of each row's LoRA


@dataclass(frozen=True, eq=False)
class _Heard:
    """The clips of a batch as the LLM reads them: (A, T, D), of which lengths (A,) count; voices (A, V) if asked."""

    audio: Tensor
    lengths: Tensor
    voices: Tensor | None


class SpeechLM(nn.Module):
    """One or two speech encoders, an adapter and a causal language model, each replaceable.

    With a prompt adapter the written question scales LoRA, row by row.

    Raises: ModelError if the widths of the parts do not fit together.
    """

    def __init__(
        self,
        encoders: Sequence[SpeechEncoder],
        adapter: Adapter,
        llm: PreTrainedModel,
        *,
        config: Config | None = None,
        own_parts: Iterable[str] = (),
    ) -> None:
        super().__init__()
        if not 1 <= len(encoders) <= 2:
            raise ModelError(f"{len(encoders)} speech encoders; a model listens with one or two")
        heard, read = [encoder.dim for encoder in encoders], llm.get_input_embeddings().embedding_dim
        if adapter.in_dim != sum(heard) or adapter.out_dim != read:
            raise ModelError(
                f"the adapter maps width {adapter.in_dim} to {adapter.out_dim}, but the encoders give {sum(heard)} "
                f"and the LLM reads {read}; build the adapter with in_dims={heard}, out_dim={read}"
            )
        self.encoders = nn.ModuleList(cast("list[nn.Module]", list(encoders)))
        self.adapter = cast("nn.Module", adapter)
        self.llm = llm
        self.prompt_adapter: PromptAdapter | None = None  # see `sonant.models.build.add_prompt_lora`
        self.speech_head: SpeechHead | None = None  # see `sonant.models.build.add_speech_head`
        self.config = config  # how `build_speech_lm` made it; what a checkpoint records
        self.own_parts = frozenset(own_parts)  # parts whose weights differ from where `config` says they come from

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SpeechLM":
        """Moves or casts all there is; a table of embeddings that the adapter shares with the LLM stays shared."""
        adapter: Any = getattr(self, "adapter", None)  # an LLM that learns alone has none
        table, weight = getattr(adapter, "table", None), self.llm.get_input_embeddings().weight
        if table is None or isinstance(weight, DTensor) or table.data_ptr() != weight.data_ptr() or table.is_meta:
            return super()._apply(fn, recurse)
        adapter.table = None  # else it would be copied
        super()._apply(fn, recurse)
        adapter.table = self.llm.get_input_embeddings().weight.detach()[: len(table)]
        return self

    @property
    def speech_encoders(self) -> list[SpeechEncoder]:
        """The encoders, in the order in which their frames are put side by side."""
        return cast("list[SpeechEncoder]", list(self.encoders))

    @property
    def beside_llm(self) -> list[nn.Module]:
        """Everything but the LLM."""
        return [part for name, part in self.named_children() if name != "llm"]

    @property
    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        """The features a batch must hold, without repetition."""
        return self.specs_given(())

    @cached_property
    def encoded_specs(self) -> tuple[FeatureSpec, ...]:
        """The frames of each encoder, in their order, as a cache may hold them.

        Named by the weights at the first use; an encoder that trains has none (see `hear`).
        """
        return tuple(map(encoded_spec, self.speech_encoders))

    def specs_given(self, cached: Collection[FeatureSpec]) -> tuple[FeatureSpec, ...]:
        """Returns what rows are made with: an encoder's frames where `cached` has them, else the features it reads.

        `make_example(row, tokenizer, model.specs_given(cached), cached=cached)` makes rows of both kinds.

        Raises: ModelError if `cached` has frames of an encoder that is not this model's as it is now.
        """
        return tuple(dict.fromkeys(self._specs(cached)))

    def _specs(self, cached: Collection[FeatureSpec]) -> list[FeatureSpec]:
        """One for each encoder, in their order."""
        heard = [encoder.feature_spec for encoder in self.speech_encoders]
        frames = [spec for spec in cached if spec.kind == "encoded"]
        if not frames:
            return heard
        if strangers := [spec for spec in frames if spec not in self.encoded_specs]:
            raise ModelError(
                f"cached frames of {_listed(strangers)}, but this model listens with {_listed(self.encoded_specs)}; "
                "cache the frames of this encoder ('sonant data cache-features'), or leave the cache out"
            )
        return [mine if mine in frames else spec for mine, spec in zip(self.encoded_specs, heard, strict=True)]

    @property
    def voice_spec(self) -> MelSpec | None:
        """Returns the mels that the model speaks; None if it only writes."""
        return None if self.speech_head is None else self.speech_head.mel

    @property
    def positions(self) -> int | None:
        """Returns how many tokens and frames a row may hold; None if the LLM sets no limit."""
        return getattr(self.llm.config, "max_position_embeddings", None)

    def audio_tokens(self, duration_s: float) -> int:
        """Returns the positions that a clip takes in the LLM, at most: asked of the encoders and the adapter."""
        frames = []
        for encoder in self.speech_encoders:
            spec = encoder.feature_spec
            num_features = spec.num_frames(round(duration_s * spec.sample_rate_hz))
            frames.append(encoder.output_lengths(torch.tensor([num_features])))
        adapter = cast(Adapter, self.adapter)
        return int(adapter.output_lengths(torch.stack(frames).amin(0)))

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of every part; an encoder that is frozen, or trains `layer_weights` alone, stays in eval mode.

        Dropout inside it would be noise that nothing learns to live with.
        """
        super().train(mode)
        for encoder in self.encoders:
            if not any(p.requires_grad for name, p in encoder.named_parameters() if name != "layer_weights"):
                encoder.eval()
        return self

    def mark_trained(self) -> None:
        """Adds every part that requires gradients to `own_parts`: checkpoints hold it from now on, frozen or not."""
        self.own_parts |= {part_of(name) for name, parameter in self.named_parameters() if parameter.requires_grad}

    def forward(self, batch: Batch) -> SpeechLMOutput:
        """Returns the hidden states of every position; `logits` makes predictions of those that are needed."""
        scale, (spliced, voices) = self.lora_scale(batch), self._embed(batch)
        with scaled_lora(self.llm, scale):
            hidden = final_hidden(self.llm, spliced.inputs_embeds, spliced.lengths)
        return SpeechLMOutput(hidden, spliced, voices, scale)

    def spoken_states(self, batch: Batch, output: SpeechLMOutput) -> SpokenStates:
        """Returns what the speech head reads of the spoken rows of a batch that holds their answers.

        Who speaks is the last clip that the row heard before it answers; zeros if there is none.

        Raises: ModelError if there is no speech head, or nothing that is spoken.
        """
        spoken, head = batch.spoken, self.speech_head
        if spoken is None or head is None:
            raise ModelError("nothing to say: the batch has no spoken rows, or the model no speech head")
        speaker = None if output.voices is None else last_heard(spoken, batch, output.voices)
        states = read_spoken(spoken, output.hidden, output.spliced, speaker=speaker)
        if head.config.body == "own":
            return states
        lengths, scale = context_lengths(spoken, output.spliced), output.scale
        embeds = output.spliced.inputs_embeds[spoken.row, : int(lengths.max())]
        return replace(
            states, context=LLMContext(self.llm, embeds, lengths, None if scale is None else scale[spoken.row])
        )

    def speak_silence(self, output: SpeechLMOutput) -> Tensor:
        """Returns a number that depends on every parameter that speaks, for batches in which nothing is said."""
        assert self.speech_head is not None
        states, mels = silent_states(self.speech_head, output.spliced.inputs_embeds, llm=self.llm, scale=output.scale)
        frames = self.speech_head(
            states, mels, torch.tensor([mels.shape[1]], device=mels.device), word_starts=mels.new_zeros(1, 1)
        )
        ends = [x.sum() for x in (frames.output, frames.stop_logits, frames.advance_logits) if x is not None]
        return torch.stack(ends).sum()

    def spoken_positions(self, duration_s: float) -> int:
        """Returns the positions that speech of so many seconds takes in the LLM: none if the head has its own body."""
        head = self.speech_head
        return 0 if head is None or head.config.body == "own" else 1 + math.ceil(duration_s / head.step_s)

    def logits(self, hidden: Tensor) -> Tensor:
        """Returns (..., V) next-token logits of (..., D) hidden states."""
        return next_token_logits(self.llm, hidden)

    def embed(self, batch: Batch) -> Spliced:
        """Returns the rows the LLM reads: token embeddings with the audio spliced in (see `splice`).

        In training, a batch without audio hears silence at weight zero: every trained parameter takes part in every
        micro-batch, and gradients are ready in the same order on all ranks. Entering below the LLM matters: FSDP2 sends
        a layer's gradients when backward reaches its input, but after all others if that input needs no gradient.
        """
        return self._embed(batch)[0]

    def _embed(self, batch: Batch) -> tuple[Spliced, Tensor | None]:
        """The rows and, if a speech head asks, who speaks in each clip (A, V)."""
        token_embeds = token_embeddings(self.llm, batch.token_ids)
        if batch.num_audio:
            heard = self._hear(batch)
        else:
            voices = self._voices([token_embeds.new_zeros(0, 1, e.dim) for e in self.speech_encoders], batch.audio_row)
            heard = _Heard(token_embeds.new_zeros(0, 0, token_embeds.shape[2]), batch.audio_row, voices)
            if self.training and len(self.encoders):  # the tiny LLM is pretrained without ears
                token_embeds = token_embeds + 0.0 * self._hear_silence()
        spliced = splice(
            token_embeds,
            batch.token_ids,
            batch.token_lengths,
            batch.loss_mask,
            slots=Slots(batch.audio_row, batch.audio_position),
            audio=heard.audio,
            audio_lengths=heard.lengths,
        )
        return spliced, heard.voices

    def lora_scale(self, batch: Batch) -> Tensor | None:
        """Returns what `scaled_lora` takes for the rows of a batch: what the prompt adapter says; None without one.

        It depends on `batch.prompt_ids` alone, which the LLM reads with LoRA off, as itself, without gradient.
        """
        if self.prompt_adapter is None:
            return None
        read = final_hidden if self.prompt_adapter.config.final_norm else last_layer_hidden
        with torch.no_grad(), eval_mode(self.llm), lora_disabled(self.llm):
            hidden = read(self.llm, token_embeddings(self.llm, batch.prompt_ids))
        scale: Tensor = self.prompt_adapter(hidden, batch.prompt_lengths)
        return scale

    def hear(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns the audio of a batch as the LLM reads it: (A, T, D) vectors, of which lengths (A,) count.

        An encoder whose frames the batch holds already (`encoded_specs`, from a cache) does not run.

        Raises: ModelError if the batch lacks what an encoder reads, or holds frames of an encoder that trains.
        """
        heard = self._hear(batch)
        return heard.audio, heard.lengths

    def _hear(self, batch: Batch) -> _Heard:
        specs = self._specs(batch.features)
        missing = [spec for spec in specs if spec not in batch.features]
        if missing:
            raise ModelError(f"the batch has no features {missing}; make examples with specs=model.feature_specs")
        return self._listen(specs, [batch.features[s] for s in specs], [batch.feature_lengths[s] for s in specs])

    def _listen(self, specs: Sequence[FeatureSpec], features: Sequence[Tensor], lengths: Sequence[Tensor]) -> _Heard:
        encoders = self.speech_encoders
        heard, num_frames = [], []
        for encoder, spec, f, n in zip(encoders, specs, features, lengths, strict=True):
            if spec.kind == "encoded":
                _refuse_training(encoder)
                heard.append(f)
                num_frames.append(n)
            else:
                heard.append(encoder(f, n))
                num_frames.append(encoder.output_lengths(n))
        frames, frame_lengths = align_frames(heard, num_frames, [encoder.frame_rate_hz for encoder in encoders])
        dtype = next((parameter.dtype for parameter in self.adapter.parameters()), frames.dtype)
        audio, audio_lengths = self.adapter(frames.to(dtype), frame_lengths)
        return _Heard(audio, audio_lengths, self._voices(heard, *num_frames))

    def _voices(self, heard: Sequence[Tensor], *lengths: Tensor) -> Tensor | None:
        """(A, V): the mean over time of the frames of the encoder that tells voices apart."""
        if self.speech_head is None or (index := self.speech_head.config.speaker_encoder) is None:
            return None
        frames, num_frames = heard[index], lengths[min(index, len(lengths) - 1)]
        return zero_padding(frames, num_frames).sum(1) / num_frames.clamp(min=1)[:, None]

    def _hear_silence(self) -> Tensor:
        """A number that depends on every parameter that hears; in eval mode, so batch norm does not learn silence."""
        device = next(self.parameters()).device
        specs = self._specs(())
        features = [_silence(spec, device) for spec in specs]
        lengths = [torch.tensor([feature.shape[1]], device=device) for feature in features]
        with eval_mode(self):
            return self._listen(specs, features, lengths).audio.sum()


def part_of(name: str) -> str:
    """Returns the part of a parameter: adapter, prompt_adapter, speech_head, lora, llm, encoders.0 or encoders.1."""
    first, second, *_ = name.split(".")
    if first == "encoders":
        return f"{first}.{second}"
    return "lora" if ".lora_" in name else first


def align_frames(
    frames: Sequence[Tensor], lengths: Sequence[Tensor], rates_hz: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Returns the frames of several encoders side by side, (A, T, sum of D), and their lengths (A,).

    All go to the slowest rate, then each clip to the shorter of its sequences. A rate that is k times the slowest is
    averaged over k frames (the last, partial window over what it has); any other rate gives the frame nearest in time.

        50 Hz  a b c d e        25 Hz  (a+b)/2 (c+d)/2 e  ┐
        25 Hz  x   y   z               x       y       z  ┴─▶  3 frames of both
    """
    slowest = min(rates_hz)
    slow = [_to_rate(f, n, rate / slowest) for f, n, rate in zip(frames, lengths, rates_hz, strict=True)]
    shortest = torch.stack([n for _, n in slow]).amin(0)
    size = min(f.shape[1] for f, _ in slow)
    together = torch.cat([f[:, :size].to(slow[0][0].dtype) for f, _ in slow], dim=-1)
    return (together if len(slow) == 1 else zero_padding(together, shortest)), shortest


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Inside the block `module` is in eval mode; afterwards each part of it is as before, also after an exception."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _to_rate(frames: Tensor, lengths: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Frames (A, T, D) and lengths at a rate `ratio` times slower."""
    window = round(ratio)
    if window == 1 and abs(ratio - 1) < 1e-6:
        return frames, lengths
    if abs(ratio - window) < 1e-6:
        return mean_of_frames(frames, lengths, window), -(-lengths // window)
    slow_lengths = torch.floor(lengths / ratio + 0.5).long()
    centres = (torch.arange(int(slow_lengths.max()), device=frames.device) + 0.5) * ratio
    nearest = torch.minimum(centres.long(), (lengths[:, None] - 1).clamp(min=0))
    return frames.take_along_dim(nearest[..., None], dim=1), slow_lengths


def _refuse_training(encoder: SpeechEncoder) -> None:
    module = cast("nn.Module", encoder)
    if module.training and any(parameter.requires_grad for parameter in module.parameters()):
        raise ModelError(
            f"{type(encoder).__name__} trains, but the batch holds frames it made before; freeze the encoder, or train "
            "without the cache"
        )


def _listed(specs: Sequence[FeatureSpec]) -> str:
    return ", ".join(f"{spec.encoder} at {spec.frame_rate_hz:g} Hz" for spec in specs)


def _silence(spec: FeatureSpec, device: torch.device) -> Tensor:
    num_samples = int(_SILENCE_S * spec.sample_rate_hz)
    shape = (num_samples,) if spec.kind == "waveform" else (spec.num_frames(num_samples), spec.dim)
    return torch.zeros(1, *shape, device=device)
