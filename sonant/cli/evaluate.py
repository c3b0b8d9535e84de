"""`sonant evaluate` and `sonant report`: what a model can do, and a page that shows it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sonant.evaluate.run import TaskResult

EPILOG = """Examples:

    sonant evaluate runs/quickstart/model runs/quickstart/world/test/*.jsonl --out runs/quickstart

    sonant evaluate MODEL asr.jsonl text_only.jsonl --max-forgetting 0.5   (exit status 1 if text skill was lost)
"""
REPORT_EPILOG = """Examples:

    sonant report runs/quickstart

    sonant report runs/joint runs/speech_only --out compare.html
"""


def evaluate(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    manifests: Annotated[list[Path], typer.Argument(help="Manifests with references; rows are grouped by task.")],
    out: Annotated[Path, typer.Option(help="Folder for results.json and items.jsonl.")] = Path("results"),
    recognizer: Annotated[
        str, typer.Option(help="Encoder whose CTC text feeds the cascade; empty for none.")
    ] = "tiny/encoder",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows of each task.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 128,
    max_forgetting: Annotated[
        float | None, typer.Option(help="Points that any text-only task may lose; more sets exit status 1.")
    ] = None,
) -> None:
    """Score a model beside the cascade, the text oracle, and the LLM it grew from."""
    from sonant.evaluate.run import evaluate as run
    from sonant.generate.assistant import Assistant
    from sonant.generate.recognizer import CTCRecognizer
    from sonant.generate.sampling import GenerationConfig

    assistant = Assistant.from_folder(model)
    with progress_bar() as tell:
        results = run(
            assistant,
            manifests,
            out,
            recognizer=CTCRecognizer.from_parts(recognizer) if recognizer else None,
            config=GenerationConfig(max_new_tokens=max_new_tokens),
            limit=limit,
            batch_size=batch_size,
            progress=tell,
        )
    print_results(results)
    typer.echo(f"written: {out / 'results.json'}, {out / 'items.jsonl'}")
    if max_forgetting is not None:
        check_forgetting(results, max_forgetting=max_forgetting)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are compared.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; report.html in the first run by default.")] = None,
) -> None:
    """Write a self-contained report.html: losses, scores against the cascade, forgetting, the realised mix."""
    from sonant.evaluate.report import write_report

    typer.echo(f"written: {write_report(runs, out=out or runs[0] / 'report.html')}")


class progress_bar:
    """A rich progress line for `evaluate`; silent where no terminal shows it."""

    def __enter__(self) -> "progress_bar":
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, transient=True, disable=not os.isatty(2))
        self.tasks: dict[str, int] = {}
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, arm: str, done: int, total: int) -> None:
        """Shows that `done` of `total` answers of this arm are there."""
        from rich.progress import TaskID

        if arm not in self.tasks:
            self.tasks[arm] = self.bar.add_task(arm, total=total)
        self.bar.update(TaskID(self.tasks[arm]), completed=done, visible=done < total)


def print_results(results: dict[str, "TaskResult"]) -> None:
    """Prints two tables: what was heard beside cascade and oracle, and text skill before and after.

    A score is followed by half its 95 % interval; results.json has both ends.
    """
    from rich.console import Console
    from rich.table import Table

    heard = Table(
        "task", "n", "metric", "system", "cascade", "oracle", "- cascade", title="Heard (± half the 95 % interval)"
    )
    text = Table("task", "n", "metric", "before", "after", "change", title="Text only")
    for name, result in results.items():
        for metric, arms in result.scores.items():
            shown = {arm: f"{s.value:.1f} ±{(s.high - s.low) / 2:.1f}" for arm, s in arms.items()}
            first = metric == result.headline
            row = [name if first else "", str(result.num_rows) if first else "", metric]
            change = {n: f"{s.value:+.1f} ±{(s.high - s.low) / 2:.1f}" for n, s in result.differences.items() if first}
            if result.has_audio:
                cells = [shown.get(a, "-") for a in ("system", "cascade", "text_oracle")]
                heard.add_row(*row, *cells, change.get("system minus cascade", ""))
            else:
                text.add_row(*row, shown["before"], shown["after"], change.get("after minus before", ""))
    console = Console(width=max(Console().width, 100) if not Console().is_terminal else None)
    for table in (heard, text):
        if table.row_count:
            console.print(table)


def check_forgetting(results: dict[str, "TaskResult"], *, max_forgetting: float) -> None:
    """Prints the verdict; exits with status 1 if any text task lost more than `max_forgetting` points."""
    from sonant.errors import EvaluationError
    from sonant.evaluate.run import forgetting

    lost = forgetting(results)
    if not lost:
        raise EvaluationError("--max-forgetting needs rows without audio among the manifests; there are none")
    worst = max(lost, key=lambda task: lost[task].value)
    failed = lost[worst].value > max_forgetting
    verdict = "FAILED" if failed else "passed"
    typer.echo(f"forgetting {verdict}: worst is {worst}, {lost[worst]} points lost, {max_forgetting} allowed")
    if failed:
        raise typer.Exit(1)
