"""Recordings on a page: linked where they lie, with a media fragment for a part of one, or held by the page itself."""

import base64
import io
import os
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import soundfile

from sonant.audio.io import info, load
from sonant.errors import AudioError
from sonant.evaluate.run_folder import Json

MAX_EMBEDDED_BYTES = 30_000_000  # of one page; clips beyond it are linked, and the page says how many


@dataclass(frozen=True)
class Clip:
    """A recording to listen to: its address for the page, or why there is none."""

    address: str = ""
    missing: str = ""
    transcript: str = ""


class Clips:
    """Finds the recordings of items for the page at `page`; `embed` puts them into it."""

    def __init__(self, page: Path, *, embed: bool = False) -> None:
        self.page, self.embed = page, embed
        self.num_linked = 0
        self._embedded_bytes = 0

    def clip(self, values: Json, folder: Path) -> Clip:
        """Returns the clip that an item of the run in `folder` describes (`path`, `offset_s`, `duration_s`)."""
        transcript = values.get("transcript") or ""
        if values.get("path") is None:
            return Clip(missing="the recording is held in the manifest", transcript=transcript)
        path = folder / values["path"]
        if not path.is_file():
            return Clip(missing=f"there is no {values['path']}", transcript=transcript)
        start_s, duration_s = values.get("offset_s") or 0.0, values.get("duration_s")
        address = self._embedded(path, start_s, duration_s) if self.embed else ""
        return Clip(address or self._link(path, start_s, duration_s), transcript=transcript)

    def _link(self, path: Path, start_s: float, duration_s: float | None) -> str:
        self.num_linked += 1
        relative = os.path.relpath(os.path.realpath(path), self.page.absolute().parent)
        end = "" if duration_s is None else f",{start_s + duration_s:.3f}"
        return urllib.parse.quote(relative) + (f"#t={start_s:.3f}{end}" if start_s or end else "")

    def _embedded(self, path: Path, start_s: float, duration_s: float | None) -> str:
        """The clip as FLAC, or "" if we cannot read it (a browser still may) or the page is full."""
        flac = io.BytesIO()
        try:
            rate_hz = info(path).sample_rate_hz
            samples = load(path, sample_rate_hz=rate_hz, offset_s=start_s, duration_s=duration_s)
        except AudioError:
            return ""
        soundfile.write(flac, samples, rate_hz, format="FLAC")
        size = len(flac.getvalue())
        if self._embedded_bytes + size > MAX_EMBEDDED_BYTES:
            return ""
        self._embedded_bytes += size
        return "data:audio/flac;base64," + base64.b64encode(flac.getvalue()).decode("ascii")
