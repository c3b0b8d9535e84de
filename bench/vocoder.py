"""Vocoders beside one another, on clips of espeak voices that no vocoder was trained on.

Word errors are those of the tiny CTC encoder, which never heard any vocoder: over all clips, a third of which are words
in no order that it cannot spell, and over those that it writes down without fault as they were recorded. Distances are
means over the whole clip of |log mel of the sound - log mel of the clip|. Blurred: every mel frame is [.25 .5 .25] of
itself and its neighbours, as of a voice that predicts too smoothly. Timed on one thread, a clip at a time.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bench.figure import RUNS, Figure, at_most, reported
from sonant.audio.io import load, save
from sonant.audio.mel import MelSpec, log_mel
from sonant.chat.messages import AudioPart
from sonant.data.manifest import Manifest
from sonant.evaluate.metrics.text import WER
from sonant.generate.recognizer import CTCRecognizer
from sonant.models.vocoders.base import Vocoder
from sonant.models.vocoders.load import load_vocoder
from sonant.synth.world.listening import GROUPS, make_listening

FOLDER = RUNS / "vocoder"
NAMES = ("griffin_lim", "tiny/vocoder")
NUM_CLIPS, CHUNK_FRAMES = 150, 16
SHORT = MelSpec(num_mels=32, window_length=200, hop_length=50, fft_size=256, floor=1e-3)  # hears single pulses


def measure() -> list[Figure]:
    torch.set_num_threads(1)
    espeak = next(group for group in GROUPS if group.name == "espeak")
    dev = make_listening(FOLDER, groups=(replace(espeak, num_train=1),), num_dev=NUM_CLIPS)[1]["espeak"]
    rows = list(Manifest(dev))
    clips = [torch.from_numpy(load(row.audio_parts[0].source)) for row in rows]
    judge, told = CTCRecognizer.from_parts(), [row.reference for row in rows]

    def errors(name: str, sounds: Sequence[Tensor]) -> tuple[list[str], list[float]]:
        heard = judge.transcribe([AudioPart(path=str(path)) for path in _saved(name, sounds)])
        both = [(heard[i], told[i]) for i in range(len(told)) if told[i] == as_recorded.get(i, told[i])]
        return heard, [WER.score(heard, told).value, WER.score(*map(list, zip(*both, strict=True))).value]

    as_recorded: dict[int, str] = {}
    heard, wrong = errors("real", clips)
    as_recorded |= dict(enumerate(heard))
    figures = [reported("real clips: word errors", wrong[:1], "%")]
    found = {}
    for name in NAMES:
        vocoder = load_vocoder(name)
        mels = [log_mel(clip, vocoder.mel) for clip in clips]
        began = time.process_time()
        sounds = [_sound(vocoder, mel) for mel in mels]
        factor = (time.process_time() - began) / sum(len(clip) / 16_000 for clip in clips)
        from_blurred = [_sound(vocoder, _blurred(mel)) for mel in mels]
        wrong, blurred = errors(name, sounds)[1], errors(f"{name}_blurred", from_blurred)[1]
        found[name] = (wrong[1], _distance(sounds, clips, vocoder.mel), factor)
        first = [_first_sound(vocoder, torch.cat([mel] * 3)) for mel in mels[:20]]  # long enough not to end before
        streamed = [torch.cat(list(vocoder.stream(mel.split(CHUNK_FRAMES)))) for mel in mels[:20]]
        figures += [
            _of_two(f"{name}: word errors, all clips / clips without fault", wrong),
            _of_two(f"{name}: word errors from blurred mels, all / without fault", blurred),
            reported(f"{name}: log-mel distance", [found[name][1]], ""),
            reported(f"{name}: log-mel distance by windows of 12.5 ms", [_distance(sounds, clips, SHORT)], ""),
            reported(f"{name}: log-mel distance, from blurred mels", [_distance(from_blurred, clips, vocoder.mel)], ""),
            reported(f"{name}: log-mel distance, chunked", [_distance(streamed, clips[:20], vocoder.mel)], ""),
            at_most(f"{name}: real-time factor", 0.1, [factor], "s/s"),
            reported(f"{name}: frames before the first sound", [first[0][0] / vocoder.mel.frame_rate_hz], "s of mels"),
            reported(f"{name}: then the first sound takes", [1000 * sum(s for _, s in first) / len(first)], "ms"),
        ]
    for place, what in enumerate(("word errors", "log-mel distance", "real-time factor")):
        griffin_lim, tiny = (found[name][place] for name in NAMES)
        figures.append(at_most(f"tiny/vocoder: {what}, beside Griffin-Lim's", griffin_lim, [tiny], ""))
    return figures


def _of_two(what: str, percent: Sequence[float]) -> Figure:
    return Figure(what, "report", " / ".join(f"{value:.2f}" for value in percent) + " %")


def _sound(vocoder: Vocoder, mel: Tensor) -> Tensor:
    with torch.no_grad():
        return vocoder(mel[None], torch.tensor([len(mel)]))[0]


def _blurred(mel: Tensor) -> Tensor:
    around = torch.cat([mel[:1], mel, mel[-1:]])
    return 0.25 * around[:-2] + 0.5 * mel + 0.25 * around[2:]


def _distance(sounds: Sequence[Tensor], clips: Sequence[Tensor], spec: MelSpec) -> float:
    truths = [log_mel(clip, spec) for clip in clips]
    gaps = [log_mel(sound, spec)[: len(true)] - true for sound, true in zip(sounds, truths, strict=True)]
    return float(torch.stack([gap.abs().mean() for gap in gaps]).mean())


def _first_sound(vocoder: Vocoder, mel: Tensor) -> tuple[int, float]:
    """Returns the frames that came before the first sound, and the processor seconds that it then took."""
    given, came = 0, 0.0

    def chunks() -> Iterator[Tensor]:
        nonlocal given, came
        for chunk in mel.split(CHUNK_FRAMES):
            given, came = given + len(chunk), time.process_time()
            yield chunk

    next(iter(vocoder.stream(chunks())))
    return given, time.process_time() - came


def _saved(name: str, sounds: Sequence[Tensor]) -> list[Path]:
    folder = FOLDER / "sounds" / name.replace("/", "_")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04}.wav" for number in range(len(sounds))]
    for path, sound in zip(paths, sounds, strict=True):
        save(path, sound.clamp(-1, 1).numpy(), sample_rate_hz=16_000)
    return paths
