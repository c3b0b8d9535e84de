"""The builder behind `sonant synth continuations`: transcribed utterances -> the beginning heard, the rest to be said.

    user: "Continue: " + a.flac 0 to 2.1 s      assistant: "he hoped there | would be stew" + a.flac from 2.1 s on

Both parts are stretches of the same file: nothing is written but rows. The answer's text is the transcript of all, with
the boundary (" | ") between the two or, as published, without one. With word marks (`sonant synth tts --words`, `sonant
data mark-words`) each part knows its own words. Without, nobody knows where the transcript divides: the spoken part has
no transcript, which says that it belongs to all of the text. That is enough for a voice that reads the whole text
before it speaks (preset `faithful`); one that is led from word to word (`best`) needs marks.

Source: Spectron (arXiv 2305.15255), section 3, where every prompt has 3 s: CutRule("anywhere", 3, 3).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.chat.spelling import MARKS, word_starts
from sonant.data.prompts import PromptBank, Split, instructed
from sonant.data.shards import Job, row_rng
from sonant.data.sources.base import Dropped
from sonant.errors import AudioError, ChatError, SonantError
from sonant.synth.cutting import CutRule

SAMPLE_RATE_HZ = 16_000


@dataclass(frozen=True)
class Utterance:
    """A recording whose transcript is cut with it: its length, and when each word begins, if that is known."""

    part: AudioPart
    duration_s: float
    starts_s: Sequence[float] | None = None

    def cut(self, at_s: float) -> tuple[AudioPart, AudioPart]:
        """Returns what comes before and after `at_s` seconds; a word that has begun belongs to the first."""
        part = self.part
        words = (part.transcript or "").split()
        extra = {key: value for key, value in part.extra.items() if key != MARKS}
        first = replace(part, duration_s=at_s, transcript=None, extra=extra)
        second = replace(first, offset_s=round(part.offset_s + at_s, 4), duration_s=round(self.duration_s - at_s, 4))
        if self.starts_s is None:
            return first, second
        marks = list(zip(words, self.starts_s, strict=True))
        before = [[word, start] for word, start in marks if start < at_s]
        after = [[word, round(start - at_s, 4)] for word, start in marks if start >= at_s]
        return _said(first, before), _said(second, after)


def _said(part: AudioPart, marks: Sequence[Sequence[Any]]) -> AudioPart:
    return replace(part, transcript=" ".join(word for word, _ in marks), extra={**part.extra, MARKS: list(marks)})


def joined(first: AudioPart, second: AudioPart, boundary: str) -> str:
    """Returns the text of both parts; "" as a boundary is one space."""
    return f"{first.transcript}{boundary or ' '}{second.transcript}"


@dataclass(frozen=True)
class Continuations:
    """Cuts each utterance of a corpus in two.

    boundary: text between what was heard and what is to be said; "" for none. bank: what the user asks for; None:
    nothing, as published.
    """

    rule: CutRule
    bank: PromptBank | None = None
    split: Split = "train"
    boundary: str = ""
    seed: int = 0
    name: str = "continuations"

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that the rows depend on."""
        bank = self.bank
        prompts = None if bank is None else {"bank": bank.name, "sha256": bank.sha256, "split": self.split}
        return {**vars(self.rule), "boundary": self.boundary, "prompts": prompts, "seed": self.seed}

    def build(self, jobs: Sequence[Job], *, clips: Path) -> Iterator[Conversation | Dropped]:
        """Yields each utterance cut in two, or why it is not."""
        for job in jobs:
            try:
                yield self._row(job)
            except _Uncut as fault:
                yield Dropped(job.place, *fault.args)

    def _row(self, job: Job) -> Conversation:
        utterance, place_s = self._cut(job)
        first, second = utterance.cut(place_s)
        if self.boundary and utterance.starts_s is None:
            raise _Uncut("no word marks, so no place for the boundary")
        if second.transcript == "" or first.transcript == "":
            raise _Uncut("no word on one side of the cut")
        row, id = job.row, job.row.id or f"{job.index:07}"
        text = (utterance.part.transcript or "") if second.transcript is None else joined(first, second, self.boundary)
        asked = (first,) if self.bank is None else instructed(self.bank.pick(self.split, id), first)
        provenance: dict[str, Any] = {"cut": self.rule.by, "cut_s": place_s, "seed": self.seed}
        if before := row.extra.get("provenance"):
            provenance["from"] = before
        return replace(
            row,
            messages=(user(*asked), assistant(text, second)),
            id=id,
            task="continuation",
            extra={**row.extra, "provenance": provenance},
        )

    def _cut(self, job: Job) -> tuple[Utterance, float]:
        if len(job.row.audio_parts) != 1 or job.row.spoken is not None:
            raise _Uncut("not one recording that is heard", f"{len(job.row.audio_parts)} recordings")
        (part,) = job.row.audio_parts
        part = replace(part, transcript=" ".join((part.transcript or job.row.reference).split()))
        if not part.transcript:
            raise _Uncut("no transcript")
        try:
            samples = part.load(sample_rate_hz=SAMPLE_RATE_HZ)
            duration_s = len(samples) / SAMPLE_RATE_HZ
            starts = word_starts(part, part.transcript.split(), duration_s=duration_s)
        except AudioError as error:
            raise _Uncut("cannot be read", str(error)) from None
        except ChatError as error:
            raise _Uncut("word marks do not fit", str(error)) from None
        known = starts if starts is not None and all(start == start for start in starts) else None
        if self.rule.by == "marks" and known is None:
            raise _Uncut("no word marks", "cut at silences, or find them with sonant data mark-words")
        if duration_s < self.rule.min_utterance_s:
            raise _Uncut(f"shorter than {self.rule.min_utterance_s:g} s", f"{duration_s:.2f} s")
        place_s = self.rule.cut(
            samples, sample_rate_hz=SAMPLE_RATE_HZ, rng=row_rng(self.seed, job.index), starts_s=known
        )
        if place_s is None:
            where = "pause" if self.rule.by == "silence" else "word begins"
            raise _Uncut(f"no {where} between {self.rule.min_prompt_s:g} and {self.rule.max_prompt_s:g} s")
        return Utterance(part, duration_s, known), place_s


class _Uncut(SonantError):
    """(reason, detail): why an utterance is left as it is."""
