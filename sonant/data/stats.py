"""What is in some manifests: rows, turns, clips, hours and tokens, by task, language and speaker."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sonant.chat.messages import Conversation
from sonant.data.manifest import Manifest, clip_duration_s

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
EDGES_S = (0.0, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, float("inf"))


@dataclass
class Part:
    """Sums over some rows."""

    rows: int = 0
    clips: int = 0
    duration_s: float = 0.0
    words: int = 0  # of the answers

    def add(self, conversation: Conversation, durations_s: Sequence[float]) -> None:
        """Counts one row."""
        self.rows += 1
        self.clips += len(durations_s)
        self.duration_s += sum(durations_s)
        self.words += sum(len(m.text.split()) for m in conversation.messages if m.role == "assistant")


@dataclass
class Stats:
    """What is in some manifests. `by` is label -> value -> Part for manifest, task, language and speaker."""

    total: Part = field(default_factory=Part)
    text_only_rows: int = 0
    turns: int = 0  # answers
    tokens: int | None = None  # of all texts; None without a way to count
    unreadable_clips: int = 0  # counted as 0 s
    duration_percentiles_s: dict[str, float] = field(default_factory=dict)  # "50" -> seconds
    duration_histogram: dict[str, int] = field(default_factory=dict)  # "2-5 s" -> clips
    by: dict[str, dict[str, Part]] = field(default_factory=dict)

    @property
    def text_only_share(self) -> float:
        """Share of rows without audio."""
        return self.text_only_rows / self.total.rows

    def table(self, label: str) -> list[tuple[str, str, str, str, str]]:
        """Returns (value, rows, clips, hours, answer words) for a label of `by`, most rows first."""
        parts = sorted(self.by[label].items(), key=lambda item: (-item[1].rows, item[0]))
        return [
            (value or "-", str(part.rows), str(part.clips), f"{part.duration_s / 3600:.2f}", str(part.words))
            for value, part in parts
        ]

    def to_json(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        return {**asdict(self), "text_only_share": self.text_only_share}


def stats(
    manifests: Iterable[Manifest], *, text_tokens: Callable[[Conversation], int] | None = None, workers: int = 4
) -> Stats:
    """Returns what is in some manifests. A clip without `duration_s` is measured by the header of its file.

    Raises: ManifestError at the first row that is no conversation.
    """
    found = Stats(by={label: {} for label in ("manifest", "task", "language", "speaker")})
    found.tokens = 0 if text_tokens else None
    all_durations_s: list[float] = []
    with ThreadPoolExecutor(workers) as pool:
        for manifest in manifests:
            for conversation in manifest:
                durations_s = [_counted(found, d) for d in pool.map(clip_duration_s, conversation.audio_parts)]
                all_durations_s += durations_s
                _add(found, conversation, durations_s, manifest=str(manifest.path))
                if text_tokens:
                    found.tokens = (found.tokens or 0) + text_tokens(conversation)
    _describe(found, np.array(all_durations_s, np.float64))
    return found


def _counted(found: Stats, duration_s: float | None) -> float:
    found.unreadable_clips += duration_s is None
    return duration_s or 0.0


def _add(found: Stats, conversation: Conversation, durations_s: Sequence[float], *, manifest: str) -> None:
    values = {
        "manifest": manifest,
        "task": conversation.task,
        "language": conversation.language or "",
        "speaker": conversation.speaker or "",
    }
    for part in [found.total, *(found.by[label].setdefault(value, Part()) for label, value in values.items())]:
        part.add(conversation, durations_s)
    found.text_only_rows += not durations_s
    found.turns += sum(message.role == "assistant" for message in conversation.messages)


def _describe(found: Stats, durations_s: "np.ndarray[Any, np.dtype[np.float64]]") -> None:
    if not len(durations_s):
        return
    values = np.percentile(durations_s, PERCENTILES)
    found.duration_percentiles_s = {str(p): float(value) for p, value in zip(PERCENTILES, values, strict=True)}
    counts, _ = np.histogram(durations_s, EDGES_S)
    names = [f"{a:g}-{b:g} s" if np.isfinite(b) else f"over {a:g} s" for a, b in itertools.pairwise(EDGES_S)]
    found.duration_histogram = {name: int(count) for name, count in zip(names, counts, strict=True) if count}
