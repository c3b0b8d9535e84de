import json
import resource
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_toy import ToySource, ToySpeechLM, run

import sonant.train.resume
from sonant.errors import CheckpointError, TrainingError
from sonant.train.distributed import Ranks
from sonant.train.optim import make_optimizer, name_groups
from sonant.train.resume import Checkpointer, Progress, checkpoints, fault_of, state_tensors


def losses(run_dir: Path) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"]) for r in records if "loss" in r]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(folder, dropout=0.1, save_every=4, validate_every=5, metric="size", keep=3)
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    run(folder, dropout=0.1, save_every=4, validate_every=5, metric="size", stop_at=7)
    return folder


@pytest.fixture
def half(stopped: Path, tmp_path: Path) -> Path:
    """A run stopped after step 7 of 12, with checkpoints of steps 4 and 7."""
    return Path(shutil.copytree(stopped, tmp_path, dirs_exist_ok=True))


def names(run_dir: Path) -> list[str]:
    return [path.name for path in checkpoints(run_dir / "checkpoints")]


def test_a_stopped_run_goes_on_bit_for_bit_with_the_same_rows(half: Path, finished: Path) -> None:
    assert names(half) == ["step_7", "step_4"]
    result = run(half, dropout=0.1, save_every=4, validate_every=5, metric="size", resume=True)
    assert losses(half) == losses(finished)
    assert (half / "rows.jsonl").read_text() == (finished / "rows.jsonl").read_text()
    assert (half / "last/model.txt").read_text() == (finished / "last/model.txt").read_text()
    assert (result.step, result.stopped) == (12, None)
    assert names(half) == ["step_12", "step_8"]


@pytest.mark.parametrize("stop_at", [3, 7])
def test_a_group_that_starts_late_does_so_on_either_side_of_a_resume(stop_at: int, tmp_path: Path) -> None:
    """Stopped before the group starts (at step 5, in the middle of its warm-up ever after) or after."""
    settings = {"dropout": 0.1, "lora_start": 5, "save_every": 4}
    run(tmp_path / "whole", **settings)
    run(tmp_path / "parts", stop_at=stop_at, **settings)
    if stop_at < 5:
        saved = load_file(next((tmp_path / f"parts/checkpoints/step_{stop_at}").glob("*.safetensors")))
        start = {f"model.{name}": p for name, p in ToySpeechLM().named_parameters() if "lora" in name}
        assert start
        assert all(torch.equal(saved[name], p) for name, p in start.items())
    run(tmp_path / "parts", resume=True, **settings)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    ends = [(tmp_path / name / "last/model.txt").read_text() for name in ("parts", "whole")]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("harm", ["flip", "cut", "no manifest", "no tensors", "empty manifest"])
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    harm: str, half: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = half / "checkpoints/step_7"
    tensors = next(newest.glob("*.safetensors"))
    if harm == "flip":
        raw = bytearray(tensors.read_bytes())
        raw[-3] ^= 1
        tensors.write_bytes(raw)
    elif harm == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    elif harm == "no tensors":
        tensors.unlink()
    elif harm == "no manifest":
        (newest / "manifest.json").unlink()
    else:
        (newest / "manifest.json").write_text("")
    run(half, dropout=0.1, save_every=4, validate_every=5, metric="size", resume=True)
    assert f"warning: checkpoint {newest} is damaged" in capsys.readouterr().err
    assert losses(half) == losses(finished)


def test_a_checkpoint_that_was_being_written_is_ignored_and_removed(half: Path) -> None:
    (half / "checkpoints/step_9.tmp").mkdir()
    run(half, save_every=4, resume=True)
    assert names(half) == ["step_12", "step_8"]
    assert not list((half / "checkpoints").glob("*.tmp"))


def test_when_all_checkpoints_are_damaged_nothing_is_trained_anew_by_stealth(half: Path) -> None:
    for path in checkpoints(half / "checkpoints"):
        (path / "progress.json").write_text("{}")
    with pytest.raises(CheckpointError, match="all 2 checkpoints are damaged"):
        run(half, resume=True)


