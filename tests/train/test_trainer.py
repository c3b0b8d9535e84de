import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from train_toy import SPEC, ToyLoss, ToySource, ToySpeechLM, run

from sonant.batch import Batch
from sonant.errors import ConfigError, TrainingError
from sonant.train.trainer import TrainConfig, train

Change = Callable[[Batch, int, int, int], Batch]


def log(run_dir: Path) -> list[dict]:
    return [r for line in (run_dir / "log.jsonl").read_text().splitlines() if "loss" in (r := json.loads(line))]


def train_toy(model: ToySpeechLM, run_dir: Path, **settings: object) -> None:
    config = TrainConfig(**({"steps": 6, "device": "cpu", "log_every": 100} | settings))
    train(model, ToySource(), loss=ToyLoss(), config=config, groups=model.groups(), run_dir=run_dir)


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Lets a test change the micro-batches of the toy."""

    def install(change: Change) -> None:
        make = ToySource.micro_batch
        monkeypatch.setattr(ToySource, "micro_batch", lambda self, e, s, p: change(make(self, e, s, p), e, s, p))

    return install


def not_a_number(batch: Batch) -> Batch:
    return replace(batch, features={SPEC: batch.features[SPEC] * torch.nan})


def test_steps_equal_a_loop_written_by_hand(tmp_path: Path) -> None:
    """Mean over all supervised tokens of a step, clipped, AdamW: with torch alone, and no trainer."""
    ours, plain, source, loss = ToySpeechLM(), ToySpeechLM(), ToySource(), ToyLoss()
    train_toy(ours, tmp_path, steps=3, schedule="constant", clip_norm=0.5, betas=(0.9, 0.98))
    optimizer = torch.optim.AdamW(
        [{k: v for k, v in g.items() if k not in ("name", "start_step")} for g in plain.groups()], betas=(0.9, 0.98)
    )
    for step in range(3):
        batches = [source.micro_batch(0, step, place) for place in range(4)]
        mean = sum(loss(plain, b).total for b in batches) / sum(float(b.loss_mask[:, 1:].sum()) for b in batches)
        optimizer.zero_grad()
        mean.backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        record = log(tmp_path)[step]
        assert record["loss"] == pytest.approx(float(mean.detach()), rel=1e-6)
        assert record["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    for a, b in zip(ours.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_frozen_parameters_stay_and_the_others_learn(tmp_path: Path) -> None:
    model, before = ToySpeechLM(), ToySpeechLM().state_dict()
    train_toy(model, tmp_path, steps=30, warmup_steps=3)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) is not parameter.requires_grad, name
    losses = [r["loss"] for r in log(tmp_path)]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


def test_the_log_has_all_that_a_plot_needs(tmp_path: Path) -> None:
    result = run(tmp_path, steps=6, warmup_steps=2, schedule="linear", final_lr_ratio=0.5)
    records = log(tmp_path)
    assert [(r["step"], r["epoch"]) for r in records] == [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 1)]
    first = records[0]
    assert first["lr"] == pytest.approx({"adapter": 1.5e-3, "lora": 5e-3})
    assert set(first["task_loss"]) == set(first["shares"]) == {"asr", "qa"}
    assert {"tokens_per_s", "audio_s_per_s", "padding_share", "data_s", "grad_norm", "bad_steps"} <= set(first)
    batches = [ToySource().micro_batch(0, 0, place) for place in range(4)]
    size, used = (
        sum(f(b) for b in batches) for f in (lambda b: b.token_ids.numel(), lambda b: int(b.token_lengths.sum()))
    )
    assert first["padding_share"] == pytest.approx(1 - used / size)
    assert sum(records[-1]["shares"].values()) == pytest.approx(1.0)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows[0]["ids"] == [name for b in batches for name in b.ids]
    assert (result.step, result.epoch, result.stopped, result.bad_steps) == (6, 1, None, 0)


def test_dropout_is_a_function_of_seed_and_step(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(tmp_path / name, steps=2, dropout=0.5, seed=seed)
    a, b, c = ([r["loss"] for r in log(tmp_path / name)] for name in "abc")
    assert a == b != c


def test_bf16_trains_close_to_fp32(tmp_path: Path) -> None:
    for name in ("fp32", "bf16"):
        train_toy(ToySpeechLM(), tmp_path / name, precision=name)
    a, b = ([r["loss"] for r in log(tmp_path / name)] for name in ("fp32", "bf16"))
    assert a != b
    assert a == pytest.approx(b, rel=0.02)


def test_matmul_holds_for_the_run_alone_and_is_said_once(tmp_path: Path) -> None:
    seen = []

    class Watched(ToyLoss):
        def __call__(self, model: torch.nn.Module, batch: Batch) -> object:
            seen.append(torch.get_float32_matmul_precision())
            return super().__call__(model, batch)

    for kind in ("highest", "medium"):
        model, config = ToySpeechLM(), TrainConfig(steps=3, device="cpu", matmul=kind)
        train(model, ToySource(), loss=Watched(), config=config, groups=model.groups(), run_dir=tmp_path / kind)
        assert [r.get("matmul") for r in log(tmp_path / kind)] == [kind, None, None]
    a, b = ([r["loss"] for r in log(tmp_path / name)] for name in ("highest", "medium"))
    assert a == pytest.approx(b, rel=0.02)  # medium rounds to bfloat16 where there is AMX
    assert seen == 12 * ["highest"] + 12 * ["medium"]
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_step_that_is_not_finite_is_skipped_counted_and_harms_nothing(
    tmp_path: Path, changed: Callable[[Change], None]
) -> None:
    changed(lambda batch, e, s, p: not_a_number(batch) if (e, s, p) == (0, 2, 0) else batch)
    model = ToySpeechLM()
    train_toy(model, tmp_path, max_bad_steps=1)
    records = log(tmp_path)
    assert [r.get("skipped") for r in records] == [None, None, "loss or gradient not finite", None, None, None]
    assert records[2]["rows"] == ["0-2-0-0", "0-2-0-1"]
    assert records[2]["loss"] is None
    assert records[-1]["bad_steps"] == 1
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


def test_too_many_bad_steps_in_a_row_end_the_run_and_say_where(
    tmp_path: Path, changed: Callable[[Change], None]
) -> None:
    changed(lambda batch, e, s, p: not_a_number(batch) if (e, p) == (1, 3) else batch)
    with pytest.raises(TrainingError, match=r"step 8 \(epoch 1, step 3 there\).*3 steps in a row.*1-2-3-0, 1-2-3-1"):
        run(tmp_path, max_bad_steps=2)


def test_a_step_without_any_supervised_token_changes_nothing(tmp_path: Path, changed: Callable[[Change], None]) -> None:
    changed(lambda batch, e, s, p: replace(batch, loss_mask=torch.zeros_like(batch.loss_mask)))
    model = ToySpeechLM()
    train_toy(model, tmp_path, steps=2)
    assert [(r["loss"], r["skipped"]) for r in log(tmp_path)] == [(0.0, "no supervised tokens")] * 2
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), ToySpeechLM().parameters(), strict=True))


def test_an_existing_run_is_never_overwritten(tmp_path: Path) -> None:
    run(tmp_path, steps=2)
    with pytest.raises(TrainingError, match="already holds a run; go on with it by resume=true"):
        run(tmp_path, steps=2)


def test_a_folder_with_only_a_config_is_not_yet_a_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("train: {}")
    assert run(tmp_path, steps=2).step == 2


def test_a_finished_run_resumes_to_its_end_at_once_and_may_be_prolonged(tmp_path: Path) -> None:
    run(tmp_path, steps=2, schedule="constant")
    assert run(tmp_path, steps=2, schedule="constant", resume=True).step == 2
    assert run(tmp_path, steps=4, schedule="constant", resume=True).step == 4
    assert [r["step"] for r in log(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize(("mode", "best_step"), [("min", 2), ("max", 6)])
def test_best_is_chosen_by_the_named_metric(mode: str, best_step: int, tmp_path: Path) -> None:
    result = run(tmp_path, steps=6, validate_every=2, metric="step", metric_mode=mode)
    assert (result.best, result.best_step) == (best_step, best_step)
    assert result.scores["step"] == 6
    best, last = ((tmp_path / name / "model.txt").read_text() for name in ("best", "last"))
    assert (best == last) is (best_step == 6)


def test_a_metric_that_is_not_measured_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"metric 'wer' is not among the scores \['size', 'step'\]"):
        run(tmp_path, steps=2, validate_every=1, metric="wer")


def test_parts_held_in_eval_mode_stay_so_after_validation(tmp_path: Path) -> None:
    model = ToySpeechLM()
    keep = model.train

    def train_but_norm(mode: bool = True) -> ToySpeechLM:
        keep(mode)
        model.adapter[1].eval()
        return model

    model.train = train_but_norm  # type: ignore[method-assign]
    config = TrainConfig(steps=2, device="cpu", validate_every=1)
    seen: list[bool] = []

    def validate(step: int) -> dict[str, float]:
        seen.append(model.llm.training)
        return {"wer": math.nan}

    train(model, ToySource(), loss=ToyLoss(), config=config, groups=model.groups(), run_dir=tmp_path, validate=validate)
    assert seen == [False, False]
    assert model.llm.training
    assert not model.adapter[1].training
    assert float(model.adapter[1].running_mean.abs().sum()) == 0.0


def test_a_run_stops_after_max_hours_and_can_go_on(tmp_path: Path) -> None:
    result = run(tmp_path, max_hours=1e-9)
    assert (result.step, result.stopped) == (1, "max_hours")
    assert not (tmp_path / "last").exists()
    assert run(tmp_path, steps=3, resume=True).step == 3


def test_settings_that_make_no_sense_are_refused() -> None:
    from sonant.config import load_config

    with pytest.raises(ConfigError, match="did you mean 'warmup_steps'"):
        load_config(TrainConfig, [], overrides=["warmup_step=3"])
    with pytest.raises(ConfigError, match="'clip_norm'"):
        load_config(TrainConfig, [], overrides=["clip_norm=0"])
