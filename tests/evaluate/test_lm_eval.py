import json
from pathlib import Path

import pytest
from stub_tool import LM_EVAL, install

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data.manifest import write
from sonant.errors import EvaluationError
from sonant.evaluate.lm_eval import LmModel, evaluate_text, task_of_manifest


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four written questions, half of which the stub answers rightly; one spoken, one of two turns."""
    monkeypatch.setenv("SONANT_TOOLS", str(tmp_path / "tools"))
    install("lm-eval", LM_EVAL)
    rows = [
        Conversation((user("say ", answer), assistant(f"say {answer}"[5 * i % 2 :])), id=f"{i}")
        for i, answer in enumerate("abcd")
    ]
    spoken = Conversation((user(AudioPart("a.wav")), assistant("x")), id="spoken")
    long = Conversation((user("a"), assistant("b"), user("c"), assistant("d")), id="long")
    write(tmp_path / "skill.jsonl", [*rows, spoken, long])
    return tmp_path / "skill.jsonl"


def test_a_manifest_becomes_a_task_and_what_does_not_fit_is_counted(manifest: Path, tmp_path: Path) -> None:
    path, left_out = task_of_manifest(manifest, tmp_path / "tasks")
    task = json.loads(path.read_text())
    lines = Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()
    assert json.loads(lines[0]) == {"id": "0", "prompt": "say a", "answer": "say a"}
    assert (task["task"], len(lines), left_out) == ("skill", 4, 2)


def test_before_and_after_are_run_and_their_change_is_paired(manifest: Path, tmp_path: Path) -> None:
    models = {name: LmModel.folder(str(tmp_path / name), tokenizer="t") for name in ("before", "after")}
    said: list[str] = []
    report = evaluate_text(models, [manifest], tmp_path / "out", progress=said.append)
    assert report.results == {"before": {"skill": {"exact_match": 0.5}}, "after": {"skill": {"exact_match": 1.0}}}
    assert list(report.changes["skill"]) == ["exact_match"]  # a log-likelihood is no share of items
    assert report.changes["skill"]["exact_match"].value == 50.0
    assert said == ["before", "after"]
    told = json.loads((tmp_path / "out" / "lm-eval" / "before.json").read_text())
    assert told["model_args"] == {"pretrained": str(tmp_path / "before"), "tokenizer": "t", "dtype": "auto"}
    assert told["apply_chat_template"] is True
    written = json.loads((tmp_path / "out" / "lm-eval.json").read_text())
    assert written["versions"] == {"lm_eval": "0.4.13", "torch": "2.13.0"}
    assert written["left_out"] == {str(manifest): 2}
    assert evaluate_text(models, [manifest], tmp_path / "out", limit=1).results["before"]["skill"]["exact_match"] == 1.0


def test_an_endpoint_is_handed_to_lm_eval(manifest: Path, tmp_path: Path) -> None:
    model = LmModel.endpoint("http://127.0.0.1:8000/v1/#some/model")
    evaluate_text({"endpoint": model}, [manifest], tmp_path / "out")
    told = json.loads((tmp_path / "out" / "lm-eval" / "endpoint.json").read_text())
    assert told["model"] == "local-chat-completions"
    url = "http://127.0.0.1:8000/v1/chat/completions"
    assert told["model_args"] == {"base_url": url, "model": "some/model", "num_concurrent": 8}
    command = json.loads((tmp_path / "out" / "lm-eval" / "seen.json").read_text())
    assert command == ["run", "--config", str(tmp_path / "out" / "lm-eval" / "endpoint.json")]


def test_what_lm_eval_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="write http://HOST:PORT/v1#MODEL"):
        LmModel.endpoint("http://127.0.0.1:8000/v1")
    write(tmp_path / "a.jsonl", [Conversation((user(AudioPart("a.wav")), assistant("x")), id="1")])
    same = [tmp_path / "en" / "test.jsonl", tmp_path / "de" / "test.jsonl"]  # the second overwrote the first
    with pytest.raises(EvaluationError, match=r"two manifests are called test\.jsonl"):
        evaluate_text({}, same, tmp_path / "out")
    with pytest.raises(EvaluationError, match="no row is one written question"):
        task_of_manifest(tmp_path / "a.jsonl", tmp_path)
