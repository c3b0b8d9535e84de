"""Sonant beside NeMo SALM and the plain transformers loop: the same clips, LLM and sizes, one after the other.

BENCH_PEERS=FOLDER names the folder that the peers' harness has made (`run_peers.sh FOLDER`: clips, LLM, a venv of each
peer), BENCH_PEERS_HARNESS the harness itself. Each system is measured in a process of its own, with OpenMP's threads
put to sleep between products as the harness does ("passive"), and as torch comes ("default").
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.figure import Figure, at_least, at_most, reported

POLICIES = {"passive": {"OMP_WAIT_POLICY": "PASSIVE"}, "default": {}}
THEIRS = {
    "nemo_salm": ("v_nemo", "bench_nemo.py", ()),
    "hf_nopad_grouped": ("v_hf", "bench_hf.py", ("--encoder", "nopad", "--grouped")),
    "hf_cached_grouped": ("v_hf", "bench_hf.py", ("--encoder", "cached", "--grouped", "--no-decode")),
}
FLOPS = {
    "nemo_salm": ("v_nemo", "bench_nemo.py", ("--flops",)),
    "hf_nopad_grouped": ("v_hf", "bench_hf.py", ("--encoder", "nopad", "--flops")),
}
OURS = {
    "parakeet": ("--encoder", "parakeet"),
    "parakeet_text": ("--encoder", "parakeet", "--text"),
    "parakeet_bf16": ("--encoder", "parakeet", "--precision", "bf16"),
    "whisper": ("--encoder", "whisper"),
    "cached": ("--encoder", "whisper", "--frozen"),
    "parakeet_decode": ("--encoder", "parakeet", "--decode", "8", "32"),
    "whisper_decode": ("--encoder", "whisper", "--decode", "8", "32"),
}
# Where threads sleep between products, waking the second one costs small products more than it spares them.
ALONE = {"passive": ("parakeet", "parakeet_text", "parakeet_bf16"), "default": ()}


def measure() -> list[Figure]:
    if not {"BENCH_PEERS", "BENCH_PEERS_HARNESS"} <= os.environ.keys():
        asked = "BENCH_PEERS, BENCH_PEERS_HARNESS: folders of the peers and of their harness"
        return [Figure("beside the peers", asked, "they are not set")]
    folder, harness = Path(os.environ["BENCH_PEERS"]).resolve(), Path(os.environ["BENCH_PEERS_HARNESS"]).resolve()
    peak = _run(folder, "limit", [*_venv(folder, "v_hf"), str(harness / "bench_limit.py")])["peak_fp32_gflops"]
    floors = {
        name: peak / _theirs(folder, harness, f"flops_{name}", FLOPS[name])["flops_unpadded"]["gflop_per_audio_s"]
        for name in FLOPS
    }
    figures = [reported("peak of fp32 products, as torch multiplies by default", [peak], "GFLOP/s")]
    for policy, extra in POLICIES.items():
        theirs = {n: _theirs(folder, harness, f"{n}_{policy}", run, extra) for n, run in THEIRS.items()}
        ours = {}
        for n, run in OURS.items():
            threads = ("--threads", "1" if n in ALONE[policy] else "2")
            ours[n] = _ours(folder, f"sonant_{n}_{policy}", (*run, *threads), extra)
        figures += [
            Figure(f"{figure.what} ({policy})", figure.asked, figure.measured, figure.reached)
            for figure in _figures(theirs, ours, floors)
        ]
    return figures


def _figures(theirs: dict[str, Any], ours: dict[str, Any], floors: dict[str, float]) -> list[Figure]:
    nemo, grouped, cached = (_speed(theirs[name]) for name in ("nemo_salm", "hf_nopad_grouped", "hf_cached_grouped"))
    fast, whisper = _speed(ours["parakeet"]), _speed(ours["whisper"])
    tokens = [ours[name]["train"]["positions_per_s"]["median"] for name in ("parakeet_text", "parakeet")]
    answers = {n: ours["whisper_decode"]["decode"][n]["clips_per_s"]["median"] for n in ("8", "32")}
    fast_answers = {n: ours["parakeet_decode"]["decode"][n]["clips_per_s"]["median"] for n in ("8", "32")}
    nemo_answers, grouped_answers = (
        theirs[name]["decode"]["clips_per_s"]["median"] for name in ("nemo_salm", "hf_nopad_grouped")
    )
    waits = [100 * run["train"]["data_share"] for run in ours.values() if "train" in run]
    memory = [run["peak_rss_mb"] for run in (ours["parakeet"], theirs["nemo_salm"])]
    return [
        reported("NeMo SALM / FastConformer class here", [nemo, fast], "audio-s/s"),
        at_least("FastConformer class against NeMo SALM", 2.0, [fast / nemo], "x"),
        at_least("the same, of NeMo's floor", 50, [100 * fast / floors["nemo_salm"]], "%"),
        at_least("bfloat16, against NeMo SALM", 2.5, [_speed(ours["parakeet_bf16"]) / nemo], "x"),
        reported("grouped loop / Whisper class here", [grouped, whisper], "audio-s/s"),
        at_least("Whisper class against the grouped plain loop", 1.4, [whisper / grouped], "x"),
        at_least("the same, of the plain loop's floor", 75, [100 * whisper / floors["hf_nopad_grouped"]], "%"),
        reported("cached loop / here", [cached, _speed(ours["cached"])], "audio-s/s"),
        at_least("frozen encoder, cached, against the loop", 1.6, [_speed(ours["cached"]) / cached], "x"),
        reported("greedy decoding: NeMo, grouped loop", [nemo_answers, grouped_answers], "clips/s"),
        reported("greedy decoding here, FastConformer in batches of 8, 32", list(fast_answers.values()), "clips/s"),
        reported("greedy decoding here, Whisper in batches of 8, 32", list(answers.values()), "clips/s"),
        at_least("batches of 8, FastConformer against NeMo", 3.0, [fast_answers["8"] / nemo_answers], "x"),
        at_least("batches of 32, FastConformer against NeMo", 3.0, [fast_answers["32"] / nemo_answers], "x"),
        at_least("batches of 8, Whisper against the loop", 2.5, [answers["8"] / grouped_answers], "x"),
        at_least("batches of 32, Whisper against the loop", 2.5, [answers["32"] / grouped_answers], "x"),
        at_least("positions a second with text rows, against speech alone", 1.0, [tokens[0] / tokens[1]], "x"),
        reported("peak memory here / NeMo", memory, "MB"),
        at_most("the same", 0.6, [memory[0] / memory[1]], "x"),
        at_most("waiting for data", 3, waits, "% of a step"),
    ]


def _speed(result: dict[str, Any]) -> float:
    return float(result["train"]["audio_s_per_s"]["median"])


def _venv(folder: Path, name: str) -> list[str]:
    return [str(folder / name / "bin" / "python")]


def _theirs(
    folder: Path, harness: Path, name: str, run: tuple[str, str, tuple[str, ...]], extra: dict[str, str] | None = None
) -> Any:
    venv, script, arguments = run
    command = [*_venv(folder, venv), str(harness / script), str(folder / "data")]
    return _run(folder, name, command, arguments, extra)


def _ours(folder: Path, name: str, arguments: tuple[str, ...], extra: dict[str, str]) -> Any:
    return _run(folder, name, [sys.executable, "-m", "bench.peers_ours", str(folder)], arguments, extra)


def _run(
    folder: Path, name: str, command: list[str], arguments: tuple[str, ...] = (), extra: dict[str, str] | None = None
) -> Any:
    """What the command wrote to FOLDER/results/NAME.json; it is not run again where that is there already."""
    result = folder / "results" / f"{name}.json"
    if not result.exists():
        result.parent.mkdir(parents=True, exist_ok=True)
        environment = {n: v for n, v in os.environ.items() if n != "OMP_WAIT_POLICY"} | (extra or {})
        threads = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false"}
        with result.with_suffix(".log").open("w") as log:
            subprocess.run(
                [*command, str(result), *arguments],
                env=environment | threads | {"HF_HUB_OFFLINE": "1"},
                check=True,
                stdout=log,
                stderr=log,
            )
    return json.loads(result.read_text())
