"""What `sonant evaluate` does besides asking a model: --compare two runs, --with COMET or lm-eval."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from sonant.evaluate.metrics.score import Score
    from sonant.evaluate.outside import Tool
    from sonant.generate.chat_model import ChatModel

ARMS = ("system", "cascade", "text_oracle")


def compare_runs(a: Path, b: Path, out: Path, *, judge: "ChatModel | None" = None, together: str = "") -> None:
    """Prints how run B differs from run A, task by task; writes compare.json and compare.html to `out`.

    judge: a model that is asked which answers it prefers, in both orders.   together: see `sonant.evaluate.compare`.
    """
    import json

    from sonant.evaluate.compare import compare, preferences
    from sonant.evaluate.judge import Judge
    from sonant.evaluate.report.page import write_comparison

    found = compare(a, b, together=together)
    rows = []
    for task, compared in found.tasks.items():
        for metric, d in compared.differences.items():
            verdict = "" if d.verdict == "not told apart" else f"B is {d.verdict}"
            count = str(compared.num_rows - d.num_unjudged)
            rows.append((task, count, metric, _half(d.a), _half(d.b), _ends(d.change), f"{d.p:.3f}", verdict))
    drawn = f"   drawn by {together}" if together else ""
    _print_table(f"A: {a}   B: {b}{drawn}", ("task", "rows", "metric", "A", "B", "B - A, 95 % interval", "p", ""), rows)
    for line in found.left_out():
        typer.echo(f"not compared: {line}")
    values, preferred = found.to_json(), {}
    if judge is not None:
        asked = Judge(judge, rubric="pairwise")
        with _waiting("judge") as tell:
            preferred = preferences(found, asked, progress=lambda done: tell(f"{done} verdicts"))
        for task, judged in preferred.items():
            typer.echo(f"B preferred: {task}: {judged}")
        values |= {"judge": asked.pins, "preferred": {task: judged.to_json() for task, judged in preferred.items()}}
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    (out / "compare.json").write_text(text, encoding="utf-8")
    page = write_comparison(found, out=out / "compare.html", preferred=preferred)
    typer.echo(f"written: {out / 'compare.json'}, {page}")


def run_tool(
    name: str,
    model: Path | None,
    others: Sequence[Path] | None,
    out: Path,
    *,
    setup: bool = False,
    endpoint: str = "",
    checkpoint: Path | None = None,
    limit: int | None = None,
) -> None:
    """Makes the venv of a tool (`setup`), or runs COMET on run folders, or lm-eval on a model and `others`, its tasks.

    Raises: EvaluationError if the tool is unknown or lacks what it needs.
    """
    from sonant.errors import EvaluationError
    from sonant.evaluate.outside import require, tool_named

    if name not in ("comet", "lm-eval"):
        raise EvaluationError(f"--with {name}: no such tool; known are comet and lm-eval")
    tool = tool_named("comet" if name == "comet" else "lm-eval")
    if setup:
        return _set_up(tool)
    require(tool)
    paths = [path for path in (model, *(others or ())) if path]
    if name == "comet":
        _comet(paths, checkpoint)
    else:
        _lm_eval(paths, out, endpoint=endpoint, limit=limit)


def _set_up(tool: "Tool") -> None:
    import subprocess

    from sonant.errors import EvaluationError
    from sonant.evaluate.outside import set_up

    def run(command: Sequence[str]) -> None:
        if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
            raise EvaluationError(f"{tool.folder}: '{' '.join(command[:5])} ...' failed; what it said is above")

    set_up(tool, run=run)
    size_gb = sum(path.lstat().st_size for path in tool.folder.rglob("*")) / 1e9
    versions = ", ".join(f"{package} {version}" for package, version in tool.versions.items())
    typer.echo(f"{tool.name} is set up: {tool.folder} ({size_gb:.1f} GB; {versions})")


def _comet(runs: Sequence[Path], checkpoint: Path | None) -> None:
    import torch

    from sonant.errors import EvaluationError
    from sonant.evaluate.comet import score_translations

    if not runs or checkpoint is None:
        raise EvaluationError("COMET needs runs and a model: sonant evaluate RUN_FOLDER --with comet --checkpoint FILE")
    for run in runs:
        with _waiting("comet") as tell:
            found = score_translations(run, checkpoint, num_gpus=int(torch.cuda.is_available()), progress=tell)
        rows = []
        for task, result in found.items():
            scores = [_half(result.scores[arm]) if arm in result.scores else "-" for arm in ARMS]
            change = [_ends(score) for score in result.differences.values()] or ["-"]
            rows.append((task, str(next(iter(result.scores.values())).n), *scores, *change, str(result.left_out)))
        columns = ("task", "n", "system", "cascade", "oracle", "system - cascade", "no transcript")
        _print_table(f"COMET x 100: {run}", columns, rows)
        typer.echo(f"written: {run / 'comet.json'}")


def _lm_eval(paths: Sequence[Path], out: Path, *, endpoint: str, limit: int | None) -> None:
    import tempfile

    from sonant.errors import EvaluationError
    from sonant.evaluate.lm_eval import LmModel, evaluate_text
    from sonant.generate.text_model import export_text_models

    tasks = list(paths if endpoint else paths[1:])
    if not tasks:
        raise EvaluationError(
            "lm-eval needs MODEL (or --endpoint URL#MODEL) and tasks: manifests (.jsonl), task files (.yaml) or names"
        )
    with tempfile.TemporaryDirectory(prefix="sonant-") as merged, _waiting("lm-eval") as tell:
        models: dict[str, LmModel] = {}
        if endpoint:
            models["endpoint"] = LmModel.endpoint(endpoint)
        else:
            tell("merging LoRA")
            text = export_text_models(paths[0], merged)
            for name, path in (("before", text.before), ("after", text.after)):
                models[name] = LmModel.folder(path, tokenizer=text.tokenizer)
        found = evaluate_text(models, tasks, out, limit=limit, progress=tell)
    first = found.results[next(iter(models))]
    rows = []
    for task, metric in [(task, metric) for task, metrics in first.items() for metric in metrics]:
        if "_stderr" not in metric:
            change = found.changes.get(task, {}).get(metric)
            values = [f"{found.results[name][task][metric]:.4f}" for name in models]
            rows.append((task, metric, *values, _ends(change) if change else ""))
    _print_table("lm-eval", ("task", "metric", *models, "change in points"), rows)
    for manifest, count in found.left_out.items():
        if count:
            typer.echo(f"{manifest}: {count} rows left out: they are no single written question")
    typer.echo(f"written: {out / 'lm-eval.json'}")


def _half(score: "Score") -> str:
    return f"{score.value:.1f} ±{(score.high - score.low) / 2:.1f}"


def _ends(score: "Score") -> str:
    return f"{score.value:+.1f} [{score.low:+.1f}, {score.high:+.1f}]"


@contextmanager
def _waiting(tool: str) -> Iterator[Callable[[str], None]]:
    """A line on the terminal that says what the tool is at; its own bars go to its log."""
    from rich.console import Console

    with Console(stderr=True).status(tool) as status:
        yield lambda what: status.update(f"{tool}: {what}")


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: the name of a task is never read as rich markup
    console = Console()
    console = console if console.is_terminal else Console(width=max(console.width, 140))
    console.print(table)
