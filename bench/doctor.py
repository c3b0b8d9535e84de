"""Ten million rows: the doctor by their metadata, and the plan of an epoch; every fault that is planted is found.

BENCH_ROWS: fewer of them. The first plan counts every text through the tokenizer (some minutes for ten million), and
what it counts is kept beside the manifest; the second is what every later start, and every other rank, waits for.
"""

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from bench.figure import RUNS, Figure, at_most, reported
from sonant.audio.io import save
from sonant.synth.world.text import words

ROWS = int(os.environ.get("BENCH_ROWS", 10_000_000))
HEADER_ROWS = min(ROWS, 1_000_000)
RECORDINGS, SENTENCES = 10_000, 4_000
FOLDER = RUNS / "doctor"
SONANT = str(Path(sys.executable).with_name("sonant"))


def measure() -> list[Figure]:
    _recordings()
    few, many = _manifest(HEADER_ROWS), _manifest(ROWS)
    check = [SONANT, "data", "check", "--workers", "2"]
    headers_s, headers_gb = timed([*check, str(few), "--headers-only"])
    doctor_s, doctor_gb = timed([*check, str(many), "--metadata-only"])
    plan = [sys.executable, "-m", "bench.doctor", str(many)]
    first_s, first_gb = timed(plan)
    again_s, again_gb = timed(plan)
    return [
        at_most(f"{ROWS:,} rows, doctor (metadata) and plan of an epoch", 60, [doctor_s + again_s], "s"),
        at_most("the same, peak memory of all processes", 1, [max(doctor_gb, again_gb)], "GB"),
        reported("of it the doctor", [doctor_s], "s"),
        reported("of it the plan, sizes of rows kept by an earlier start", [again_s], "s"),
        reported("the plan if no earlier start kept them (as it was found)", [first_s], "s"),
        reported("the same, peak memory", [first_gb], "GB"),
        reported(f"{HEADER_ROWS:,} rows, headers of {RECORDINGS:,} recordings too", [headers_s], "s"),
        reported("the same, peak memory of all its processes", [headers_gb], "GB"),
        _planted(),
    ]


def _recordings() -> None:
    """Recordings that the clips are segments of (hard links to one: only headers count)."""
    first = FOLDER / "clips" / f"{RECORDINGS - 1:05}.flac"
    if first.exists():
        return
    first.parent.mkdir(parents=True, exist_ok=True)
    save(first, np.zeros(16_000 * (3 * ROWS // RECORDINGS + 1), np.float32), sample_rate_hz=16_000)
    for number in range(RECORDINGS - 1):
        os.link(first, first.with_name(f"{number:05}.flac"))


def _manifest(num_rows: int) -> Path:
    """A manifest of so many distinct clips and sentences."""
    manifest = FOLDER / f"train-{num_rows}.jsonl"
    if manifest.exists():
        return manifest
    rng = random.Random(0)
    halves = list(dict.fromkeys(" ".join(rng.choices(words(), k=2 + i % 8)) for i in range(SENTENCES)))
    with open(manifest.with_suffix(".tmp"), "w") as file:
        for i in range(num_rows):
            text = f"{halves[i % len(halves)]} {halves[i // len(halves)]} {i % 10}"  # no two are the same
            about = f'"id": "row-{i:08}", "task": "asr", "language": "en", "speaker": "s{i % 2000}"'
            times = f'"offset_s": {3.0 * (i // RECORDINGS)}, "duration_s": 2.5'
            clip = f'"type": "audio", "path": "clips/{i % RECORDINGS:05}.flac", {times}, "transcript": "{text}"'
            asks = f'"role": "user", "content": [{{"type": "text", "text": "Transcribe:"}}, {{{clip}}}]'
            says = f'"role": "assistant", "content": "{text}"'
            file.write(f'{{{about}, "messages": [{{{asks}}}, {{{says}}}]}}\n')
    return manifest.with_suffix(".tmp").rename(manifest)


def timed(command: list[str]) -> tuple[float, float]:
    """Returns wall seconds of a command, and the most memory in GB that it and its children held together."""
    started = time.perf_counter()
    process = psutil.Popen(command)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _memory(process))
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit {process.returncode}; the manifest is clean and must be found so")
    return time.perf_counter() - started, peak / 2**30


def _memory(process: psutil.Popen) -> int:
    try:
        family = [process, *process.children(recursive=True)]
        return sum(member.memory_info().rss for member in family)
    except psutil.NoSuchProcess:
        return 0


def _planted() -> Figure:
    tests = "tests/data/test_check.py"
    command = [sys.executable, "-m", "pytest", "-q", tests, "-k", "planted_fault_is_found or nothing_else_is_found"]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    found = re.search(r"(\d+) passed", said)
    count = int(found.group(1)) - 1 if found else 0  # one of the tests is that nothing else is reported
    return Figure("planted faults found, nothing else", "≥ 40", str(count), count >= 40 and "failed" not in said)


def _plan(manifest: Path) -> None:
    """Plans an epoch as training does, from the batches' stream."""
    from sonant.chat.tokenizer import ChatTokenizer
    from sonant.data.plan import PlanConfig
    from sonant.data.training_set import DataConfig, Ears, SourceConfig, make_stream
    from sonant.models.parts import resolve_part

    tokenizer = ChatTokenizer.from_folder(resolve_part("tiny/llm"))
    plan = PlanConfig(token_budget=4096, micro_batches=8)
    data = DataConfig(speech={"asr": SourceConfig(manifest=str(manifest.absolute()))}, plan=plan)
    stream = make_stream(data, tokenizer, Ears((), audio_tokens=lambda duration_s: round(12.5 * duration_s)))
    epoch = stream.plan.epoch(0)
    print(f"{len(epoch.rows):,} rows in {epoch.num_steps:,} steps, padding {stream.padding_share:.1%}")


if __name__ == "__main__":
    _plan(Path(sys.argv[1]))
