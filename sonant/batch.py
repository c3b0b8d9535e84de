"""From conversations to tensors: one Example per row, one Batch per step.

conversation ──render──▶ token_ids, loss_mask, slots
             └─load, augment, extract──▶ features per FeatureSpec     ──collate──▶ Batch
             └─or read from a cache────▶ (frames of a frozen encoder)
             └─for a voice: the mels of the closing answer (`sonant.spoken`)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sonant.audio import io
from sonant.audio.augment import Augmenter
from sonant.audio.features import FeatureSpec, extract
from sonant.audio.mel import MelSpec
from sonant.chat.messages import AudioPart, Conversation
from sonant.chat.render import Rendered, Slot, prompt_ids, render
from sonant.chat.tokenizer import ChatTokenizer
from sonant.errors import AudioError, ConfigError
from sonant.spoken import Spoken, SpokenBatch, collate_spoken, load_spoken


class CachedFrames(Protocol):
    """Features made before: the frames of a frozen encoder, say (`sonant.data.frame_cache.FrameCache`)."""

    def __call__(self, part: AudioPart) -> Tensor:
        """Returns the frames (T, dim) float32 of one segment. Raises: a SonantError if it is not in the cache."""
        ...


_OPENING = "\"'([{<«“‘"  # what is written after these follows without a space
NO_CACHE: Mapping[FeatureSpec, CachedFrames] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Example:
    """One row: what is read, what is heard, and where."""

    id: str
    task: str
    token_ids: NDArray[np.int64]  # (L,)
    loss_mask: NDArray[np.float32]  # (L,)
    prompt_ids: NDArray[np.int64]  # (P,) the written question alone: see `sonant.chat.render.prompt_ids`
    audio_positions: NDArray[np.int64]  # (A,) frames come before token_ids[position]
    transcript_ids: list[NDArray[np.int64]]  # A of (N,) each: what is said there, as text in that place; empty: unknown
    features: Mapping[FeatureSpec, list[Tensor]]  # A tensors of (F, M) or (S,) each
    audio_duration_s: float  # of all segments together
    reference: str  # text of the closing assistant message
    spoken: Spoken | None = None  # that message as it sounds, if it is spoken and a voice learns it

    @property
    def num_mel_frames(self) -> int:
        """F of the spoken answer; 0 if nothing is spoken."""
        return 0 if self.spoken is None else len(self.spoken.mels)


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows side by side. Audio segments are apart from rows: a row may hold none, one or many.

    ```
    token_ids   row 0: a b c d      audio_row      0 0 2
                row 1: a b 0 0      audio_position 1 3 0     segment 0 is heard before token 1 of row 0
                row 2: a b c 0
    ```
    """

    ids: tuple[str, ...]
    tasks: tuple[str, ...]
    token_ids: Tensor  # (B, L) int64, right-padded with 0; padding is known by token_lengths, never by id
    token_lengths: Tensor  # (B,) int64
    loss_mask: Tensor  # (B, L) float32, 0 on padding
    prompt_ids: Tensor  # (B, P) int64, right-padded with 0: the written question alone, for what adapts to it
    prompt_lengths: Tensor  # (B,) int64
    audio_row: Tensor  # (A,) int64, non-decreasing
    audio_position: Tensor  # (A,) int64, non-decreasing inside a row
    transcript_ids: Tensor  # (A, N) int64, right-padded with 0: what is said, as text in the place of the audio
    transcript_lengths: Tensor  # (A,) int64, 0 where it is not known
    features: Mapping[FeatureSpec, Tensor]  # (A, F, M) or (A, S) float32, right-padded with 0
    feature_lengths: Mapping[FeatureSpec, Tensor]  # (A,) int64
    audio_duration_s: float
    spoken: SpokenBatch | None = None  # of the rows whose closing answer a voice learns; None: no row

    @property
    def num_rows(self) -> int:
        """B."""
        return self.token_ids.shape[0]

    @property
    def num_audio(self) -> int:
        """A."""
        return self.audio_row.shape[0]

    @property
    def num_target_tokens(self) -> float:
        """The weight of the loss: the first token of a row is never predicted."""
        return float(self.loss_mask[:, 1:].sum())

    def to(self, device: torch.device | str) -> "Batch":
        """Returns the batch with every tensor on `device`; a GPU copies what is `pinned` while it computes."""
        waits = torch.device(device).type == "cpu"  # what a GPU is still writing must not be read
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=not waits))

    def pinned(self) -> "Batch":
        """Returns the batch in memory that a GPU reads by itself. Needs CUDA."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        def mapped(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, Mapping):
                return {key: mapped(v) for key, v in value.items()}
            return value.mapped(function) if isinstance(value, SpokenBatch) else value

        return Batch(**{field.name: mapped(getattr(self, field.name)) for field in fields(self)})


@dataclass(frozen=True, eq=False)
class StepBatches:
    """This rank's micro-batches of one optimiser step; `step` counts inside the epoch."""

    epoch: int
    step: int
    batches: list[Batch]


