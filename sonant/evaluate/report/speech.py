"""The spoken answers of a run: measures, and rows to look at and to listen to (prompt, real answer, spoken one)."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from sonant.audio.io import load
from sonant.errors import AudioError, EvaluationError
from sonant.evaluate.metrics.speech import SAMPLE_RATE_HZ, level_log_mels
from sonant.evaluate.report.audio import Clip, Clips
from sonant.evaluate.run_folder import Json, Run

NUM_SHOWN = 6  # rows of a set, evenly spaced
RANGE = (-5.0, 4.0)  # nats: log mels from black to white; what espeak says at one level lies between
PIXELS_A_FRAME = 2  # in width: 80 frames a second
ARMS = ("spoken", "real", "spoken minus real")


@dataclass(frozen=True)
class Picture:
    """A recording as one sees and hears it; `address` is empty where it cannot be read."""

    name: str
    clip: Clip
    address: str
    width: int  # pixels


@dataclass(frozen=True)
class SpokenRow:
    """One answer: what was written and heard, and its recordings."""

    id: str
    text: str
    heard: tuple[tuple[str, str], ...]  # (listener, transcript)
    ended: bool
    pictures: tuple[Picture, ...]


def speech_sections(run: Run, clips: Clips) -> list[Json]:
    """Returns, for each set that was answered aloud, the lines of its table and some of its rows."""
    return [
        {"task": task, "lines": _lines(result["speech"]), "rows": _rows(run, task, clips)}
        for task, result in run.results.items()
        if result.get("speech")
    ]


def _lines(speech: Json) -> list[Json]:
    """One line for each metric and who measured it; arms beside the usual ones stand in `other`."""
    return [
        {
            "metric": metric,
            "by": by,
            "n": max(score["n"] for score in arms.values()),
            "cells": [_shown(arms.get(arm)) for arm in ARMS],
            "other": ", ".join(f"{arm} {_shown(score)}" for arm, score in arms.items() if arm not in ARMS),
        }
        for metric, measured in speech.items()
        for by, arms in measured.items()
    ]


def _rows(run: Run, task: str, clips: Clips) -> list[SpokenRow]:
    items = [item for item in run.items_of(task) if "speech" in item]
    step = max(1, len(items) // NUM_SHOWN)
    found = []
    for item in items[::step][:NUM_SHOWN]:
        speech = item["speech"]
        spoken = {"path": speech["path"], "transcript": speech["text"]}
        places = {"prompt": (item.get("clips") or [None])[-1], "real answer": speech["real"], "spoken": spoken}
        pictures = [
            _picture(name, place, clips, run.folder) for name, place in places.items() if place and place["path"]
        ]
        ended = speech["text_finished"] and speech["speech_finished"]
        found.append(SpokenRow(item["id"], speech["text"], tuple(speech["heard"].items()), ended, tuple(pictures)))
    return found


def _picture(name: str, place: Json, clips: Clips, folder: Path) -> Picture:
    start_s, duration_s = place.get("offset_s") or 0.0, place.get("duration_s")
    clip = clips.clip(place, folder)
    try:
        samples = load(folder / place["path"], sample_rate_hz=SAMPLE_RATE_HZ, offset_s=start_s, duration_s=duration_s)
    except AudioError:
        return Picture(name, clip, "", 0)
    frames = level_log_mels(samples)
    if not len(frames):
        return Picture(name, clip, "", 0)
    try:
        from matplotlib.image import imsave
    except ImportError:
        raise EvaluationError("the report draws with matplotlib: pip install 'sonant[eval]'") from None
    png = io.BytesIO()
    imsave(png, frames.T, vmin=RANGE[0], vmax=RANGE[1], cmap="magma", origin="lower", format="png")
    address = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode("ascii")
    return Picture(name, clip, address, PIXELS_A_FRAME * len(frames))


def _shown(score: Json | None) -> str:
    return f"{score['value']:.3g} [{score['low']:.3g}, {score['high']:.3g}]" if score else "–"
