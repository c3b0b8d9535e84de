"""What a model says aloud, kept as recordings: a run that is started again lets it speak only where something lacks.

OUT/speech/SET-KEY/00012.wav    one answer; none where there was nothing to say
OUT/speech/SET-KEY/said.json    what was written and said, and how long it took
"""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sonant.audio.io import save
from sonant.chat.messages import AudioPart, Conversation
from sonant.data.manifest import write_lines
from sonant.errors import EvaluationError
from sonant.evaluate.arms import Asked, Examinee, Progress
from sonant.generate.reply import SpokenReply

NUM_STREAMED = 8  # rows that are also asked alone, to see when the first sound comes


@dataclass(frozen=True)
class Said:
    """One spoken answer."""

    path: str | None  # of the recording; None: no sound
    text: str
    spoken_text: str  # the end of the text that is said
    text_finished: bool
    speech_finished: bool
    duration_s: float
    seconds: float  # of work, from the question on; asked together, its share
    streamed_s: float | None = None  # of work, asked alone
    first_sound_s: float | None = None  # asked alone, until the first samples

    @property
    def clip(self) -> AudioPart | None:
        """The recording, if there is any."""
        return None if self.path is None else AudioPart(self.path, transcript=self.spoken_text)


def said_aloud(
    name: str, prompts: Sequence[Conversation], examinee: Examinee, *, folder: Path, progress: Progress
) -> list[Said]:
    """Returns one spoken answer for each prompt, after writing the recordings below `folder` (OUT/speech).

    Raises: RequestError if the model has no voice.
    """
    asked = Asked(list(prompts), lora=True)
    plain = re.sub(r"[^\w-]+", "_", name)
    place = folder / f"{plain}-{examinee.key(['spoken', *asked.key])[:8]}"
    if examinee.pins and (known := _read(place)) is not None:
        return known
    started = time.perf_counter()
    replies = examinee.assistant.speak_all(
        asked.prompts,
        config=examinee.config,
        batch_size=examinee.batch_size,
        progress=asked.tell(f"{name}: speech", progress),
    )
    seconds = time.perf_counter() - started
    alone = [_alone(prompt, examinee) for prompt in asked.prompts[:NUM_STREAMED]]
    said = [
        _kept(reply, alone[index] if index < len(alone) else None, place / f"{index:05d}.wav")
        for index, reply in enumerate(replies)
    ]
    note = {"set": name, "seconds": seconds, "said": [_relative(asdict(each), place) for each in said]}
    write_lines(place / "said.json", [json.dumps(note, ensure_ascii=False, indent=1)])
    return said


def _alone(prompt: Conversation, examinee: Examinee) -> SpokenReply:
    *_, whole = examinee.assistant.stream_speech(prompt, config=examinee.config)
    if not isinstance(whole, SpokenReply):
        raise EvaluationError("a stream of speech ended without the whole answer")
    return whole


def _kept(reply: SpokenReply, alone: SpokenReply | None, path: Path) -> Said:
    if len(reply.samples):
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, np.clip(reply.samples, -1, 1), sample_rate_hz=reply.sample_rate_hz)  # as a loudspeaker would
    return Said(
        path=str(path) if len(reply.samples) else None,
        text=reply.text,
        spoken_text=reply.spoken_text,
        text_finished=reply.text_finished,
        speech_finished=reply.speech_finished,
        duration_s=reply.duration_s,
        seconds=reply.seconds,
        streamed_s=alone.seconds if alone else None,
        first_sound_s=alone.first_sound_s if alone else None,
    )


def _relative(values: dict[str, Any], place: Path) -> dict[str, Any]:
    return values | {"path": values["path"] and Path(values["path"]).name}


def _read(place: Path) -> list[Said] | None:
    """What was said before; None where it is not there, damaged, or lacks a recording."""
    try:
        note = json.loads((place / "said.json").read_text(encoding="utf-8"))
        said = [Said(**each | {"path": each["path"] and str(place / each["path"])}) for each in note["said"]]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    return said if all(each.path is None or Path(each.path).is_file() for each in said) else None