def make_example(
    conversation: Conversation,
    tokenizer: ChatTokenizer,
    specs: Sequence[FeatureSpec],
    *,
    for_generation: bool = False,
    prompt_weight: float = 0.0,
    augmenter: Augmenter | None = None,
    rng: np.random.Generator | None = None,
    cached: Mapping[FeatureSpec, CachedFrames] = NO_CACHE,
    voice: MelSpec | None = None,
) -> Example:
    """Returns one row, its audio loaded and turned into the features every encoder wants.

    for_generation: renders the question only, with the generation prompt (see `sonant.chat.render.render`).
    augmenter: changes the sound, drawing from `rng`; two encoders hear the same changed samples.
    cached: where the features of a spec come from if not from the audio, which no one opens if all of them do; then
        seconds that the row does not state are counted in frames.
    voice: the mels in which a voice learns the closing answer, if that is spoken; they are of the sound as it is.

    Raises: ConfigError if sound is to be changed that was encoded before; ChatError or AudioError, whichever comes
    first.
    """
    if augmenter is not None and rng is None:
        raise ValueError("an augmenter needs rng, so that a row can be made again")
    if augmenter is not None and any(spec in cached for spec in specs):
        raise ConfigError(
            "an augmenter changes sound, but cached frames were made of the sound as it was: "
            "leave out the augmenter, or the cache"
        )
    rendered = render(conversation, tokenizer, for_generation=for_generation, prompt_weight=prompt_weight)
    features: dict[FeatureSpec, list[Tensor]] = {spec: [] for spec in specs}
    duration_s = 0.0
    for slot in rendered.slots:
        segment, heard_s = _recall(slot.audio, specs, cached)
        if unheard := [spec for spec in specs if spec not in cached]:
            heard, heard_s = _hear(slot.audio, unheard, augmenter, rng)
            segment |= heard
        duration_s += heard_s
        for spec in specs:
            features[spec].append(segment[spec])
    return Example(
        id=conversation.id,
        task=conversation.task,
        token_ids=rendered.token_ids,
        loss_mask=rendered.loss_mask,
        prompt_ids=prompt_ids(conversation, tokenizer),
        audio_positions=np.array([slot.position for slot in rendered.slots], dtype=np.int64),
        transcript_ids=[_transcript(slot, rendered, tokenizer) for slot in rendered.slots],
        features=features,
        audio_duration_s=duration_s,
        reference=conversation.reference,
        spoken=None if voice is None else load_spoken(conversation, rendered, tokenizer, voice=voice),
    )