@pytest.mark.filterwarnings("ignore:torch.distributed is")  # `train` does it for its whole length
def test_a_damaged_later_checkpoint_never_pushes_a_good_one_out(tmp_path: Path) -> None:
    (tmp_path / "checkpoints/step_100").mkdir(parents=True)
    checkpointer = toy_checkpointer(tmp_path / "checkpoints", keep=1)
    for step in (2, 3):
        checkpointer.save(Progress(step=step))
    checkpointer.wait()
    assert names(tmp_path) == ["step_100", "step_3"]


@pytest.mark.filterwarnings("ignore:torch.distributed is")
def test_a_folder_that_the_machines_do_not_share_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = {"shard-00002-model-00001-of-00001.safetensors": {"size": 8, "sha256": "0"}}
    monkeypatch.setattr(sonant.train.resume, "on_each_rank", lambda act, group: [act(), elsewhere])
    checkpointer = toy_checkpointer(tmp_path / "checkpoints")
    checkpointer.save(Progress(step=2))
    with pytest.raises(TrainingError, match=r"does not see shard-00002-\S+ of another rank; .* all machines share"):
        checkpointer.wait()
    assert names(tmp_path) == []


def toy_checkpointer(folder: Path, *, keep: int = 2) -> Checkpointer:
    model = ToySpeechLM()
    optimizer = make_optimizer(model, name_groups(model, model.groups(), weight_decay=0.0), betas=(0.9, 0.98))
    return Checkpointer(folder, model=model, optimizer=optimizer, ranks=Ranks(torch.device("cpu")), keep=keep)


def test_the_state_holds_what_training_changes_and_nothing_frozen(tmp_path: Path) -> None:
    model = ToySpeechLM()
    optimizer = make_optimizer(model, name_groups(model, model.groups(), weight_decay=0.0), betas=(0.9, 0.98))
    state = state_tensors(model, optimizer)
    assert {name.split(".")[0] for name in state} == {"model", "optimizer"}
    assert not [name for name in state if "frozen" in name or "embedding" in name]
    assert {"model.adapter.1.running_mean", "model.scale", "optimizer.scale.step", "optimizer.scale.exp_avg"} <= set(
        state
    )
    assert all(tensor.ndim for tensor in state.values())
    state["optimizer.scale.step"].fill_(5.0)
    assert float(optimizer.state[model.scale]["step"]) == 5.0


def test_a_checkpoint_of_other_trained_parameters_is_refused(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ToySpeechLM.__init__

    def without_bias(self: ToySpeechLM, **options: float) -> None:
        original(self, **options)
        self.adapter[2].bias = None

    monkeypatch.setattr(ToySpeechLM, "__init__", without_bias)
    with pytest.raises(CheckpointError, match=r"4 tensors differ; the first is model\.adapter\.2\.bias: \[12\] in the"):
        run(half, resume=True)


def test_a_full_disk_is_one_clear_error_and_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, make = resource.getrlimit(resource.RLIMIT_FSIZE), ToySource.micro_batch

    def fill_disk(self: ToySource, epoch: int, step: int, place: int) -> object:
        if (epoch, step) == (1, 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))  # stands for a disk with 8 kB left
        return make(self, epoch, step, place)

    monkeypatch.setattr(ToySource, "micro_batch", fill_disk)
    try:
        with pytest.raises(
            TrainingError, match=r"step_8: the checkpoint could not be written \(File too large\).*step_4 is"
        ):
            run(tmp_path, save_every=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["step_4"]
    assert fault_of(tmp_path / "checkpoints/step_4") is None
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))


def test_neither_saving_nor_loading_touches_pickle(tmp_path: Path) -> None:
    seen: list[str] = []
    watching = [True]
    sys.addaudithook(lambda event, _: seen.append(event) if watching[0] and event == "pickle.find_class" else None)
    run(tmp_path, steps=4, save_every=2, stop_at=3)
    run(tmp_path, steps=4, save_every=2, resume=True)
    watching[0] = False
    assert not seen
    kinds = {path.suffix for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors"}
