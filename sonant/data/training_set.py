"""Which manifests a speech language model trains on, in which shares, and how its rows become batches.

speech   any sources, by weight ─┐
text     any sources, by weight ─┴─ text_share of the target tokens ──▶ plan ──▶ respan, augment, render ──▶ batches
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from sonant.audio.augment import Augmenter
from sonant.audio.features import FeatureSpec
from sonant.audio.mel import MelSpec
from sonant.batch import Batch, CachedFrames, Example, collate, make_example
from sonant.chat.messages import Conversation
from sonant.chat.render import Rendered, render
from sonant.chat.tokenizer import ChatTokenizer
from sonant.config import Config
from sonant.data.blend import Group, Source
from sonant.data.loader import BatchStream, LoaderConfig
from sonant.data.manifest import Manifest
from sonant.data.measure import RowSizes
from sonant.data.plan import PlanConfig
from sonant.data.respan import respan


class SourceConfig(Config):
    """One manifest, relative to `data.root`, and its weight inside its group."""

    manifest: str
    weight: float = Field(1.0, gt=0)


class DataConfig(Config):
    """Which manifests are blended, in which shares of target tokens, and how they become batches."""

    root: str = "."
    text_share: float = Field(0.15, gt=0, lt=1)  # of target tokens; mixing "modality" uses plan.audio_share instead
    temperature: float = Field(0.0, ge=0, le=1)  # inside a group, weight x tokens^temperature
    speech: dict[str, SourceConfig]
    text: dict[str, SourceConfig] = Field(default={})
    dev: tuple[str, ...] = ()
    dev_rows: int = Field(32, gt=0)  # of each task, at each validation
    dev_new_tokens: int = Field(64, gt=0)
    plan: PlanConfig = PlanConfig()
    loader: LoaderConfig = LoaderConfig()

    @field_validator("speech", "text", mode="before")
    @classmethod
    def _without_null(cls, sources: Any) -> Any:
        """A source of null is left out: how an override takes one away."""
        return {n: s for n, s in sources.items() if s is not None} if isinstance(sources, dict) else sources


@dataclass(frozen=True)
class Ears:
    """What a model hears with: its features, and how many positions of the LLM a clip of so many seconds takes.

    `positions` is how many the LLM holds; a longer row is refused before anything is trained. One that has a `voice`
    also hears what it is to say: in these mels, and at `spoken_tokens` positions if they pass through the LLM.
    """

    specs: Sequence[FeatureSpec]
    audio_tokens: Callable[[float], int]
    augmenter: Augmenter | None = None
    cached: Mapping[FeatureSpec, CachedFrames] = field(default_factory=dict)  # frames of frozen encoders
    positions: int | None = None
    voice: MelSpec | None = None
    spoken_tokens: Callable[[float], int] | None = None


def unedited(row: Conversation) -> Conversation:
    """Returns the row as it is: only of such rows are sizes kept from one start to the next."""
    return row


def make_stream(
    data: DataConfig,
    tokenizer: ChatTokenizer,
    ears: Ears,
    *,
    edit: Callable[[Conversation], Conversation] = unedited,
    check: Callable[[Example], None] = lambda example: None,
) -> BatchStream:
    """Returns the blend of the manifests; shares are counted in target tokens, lengths in expanded rows.

    edit: what is done to a row before anything else, such as to normalise its transcript.
    check: raises a SonantError for an example that cannot be used; it is left out and counted (`quarantine`).

    Raises: ManifestError or ConfigError, before anything is trained, for rows or shares that cannot be.
    """

    def group(name: str, sources: Mapping[str, SourceConfig], weight: float) -> Group:
        members = [Source(n, Manifest(Path(data.root, s.manifest)), weight=s.weight) for n, s in sources.items()]
        return Group(name, members, weight=weight, temperature=data.temperature)

    blend = [group("speech", data.speech, 1 - data.text_share)]
    blend += [group("text", data.text, data.text_share)] if data.text else []

    def example(row: Conversation, rng: np.random.Generator) -> Example:
        made = make_example(
            respan(edit(row), rng),
            tokenizer,
            ears.specs,
            augmenter=ears.augmenter,
            rng=rng,
            cached=ears.cached,
            voice=ears.voice,
        )
        check(made)
        return made

    @functools.lru_cache(maxsize=1)  # a row is asked about twice
    def rendered(row: Conversation) -> Rendered:
        return render(edit(row), tokenizer)

    longest = ears.augmenter.longest if ears.augmenter is not None else 1.0  # sound may be slowed down
    sizes = RowSizes(
        text_tokens=lambda row: len(rendered(row).token_ids),
        audio_tokens=lambda duration_s: ears.audio_tokens(duration_s * longest),
        target_tokens=lambda row: int(rendered(row).loss_mask.sum()),
        positions=ears.positions,
        spoken_tokens=ears.spoken_tokens,
        key=tokenizer.digest if edit is unedited else "",
    )
    return BatchStream(Group("blend", blend), example, sizes=sizes, plan=data.plan, loader=data.loader)


def dev_batches(
    data: DataConfig, tokenizer: ChatTokenizer, ears: Ears, *, edit: Callable[[Conversation], Conversation]
) -> list[Batch]:
    """Returns the first `dev_rows` rows of each dev manifest as batches of 32, for scores that need no answers."""
    manifests = [Manifest(Path(data.root, name)) for name in data.dev]
    rows = [manifest[index] for manifest in manifests for index in range(min(data.dev_rows, len(manifest)))]
    examples = [make_example(edit(row), tokenizer, ears.specs, cached=ears.cached, voice=ears.voice) for row in rows]
    return [collate(examples[start : start + 32]) for start in range(0, len(examples), 32)]