def collate(examples: Sequence[Example]) -> Batch:
    """Returns the rows side by side, right-padded with zeros; segments keep the order of their rows.

    Raises: ValueError if there is no row or the rows hold features for different encoders.
    """
    if not examples:
        raise ValueError("a batch needs one row or more")
    specs = list(examples[0].features)
    if any(set(example.features) != set(specs) for example in examples):
        raise ValueError("the rows of a batch must hold features for the same encoders")
    features = {spec: _pad([f for e in examples for f in e.features[spec]], spec) for spec in specs}
    row = np.repeat(np.arange(len(examples)), [len(e.audio_positions) for e in examples])
    transcripts = [torch.from_numpy(ids) for e in examples for ids in e.transcript_ids]
    return Batch(
        ids=tuple(e.id for e in examples),
        tasks=tuple(e.task for e in examples),
        token_ids=_stack([torch.from_numpy(e.token_ids) for e in examples]),
        token_lengths=torch.tensor([len(e.token_ids) for e in examples]),
        loss_mask=_stack([torch.from_numpy(e.loss_mask) for e in examples]),
        prompt_ids=_stack([torch.from_numpy(e.prompt_ids) for e in examples]),
        prompt_lengths=torch.tensor([len(e.prompt_ids) for e in examples]),
        audio_row=torch.from_numpy(row.astype(np.int64)),
        audio_position=torch.from_numpy(np.concatenate([e.audio_positions for e in examples])),
        transcript_ids=_stack(transcripts) if transcripts else torch.zeros(0, 0, dtype=torch.int64),
        transcript_lengths=torch.tensor([len(ids) for ids in transcripts], dtype=torch.int64),
        features={spec: padded for spec, (padded, _) in features.items()},
        feature_lengths={spec: lengths for spec, (_, lengths) in features.items()},
        audio_duration_s=sum(e.audio_duration_s for e in examples),
        spoken=collate_spoken([e.spoken for e in examples]),
    )


def _transcript(slot: Slot, rendered: Rendered, tokenizer: ChatTokenizer) -> NDArray[np.int64]:
    """What one would write there: a space parts it from text before it that ends in none and opens no quotation."""
    before = int(rendered.token_ids[slot.position - 1]) if slot.position else None
    last = "" if before is None else tokenizer.decode([before])[-1:]
    said = slot.audio.transcript or ""
    space = " " if said and last and not last.isspace() and last not in _OPENING else ""
    return np.array(tokenizer.encode_text(space + said, after=before), np.int64)


def _recall(
    part: AudioPart, specs: Sequence[FeatureSpec], cached: Mapping[FeatureSpec, CachedFrames]
) -> tuple[dict[FeatureSpec, Tensor], float]:
    """The features of one segment that are cached, and its duration in seconds as far as they tell."""
    features = {spec: cached[spec](part) for spec in specs if spec in cached}
    longest_s = max((len(frames) / spec.frame_rate_hz for spec, frames in features.items()), default=0.0)
    return features, part.duration_s or longest_s


def _hear(
    part: AudioPart, specs: Sequence[FeatureSpec], augmenter: Augmenter | None, rng: np.random.Generator | None
) -> tuple[dict[FeatureSpec, Tensor], float]:
    """The features of one segment, and its duration in seconds.

    The file is read once, at the highest rate any encoder asks for, so that all of them hear the same changed sound.
    """
    rate_hz = max(spec.sample_rate_hz for spec in specs)
    samples = part.load(sample_rate_hz=rate_hz)
    if augmenter is not None and rng is not None:
        samples = augmenter.samples(samples, sample_rate_hz=rate_hz, rng=rng)
    features = {}
    for spec in specs:
        heard = io.resample(samples, from_hz=rate_hz, to_hz=spec.sample_rate_hz)
        try:
            features[spec] = extract(torch.from_numpy(heard), spec)
        except AudioError as error:
            raise AudioError(f"{part.name}: {error}") from None
        if augmenter is not None and rng is not None and spec.kind == "log_mel":
            features[spec] = augmenter.features(features[spec], rng=rng, stack=spec.stack)
    return features, len(samples) / rate_hz


def _stack(rows: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def _pad(segments: Sequence[Tensor], spec: FeatureSpec) -> tuple[Tensor, Tensor]:
    """(A, F, M) or (A, S) and its lengths (A,); without any segment, A and F or S are 0."""
    lengths = torch.tensor([len(segment) for segment in segments], dtype=torch.int64)
    if not segments:
        return torch.zeros((0, 0) if spec.kind == "waveform" else (0, 0, spec.dim)), lengths
    return _stack(segments), lengths
