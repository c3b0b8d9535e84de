"""Text skill by the lm-eval harness: the LLM before training and after it, or a model behind an endpoint.

A task is a YAML file as lm-eval reads them, the name of one that it brings (those fetch their data), or a manifest of
ours: its rows of one written question and one answer become a task of exact match. Written to the folder `out`:

    lm-eval.json            results of each model, differences over the same items, versions and settings
    lm-eval/tasks/          manifests as tasks of lm-eval
    lm-eval/NAME/, NAME.log, NAME.json      what it wrote, said and was told for each model
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sonant.data.manifest import Manifest
from sonant.errors import EvaluationError
from sonant.evaluate.metrics.score import Score, ratio
from sonant.evaluate.outside import run_tool, tool_named

Json = dict[str, Any]


@dataclass(frozen=True)
class LmModel:
    """A model as lm-eval finds it: its kind of model, and that kind's arguments."""

    kind: str
    arguments: Mapping[str, Any]
    batch_size: int = 1

    @classmethod
    def folder(cls, path: str, *, tokenizer: str, batch_size: int = 32) -> "LmModel":
        """Returns a Hugging Face model on this machine."""
        return cls("hf", {"pretrained": path, "tokenizer": tokenizer, "dtype": "auto"}, batch_size)

    @classmethod
    def endpoint(cls, name: str) -> "LmModel":
        """Returns the model behind `http://HOST:PORT/v1#MODEL`. Raises: EvaluationError if the name lacks a part."""
        url, _, model = name.partition("#")
        if not url.startswith(("http://", "https://")) or not model:
            raise EvaluationError(f"--endpoint {name}: write http://HOST:PORT/v1#MODEL")
        arguments = {"base_url": f"{url.rstrip('/')}/chat/completions", "model": model, "num_concurrent": 8}
        return cls("local-chat-completions", arguments)


@dataclass(frozen=True)
class LmReport:
    """What lm-eval found: model -> task -> metric -> value (as lm-eval gives it), and changes in percent points."""

    results: dict[str, dict[str, dict[str, float]]]
    changes: dict[str, dict[str, Score]] = field(default_factory=dict)  # task -> metric -> last model minus first
    left_out: dict[str, int] = field(default_factory=dict)  # manifest -> rows that are no single written question


def evaluate_text(
    models: Mapping[str, LmModel],
    tasks: Sequence[str | Path],
    out: Path,
    *,
    limit: int | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> LmReport:
    """Returns what lm-eval finds for each model ("before", "after"), and writes lm-eval.json to `out`.

    Raises: EvaluationError if lm-eval is not set up or fails, or a manifest has no fitting row.
    """
    stems = [Path(task).stem for task in tasks if str(task).endswith(".jsonl")]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise EvaluationError(f"two manifests are called {twice[0]}.jsonl, which lm-eval knows as one task; rename one")
    folder = out.absolute() / "lm-eval"
    folder.mkdir(parents=True, exist_ok=True)
    left_out: dict[str, int] = {}
    named = []
    for task in tasks:
        if str(task).endswith(".jsonl"):
            path, left_out[str(task)] = task_of_manifest(Path(task), folder / "tasks")
            named.append(str(path))
        else:
            named.append(str(Path(task).absolute()) if Path(task).exists() else str(task))
    tool = tool_named("lm-eval")
    for name, model in models.items():
        progress(name)
        shutil.rmtree(folder / name, ignore_errors=True)
        settings = {"model": model.kind, "model_args": dict(model.arguments), "batch_size": model.batch_size}
        settings |= {"tasks": named, "apply_chat_template": True, "limit": limit, "log_samples": True}
        told = folder / f"{name}.json"
        told.write_text(json.dumps(settings | {"output_path": str(folder / name)}, indent=2) + "\n", encoding="utf-8")
        run_tool(tool, ["run", "--config", str(told)], folder=folder, log=folder / f"{name}.log")
    results = {name: _results(folder / name) for name in models}
    report = LmReport(results, _changes([folder / name for name in models]), left_out)
    changes = {task: {m: s.to_json() for m, s in metrics.items()} for task, metrics in report.changes.items()}
    known = {"versions": tool.versions, "tasks": named, "limit": limit, "left_out": left_out}
    values = {"results": results, "changes": changes, **known}
    (out / "lm-eval.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return report


def task_of_manifest(manifest: Path, folder: Path) -> tuple[Path, int]:
    """Returns the task file made of a manifest, and how many rows it had to leave out (audio, several turns).

    Raises: EvaluationError if no row is left.
    """
    rows = list(Manifest(manifest))
    fitting = [
        {"id": row.id, "prompt": row.messages[0].text, "answer": row.reference}
        for row in rows
        if [message.role for message in row.messages] == ["user", "assistant"] and not row.heard_parts
    ]
    if not fitting:
        raise EvaluationError(f"{manifest}: no row is one written question and one answer, which lm-eval needs")
    folder.mkdir(parents=True, exist_ok=True)
    data, task = folder / f"{manifest.stem}.jsonl", folder / f"{manifest.stem}.yaml"
    data.write_text("".join(json.dumps(row) + "\n" for row in fitting), encoding="utf-8")
    settings = {
        "task": manifest.stem,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data.absolute())}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": 128},
        "metric_list": [{"metric": "exact_match", "ignore_case": True, "ignore_punctuation": True}],
    }
    task.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")  # JSON is YAML
    return task, len(rows) - len(fitting)


def _results(folder: Path) -> dict[str, dict[str, float]]:
    """Task -> metric -> value. lm-eval calls a metric "exact_match,none", where none is the name of a filter."""
    (path,) = folder.rglob("results_*.json")
    found: dict[str, Json] = json.loads(path.read_text(encoding="utf-8"))["results"]
    return {
        task: {_metric(*key.split(",", 1)): float(v) for key, v in values.items() if "," in key and v != "N/A"}
        for task, values in found.items()
    }


def _changes(folders: Sequence[Path]) -> dict[str, dict[str, Score]]:
    """Last model minus first in percent points, for every metric that is a share of items (paired bootstrap)."""
    if len(folders) < 2:
        return {}
    first, last = (_samples(folder) for folder in (folders[0], folders[-1]))
    changes: dict[str, dict[str, Score]] = {}
    for (task, metric), values in first.items():
        ids = list(values)
        if ids == list(last.get((task, metric), ())):
            one, two = (ratio(np.array([[samples[task, metric][i], 1.0] for i in ids])) for samples in (first, last))
            changes.setdefault(task, {})[metric] = (two - one).score
    return changes


def _samples(folder: Path) -> dict[tuple[str, str], dict[int, float]]:
    """(task, metric) -> item -> value, from lm-eval's samples_TASK_DATE.jsonl."""
    samples: dict[tuple[str, str], dict[int, float]] = {}
    for path in folder.rglob("samples_*.jsonl"):
        task = path.name.removeprefix("samples_").rpartition("_")[0]
        with open(path, encoding="utf-8") as file:
            for line in map(json.loads, file):
                for metric in line["metrics"]:
                    if isinstance(line[metric], int | float) and 0 <= line[metric] <= 1:  # no log-likelihoods
                        key = task, _metric(metric, line["filter"])
                        samples.setdefault(key, {})[line["doc_id"]] = float(line[metric])
    return samples


def _metric(name: str, filtered: str) -> str:
    return name if filtered == "none" else f"{name} ({filtered})"
