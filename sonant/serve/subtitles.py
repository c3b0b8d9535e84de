"""Stretches of a recording with what is said in them, as SubRip and WebVTT."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stretch:
    """What is said between two moments of a recording."""

    start_s: float
    end_s: float
    text: str


def srt(stretches: Sequence[Stretch]) -> str:
    """Returns SubRip: numbered blocks; a stretch without words has none."""
    cues = [stretch for stretch in stretches if stretch.text.strip()]
    return "".join(
        f"{number}\n{_span(cue, ',')}\n{_line(cue.text).replace('-->', '-- >')}\n\n"  # an arrow would be read as times
        for number, cue in enumerate(cues, start=1)
    )


def vtt(stretches: Sequence[Stretch]) -> str:
    """Returns WebVTT: plain text cues, in which no markup of the text is left to be read as such."""
    cues = [stretch for stretch in stretches if stretch.text.strip()]
    return "WEBVTT\n\n" + "".join(f"{_span(cue, '.')}\n{_escaped(_line(cue.text))}\n\n" for cue in cues)


def timestamp(seconds: float, *, point: str) -> str:
    """Returns hours:minutes:seconds, and milliseconds behind the `point`."""
    total_ms = round(1000 * seconds)
    minutes, ms = divmod(total_ms, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{ms // 1000:02d}{point}{ms % 1000:03d}"


def _span(stretch: Stretch, point: str) -> str:
    return f"{timestamp(stretch.start_s, point=point)} --> {timestamp(stretch.end_s, point=point)}"


def _line(text: str) -> str:
    """The text on one line: an empty line would end its block."""
    return " ".join(text.split())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
