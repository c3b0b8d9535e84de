"""Weak scaling: as many micro-batches a step as ranks, on 1, 2 and 4 gloo ranks of this machine, one thread each.

Perfect would be the audio seconds of one rank times the ranks, as far as there are cores: four ranks on two cores can
at best do what two do. It shows what the exchange costs, not what a network of GPUs will do.
"""

import os
import shutil
import statistics

from bench.figure import RUNS, Figure, reported
from bench.resume import command, finish, steps_of

STEPS, WARMUP, RANKS = 24, 6, (1, 2, 4)


def measure() -> list[Figure]:
    figures = []
    os.environ["OMP_NUM_THREADS"] = "1"
    cores = len(os.sched_getaffinity(0))
    for parallel in ("ddp", "fsdp2"):
        speeds = {ranks: _audio_s_per_s(ranks, parallel) for ranks in RANKS}
        for ranks, speed in speeds.items():
            share = 100 * speed / (speeds[1] * min(ranks, cores))
            what = f"{parallel}, {ranks} ranks on {cores} cores: audio seconds trained per second"
            figures.append(
                reported(what, [speed], f"audio-s/s, {share:.0f} % of one rank's x {min(ranks, cores)} cores")
            )
    return figures


def _audio_s_per_s(ranks: int, parallel: str) -> float:
    run = RUNS / "weak_scaling" / f"{parallel}_{ranks}"
    shutil.rmtree(run, ignore_errors=True)
    settings = (
        *("data.plan.token_budget=1200", f"data.plan.micro_batches={ranks}", f"train.steps={STEPS}"),
        *("train.schedule=constant", "train.save_every=1000", "train.validate_every=0", "train.metric=null"),
        f"train.parallel={parallel if ranks > 1 else 'auto'}",
    )
    finish(command(run, settings, ranks=ranks))
    lines = [line for step, line in steps_of(run).items() if step > WARMUP]
    return statistics.fmean(line["audio_s_per_s"] * line["seconds"] for line in lines) / statistics.fmean(
        line["seconds"] for line in lines
    )
