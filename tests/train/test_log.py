import json
from pathlib import Path

import pytest
import torch
from train_toy import ToySource

from sonant.train.log import RunLog, describe, interleave, measure, rates, truncate

RECORD = {
    "step": 1,
    "loss": 1.5,
    "task_loss": {"asr": 1.0, "qa": 2.0},
    "tokens_per_s": 1234.5,
    "audio_s_per_s": 9.6,
    "padding_share": 0.25,
}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_truncating_drops_later_steps_and_a_line_cut_by_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 2, "scores": {}}\n{"step": 3}\n{"st')
    truncate(path, step=2)
    assert lines(path) == [{"step": 1}, {"step": 2}, {"step": 2, "scores": {}}]
    truncate(tmp_path / "absent.jsonl", step=2)


def test_a_value_that_is_not_finite_is_null_in_the_log(tmp_path: Path) -> None:
    log = RunLog(tmp_path, steps=5, done=0, log_every=1, rank=0)
    log.step(RECORD | {"loss": float("nan"), "skipped": "loss or gradient not finite"})
    assert lines(tmp_path / "log.jsonl")[0]["loss"] is None


def test_without_a_terminal_progress_is_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(tmp_path, steps=4, done=0, log_every=2, rank=0)
    for step in range(1, 5):
        log.step(RECORD | {"step": step}, rows=["a"])
    log.note({"step": 4, "scores": {"wer": 0.5}}, "step 4 validation: wer 0.5")
    log.close()
    shown = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in shown[:-1]] == ["1/4", "2/4", "4/4"]
    assert "loss 1.5000 (asr 1.000 qa 2.000)  1234 tokens/s  10 audio s/s  padding 25 %  left 0:00:00" in shown[0]
    assert shown[-1] == "step 4 validation: wer 0.5"
    assert lines(tmp_path / "rows.jsonl")[3] == {"step": 4, "ids": ["a"]}


def test_on_a_terminal_progress_is_one_live_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    log = RunLog(tmp_path, steps=4, done=1, log_every=1, rank=0)
    log.step(RECORD | {"step": 2})
    log.note({"step": 2}, "step 2 validation: wer 0.5")
    log.close()
    assert "2/4" in (shown := capsys.readouterr().err)
    assert "wer 0.5" in shown


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", steps=4, done=0, log_every=1, rank=1)
    log.step(RECORD)
    log.note(RECORD, "text")
    log.close()
    assert not (tmp_path / "run").exists()


def test_a_skipped_step_says_so() -> None:
    assert describe({"skipped": "no supervised tokens"}) == "skipped: no supervised tokens"


def test_rates_are_those_of_all_ranks_and_padding_is_the_padding_share() -> None:
    # One batch of rows 5, 3 tokens wide 5: 2 of 10 positions are padding. Two ranks, two seconds.
    rank = {"parts": {"asr": [6.0, 3.0]}, "tokens": 8, "padded_tokens": 10, "audio_s": 4.0, "data_s": 0.1}
    other = {
        "parts": {"asr": [2.0, 1.0], "qa": [0.0, 0.0]},
        "tokens": 8,
        "padded_tokens": 10,
        "audio_s": 0.0,
        "data_s": 0.3,
    }
    got = rates([rank, other], {"asr": 30.0, "qa": 10.0}, seconds=2.0)
    assert got["task_loss"] == {"asr": 2.0}
    assert (got["tokens_per_s"], got["audio_s_per_s"], got["data_s"]) == (8.0, 2.0, 0.3)
    assert got["padding_share"] == pytest.approx(0.2)
    assert got["shares"] == {"asr": 0.75, "qa": 0.25}


def test_a_rank_names_the_rows_whose_loss_is_not_finite() -> None:
    batches = [ToySource().micro_batch(0, 0, place) for place in (0, 1)]
    sums = [(torch.tensor(1.0), {"asr": (torch.tensor(1.0), 2.0)}), (torch.tensor(torch.nan), {"asr": (2.0, 2.0)})]
    got = measure(batches, sums)
    assert got["bad"] == ["0-0-1-0", "0-0-1-1", "0-0-1-2"]
    assert got["parts"] == {"asr": [3.0, 4.0]}
    asr = [row for b in batches for row, task in zip(b.loss_mask, b.tasks, strict=True) if task == "asr"]
    assert got["targets"]["asr"] == sum(float(row[1:].sum()) for row in asr)
    assert sum(got["targets"].values()) == sum(b.num_target_tokens for b in batches)
    assert got["loss"] != got["loss"]


def test_row_ids_of_all_ranks_stand_in_the_order_of_micro_batches() -> None:
    assert interleave([[["0a", "0b"], ["2"]], [["1"], ["3"]]]) == ["0a", "0b", "1", "2", "3"]
