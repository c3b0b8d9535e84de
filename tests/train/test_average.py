import contextlib
import json
from pathlib import Path

import pytest
import torch
from train_toy import ToyLoss, ToySource, ToySpeechLM, run

from sonant.train.average import WeightAverage
from sonant.train.optim import make_optimizer, name_groups
from sonant.train.resume import Progress
from sonant.train.trainer import TrainConfig, train


def saved(run_dir: Path, which: str = "last") -> str:
    return (run_dir / which / "model.txt").read_text()


def test_what_is_saved_is_the_mean_of_the_weights_after_each_of_the_last_steps(tmp_path: Path) -> None:
    """Steps 4, 5 and 6 of 6, their weights from runs that ended there; the run itself goes on from the last ones."""
    each = []
    for steps in (4, 5, 6):
        model = ToySpeechLM()
        config = TrainConfig(steps=steps, schedule="constant", device="cpu")
        train(model, ToySource(), loss=ToyLoss(), config=config, groups=model.groups(), run_dir=tmp_path / str(steps))
        each.append(dict(model.state_dict()))
    mean, kept = ToySpeechLM(), {}
    config = TrainConfig(steps=6, schedule="constant", device="cpu", average_last=0.5)
    train(
        mean,
        ToySource(),
        loss=ToyLoss(),
        config=config,
        groups=mean.groups(),
        run_dir=tmp_path / "mean",
        save_model=lambda folder: kept.update({n: t.clone() for n, t in mean.state_dict().items()}),
    )
    for name, parameter in mean.named_parameters():
        torch.testing.assert_close(kept[name], sum(state[name] for state in each) / 3)
        assert torch.equal(parameter, each[-1][name])
    assert torch.equal(kept["adapter.1.running_mean"], each[-1]["adapter.1.running_mean"])


def test_training_itself_takes_no_notice(tmp_path: Path) -> None:
    def losses(name: str) -> list[float]:
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        return [r["loss"] for line in lines if "loss" in (r := json.loads(line))]

    run(tmp_path / "with", average_last=0.75, validate_every=2)
    run(tmp_path / "without", validate_every=2)
    assert losses("with") == losses("without")
    assert saved(tmp_path / "with") != saved(tmp_path / "without")


@pytest.mark.parametrize("stop_at", [3, 7])
def test_a_resumed_run_has_the_same_mean_bit_for_bit(stop_at: int, tmp_path: Path) -> None:
    """Stopped before the mean begins (after step 6 of 12) or after."""
    how = {"dropout": 0.1, "average_last": 0.5, "validate_every": 5, "metric": "size"}
    run(tmp_path / "whole", **how)
    assert run(tmp_path / "stopped", stop_at=stop_at, **how).step == stop_at
    run(tmp_path / "stopped", resume=True, **how)
    assert saved(tmp_path / "stopped") == saved(tmp_path / "whole")
    assert saved(tmp_path / "stopped", "best") == saved(tmp_path / "whole", "best")


def test_a_finished_run_saves_its_mean_again_when_it_is_resumed(tmp_path: Path) -> None:
    run(tmp_path, average_last=0.5)
    before = saved(tmp_path)
    run(tmp_path, average_last=0.5, resume=True)
    assert saved(tmp_path) == before


def test_the_weights_are_back_after_an_error_and_untouched_before_the_first_counted_step() -> None:
    model = ToySpeechLM()
    optimizer = make_optimizer(model, name_groups(model, model.groups(), weight_decay=0.0), betas=(0.9, 0.98))
    average = WeightAverage(optimizer, share=0.5, steps=4)
    at = Progress(step=2)
    average.count(at)
    with average.in_place(at):
        assert float(model.scale.detach().sum()) == 3.0
    at.step = 3
    average.count(at)
    with torch.no_grad():
        model.scale.add_(2.0)
    at.step = 4
    average.count(at)
    with contextlib.suppress(ZeroDivisionError), average.in_place(at):
        assert model.scale.tolist() == [2.0, 2.0, 2.0]
        raise ZeroDivisionError
    assert model.scale.tolist() == [3.0, 3.0, 3.0]


def test_a_run_that_is_resumed_with_a_larger_share_has_the_mean_of_the_steps_it_counted(tmp_path: Path) -> None:
    """The count was told from the step once: steps before the stop counted as weights of zero."""
    run(tmp_path / "wide", stop_at=9, average_last=0.1)
    run(tmp_path / "wide", resume=True, average_last=0.75)
    run(tmp_path / "last_three", average_last=0.25)
    assert saved(tmp_path / "wide") == saved(tmp_path / "last_three")
