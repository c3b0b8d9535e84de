import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving import OwnDecoder

from sonant.models.lora import merge_lora, multiply_lora
from sonant.parity import certificate, model_ways, served
from sonant.serve.untrusted_audio import AudioDecoder
from sonant.testing import save_cascade

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def decoding_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server decodes in this process: its worker takes a second to start."""
    monkeypatch.setattr(served, "AudioDecoder", lambda **limits: OwnDecoder())


@pytest.fixture
def few_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/parity goes them all."""
    few = [way for way in certificate.WAYS if way.name in ("batched", "packed", "merged")]
    monkeypatch.setattr(certificate, "certify", functools.partial(certificate.certify, ways=few))


@pytest.mark.usefixtures("few_ways")
def test_a_healthy_model_is_certified_with_questions_made_on_the_spot(sonant: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "parity.json"
    shown = sonant("parity", model, "--num-rows", 2, "--max-new-tokens", 2, "--json", out)
    assert shown.status == 0, shown.out
    assert "All ways give the same answers." in shown.out
    assert "packed" in shown.out
    written = json.loads(out.read_text())
    assert written["holds"]
    assert written["questions"] == ["a short clip", "text alone"]
    ways = {way["way"]: way for way in written["ways"]}
    assert ways["batched"]["tokens_equal"]
    assert ways["batched"]["largest_difference"] <= ways["batched"]["tolerance"]


@pytest.mark.usefixtures("few_ways")
def test_a_model_that_differs_in_one_way_ends_with_status_1_and_says_where(
    sonant: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def merge_wrongly(llm: Any) -> None:
        multiply_lora(llm, -1.0)
        merge_lora(llm)

    monkeypatch.setattr(model_ways, "merge_lora", merge_wrongly)
    shown = sonant("parity", model, "--num-rows", 1, "--max-new-tokens", 2)
    assert shown.status == 1
    assert "DIFFERS" in shown.out
    assert "merged: 'a short clip', token 1: " in shown.out
    assert "NOT ALL WAYS GIVE THE SAME ANSWERS." in shown.out


def test_rows_that_are_missing_are_told_in_one_line(sonant: Run, model: Path, tmp_path: Path) -> None:
    assert "none.jsonl" in sonant("parity", model, "--rows", tmp_path / "none.jsonl").complaint


@pytest.mark.recipe
def test_a_model_that_answers_is_certified_through_the_decoder_s_process(
    sonant: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "AudioDecoder", AudioDecoder)
    shown = sonant("parity", save_cascade(tmp_path / "model"), "--json", tmp_path / "parity.json")
    assert shown.status == 0, shown.out
    written = json.loads((tmp_path / "parity.json").read_text())
    assert len(written["questions"]) == 6
    assert {way["verdict"] for way in written["ways"] if way["way"] in ("batched", "joining", "served")} == {"equal"}
