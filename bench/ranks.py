"""The same run on one rank and on two, by DDP and by FSDP2; and runs that go on with 2, 1 and 4 ranks."""

import shutil
from pathlib import Path

from bench.figure import RUNS, Figure, at_most, reported
from bench.resume import command, finish, steps_of

STEPS = 12
SETTINGS = (
    *("data.plan.token_budget=600", "data.plan.micro_batches=4", "train.schedule=constant", "train.save_every=100"),
    *("train.validate_every=0", "train.metric=null"),
)


def measure() -> list[Figure]:
    shutil.rmtree(RUNS / "ranks", ignore_errors=True)
    alone = _train("1", STEPS, ranks=1)
    figures = []
    for parallel in ("ddp", "fsdp2"):
        two = _train(f"2_{parallel}", STEPS, ranks=2, parallel=parallel)
        figures.append(_difference(f"2 ranks (gloo, {parallel}) against 1, {STEPS} steps", alone, two))
    for parallel in ("ddp", "fsdp2"):
        for steps, ranks in ((STEPS // 3, 2), (2 * STEPS // 3, 1), (STEPS, 4)):
            changing = _train(f"2_1_4_{parallel}", steps, ranks=ranks, parallel=parallel if ranks > 1 else "auto")
        figures.append(_difference(f"resume 2 -> 1 -> 4 ranks ({parallel}) against 1", alone, changing))
        figures.append(
            reported(
                f"largest share of the last checkpoint that one of 4 ranks wrote ({parallel})", [_share(changing)], "%"
            )
        )
    return figures


def _share(run: Path) -> float:
    """Percent of the tensors' bytes; 25 would be level."""
    sizes = [path.stat().st_size for path in (run / "checkpoints" / f"step_{STEPS}").glob("*.safetensors")]
    return 100 * max(sizes) / sum(sizes)


def _train(name: str, steps: int, *, ranks: int, parallel: str = "auto") -> Path:
    """Trains up to `steps`, going on where the run of this name stopped."""
    run = RUNS / "ranks" / name
    settings = (*SETTINGS, f"train.steps={steps}", f"train.parallel={parallel}")
    finish([*command(run, settings, ranks=ranks), "--resume"])
    return run


def _difference(what: str, one: Path, other: Path) -> Figure:
    ours, theirs = steps_of(one), steps_of(other)
    assert any(task.startswith("text_") for line in ours.values() for task in line["task_loss"]), "no text-only rows"
    assert ours.keys() == theirs.keys(), f"{one} and {other} did not make the same steps"
    worst = max(abs(ours[step]["loss"] - theirs[step]["loss"]) for step in ours)
    return at_most(f"{what}: largest difference of a loss", 1e-5, [worst], "")
