"""Several processes, really started: slow, so marked `recipe`."""

import ast
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import sonant.train.distributed
from sonant.errors import CheckpointError, TrainingError
from sonant.train.distributed import (
    Ranks,
    check_world_size,
    gather_json,
    joined,
    on_each_rank,
    on_rank_zero,
    parallelize,
)

TOY = Path(__file__).with_name("train_toy.py")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def launch(run_dir: Path, *options: object, ranks: int) -> list[subprocess.Popen[str]]:
    """Starts the toy in `ranks` processes, with the environment torchrun gives them."""
    command = [sys.executable, str(TOY), str(run_dir), *map(str, options)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(ranks):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
        environment = ENVIRONMENT | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} | (place if ranks > 1 else {})
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **pipes))  # type: ignore[call-overload]
    return processes


def start(run_dir: Path, *options: object, ranks: int = 1) -> str:
    """Trains the toy in `ranks` processes and returns what rank 0 printed."""
    processes = launch(run_dir, *options, ranks=ranks)
    spoken = [process.communicate(timeout=400) for process in processes]
    assert all(process.returncode == 0 for process in processes), spoken[0][1][-3000:]
    return spoken[0][0]


def losses(run_dir: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return {r["step"]: r["loss"] for r in records if "loss" in r}


def model(folder: Path) -> dict[str, list[float]]:
    return ast.literal_eval((folder / "model.txt").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    start(folder)
    return folder


def test_a_number_of_processes_that_does_not_fit_is_an_error_with_the_sizes_that_do() -> None:
    check_world_size(2, micro_batches=6)
    with pytest.raises(
        TrainingError, match=r"4 processes cannot share the 6 micro-batches.*start 1, 2, 3, 6 processes"
    ):
        check_world_size(4, micro_batches=6)


def test_one_process_talks_to_itself() -> None:
    ranks = Ranks(torch.device("cpu"))
    assert gather_json({"a": [1.5, None]}, group=None) == [{"a": [1.5, None]}]
    assert on_rank_zero(lambda: 3, ranks=ranks, group=None) == 3

    def fail() -> None:
        raise CheckpointError("damaged")

    with pytest.raises(CheckpointError, match="damaged"):
        on_rank_zero(fail, ranks=ranks, group=None)


def test_what_goes_wrong_on_one_rank_is_told_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [[3, None], [None, "no room"]]
    monkeypatch.setattr(sonant.train.distributed, "gather_json", lambda value, group: said)
    with pytest.raises(TrainingError, match="rank 1 stopped: no room"):
        on_each_rank(lambda: 3, group=None)


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="torch sees no GPU"), joined("cuda"):
        pass


def test_several_processes_without_a_way_to_share_are_an_error() -> None:
    unit = torch.nn.Linear(1, 1)
    with pytest.raises(TrainingError, match="2 processes were started; use ddp or fsdp2"):
        parallelize(unit, layers_of=unit, how="none", ranks=Ranks(torch.device("cpu"), 0, 2))


def test_a_quantized_llm_is_not_sharded() -> None:
    unit: Any = torch.nn.Linear(1, 1)
    unit.is_quantized = True
    with pytest.raises(TrainingError, match=r"cannot shard a quantised LLM .* use ddp"):
        parallelize(unit, layers_of=unit, how="fsdp2", ranks=Ranks(torch.device("cpu"), 0, 2))


@pytest.mark.recipe
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("how", "layers"), [("ddp", "none"), ("fsdp2", "none"), ("fsdp2", "layers")])
def test_two_ranks_train_as_one_with_text_only_and_mixed_batches(
    how: str, layers: str, alone: Path, tmp_path: Path
) -> None:
    assert "stopped None at 12" in start(tmp_path, "--parallel", how, "--activation-checkpointing", layers, ranks=2)
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-6)
    assert (tmp_path / "rows.jsonl").read_text() == (alone / "rows.jsonl").read_text()
    ours, theirs = model(tmp_path / "last"), model(alone / "last")
    assert ours.keys() == theirs.keys()
    for name in ours:
        if "running" not in name and "num_batches" not in name:  # a mean over ranks, not a running mean over all
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name


@pytest.mark.recipe
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_two_ranks_then_one_then_four_train_as_one(how: str, alone: Path, tmp_path: Path) -> None:
    assert "stopped SIGTERM at 5" in start(tmp_path, "--parallel", how, "--stop-at", 5, ranks=2)
    assert "stopped SIGTERM at 9" in start(tmp_path, "--parallel", how, "--stop-at", 9, ranks=1)
    assert "stopped None at 12" in start(tmp_path, "--parallel", how, ranks=4)
    shards = [path.name[:11] for path in (tmp_path / "checkpoints/step_12").glob("*.safetensors")]
    assert sorted(shards) == [f"shard-{rank:05d}" for rank in (1, 2, 3, 4)]  # each rank wrote its own
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-5)
    assert (tmp_path / "rows.jsonl").read_text() == (alone / "rows.jsonl").read_text()


@pytest.mark.recipe
@pytest.mark.timeout(900)
def test_three_ranks_for_four_micro_batches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="start 1, 2, 4 processes"):
        start(tmp_path, ranks=3)


@pytest.mark.recipe
@pytest.mark.timeout(900)
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_killed_again_and_again_ends_bit_for_bit_as_an_undisturbed_one(ranks: int, tmp_path: Path) -> None:
    """SIGKILL at random moments; with a checkpoint every step, most of them while one is being written."""
    options = ("--steps", 40, "--save-every", 1, "--validate-every", 10)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    start(undisturbed, *options, ranks=ranks)
    dice = random.Random(ranks)
    for kill in range(3):
        kill_after(killed, [*options, "--delay-s", 0.05], steps=10 * kill + dice.randint(1, 9), ranks=ranks)
    assert "at 40" in start(killed, *options, ranks=ranks)
    assert losses(killed) == losses(undisturbed)
    for name in ("rows.jsonl", "last/model.txt", "best/model.txt"):
        assert (killed / name).read_text() == (undisturbed / name).read_text(), name


def kill_after(run_dir: Path, options: list[object], *, steps: int, ranks: int) -> None:
    """Kills all processes as soon as the log shows that many steps, a random moment later."""
    processes = launch(run_dir, *options, ranks=ranks)
    log, deadline = run_dir / "log.jsonl", time.monotonic() + 300
    while not log.exists() or len(log.read_bytes().splitlines()) < steps:
        assert all(process.poll() is None for process in processes), "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(random.random() * 0.08)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.communicate()
