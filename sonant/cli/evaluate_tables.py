"""What `sonant evaluate` shows: progress, suites, and tables of scores."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from sonant.evaluate.metrics.score import Score
    from sonant.evaluate.run import TaskResult


class progress_bar:
    """A rich progress line for each thing that is under way; silent where no terminal shows it."""

    def __enter__(self) -> "progress_bar":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not os.isatty(2))
        self.tasks: dict[str, int] = {}
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, what: str, done: int, total: int | None = None) -> None:
        """Shows that `done` of `total` are there; None: nobody knows how many there will be."""
        from rich.progress import TaskID

        if what not in self.tasks:
            self.tasks[what] = self.bar.add_task(what, total=total)
        self.bar.update(TaskID(self.tasks[what]), completed=done, visible=total is None or done < total)


def list_suites() -> None:
    """Prints the shipped suites: their sets, and how they lie below the root."""
    from sonant.evaluate.suite import load_suite, shipped_suites

    for name in shipped_suites():
        suite = load_suite(name)
        typer.secho(name, bold=True)
        for line in suite.about.strip().splitlines():
            typer.echo(f"  {line}")
        typer.echo(f"  sets: {', '.join(suite.sets)}\n")


def print_results(results: "Mapping[str, TaskResult]") -> None:
    """Prints what was heard beside cascade and oracle, text skill before and after, what a new wording costs; and more.

    A score is followed by half its 95 % interval; results.json has both ends.
    """
    from rich.console import Console
    from rich.table import Table

    heard = Table(
        "set", "n", "metric", "system", "cascade", "oracle", "- cascade", title="Heard (± half the 95 % interval)"
    )
    text = Table("set", "n", "metric", "before", "after", "change", title="Text only")
    wordings = Table(
        *("set", "metric", "n", "unseen", "worst unseen", "worst - mean", "seen", "seen - unseen"),
        title="The model by wording of the prompt (n held-out wordings)",
    )
    for result in results.values():
        _add_scores(heard if result.has_audio else text, result)
        if result.paraphrases:
            _add_wordings(wordings, result)
    console = Console(width=max(Console().width, 100) if not Console().is_terminal else None)
    for table in (heard, text, wordings, *speech_tables(results), *detail_tables(results)):
        for column in table.columns[:2]:
            column.overflow = "fold"  # a name is never cut
        if table.row_count:
            console.print(table)
    for result in results.values():
        _tell_failures(result)


def _add_scores(table: "Table", result: "TaskResult") -> None:
    arms = ("system", "cascade", "text_oracle") if result.has_audio else ("before", "after")
    change = result.differences.get("system minus cascade" if result.has_audio else "after minus before")
    for metric, scores in result.scores.items():
        first = metric == result.headline
        name, num = (result.task, str(result.num_rows)) if first else ("", "")
        table.add_row(name, num, metric, *(_shown(scores.get(arm)) for arm in arms), _signed(change) if first else "")


def _add_wordings(table: "Table", result: "TaskResult") -> None:
    found = result.paraphrases
    assert found
    arm, metric = "system" if result.has_audio else "after", result.headline

    def shown(scores: "Mapping[str, Mapping[str, Score]]") -> str:
        return _shown(scores.get(metric, {}).get(arm))

    seen = shown(found.train.mean) if found.train else "-"
    down, gap = (
        _signed(scores.get(metric, {}).get(arm)) for scores in (found.test.worst_minus_mean, found.seen_minus_unseen)
    )
    num = str(len(found.test.wordings))
    table.add_row(result.task, metric, num, shown(found.test.mean), shown(found.test.worst), down, seen, gap)


def _tell_failures(result: "TaskResult") -> None:
    for wording, arms in result.judged.items():
        for arm, judged in arms.items():
            if judged["num_failed"]:
                why = ", ".join(f"{count} {reason}" for reason, count in judged["failures"].items())
                place = " ".join(filter(None, (result.task, wording, arm)))
                note = "" if judged["score"] else "; too many for a score"
                typer.echo(f"judge: {place}: {judged['num_failed']} answers without a verdict ({why}){note}")


def detail_tables(results: "Mapping[str, TaskResult]") -> "list[Table]":
    """Returns tables of what only some sets have: baselines, kinds of instruction, confusions, chains of thought.

    Signs of running away stand there only where there are some.
    """
    from rich.table import Table

    names = ("system", "no_audio", "transcript", "cascade", "text_oracle")
    baselines = Table("set", "metric", *names, title="Baselines: without the audio, with the transcript instead of it")
    parts = Table("set", "instruction", "n", "followed", "right", title="The model by kind of instruction, percent")
    forms = Table("set", "metric", "pairs", "chain", "direct", "change", title="Chain of thought against direct")
    signs = Table("set", "repetition", "empty", "WER > 1", "length", title="The model's replies that run away, percent")
    confusions = []
    for name, result in results.items():
        arm, found = "system" if result.has_audio else "after", result.details
        for metric, scores in result.scores.items():
            if "no_audio" in scores and metric in (result.headline, "eer"):
                baselines.add_row(name, metric, *(_shown(scores.get(each)) for each in names))
        for kind, shares in found.parts.items():
            share = shares[arm]
            parts.add_row(name, kind, str(share.n), f"{share.followed:.1f}", f"{share.right:.1f}")
        for metric, differences in found.forms.items():
            d = differences[arm]
            forms.add_row(
                name, metric, str(d.num_pairs), *map(_shown, (d.chain_of_thought, d.direct)), _signed(d.change)
            )
        if (sign := found.degeneration.get(arm)) is not None and sign.is_striking:
            values = (sign.repetition, sign.empty, sign.over_one, sign.length_ratio)
            signs.add_row(name, *("-" if value is None else f"{value:.1f}" for value in values))
        if confusion := found.confusion.get(arm):
            table = Table("right \\ said", *next(iter(confusion.values())), title=f"{name}: what is taken for what")
            for right, line in confusion.items():
                table.add_row(right, *map(str, line.values()))
            confusions.append(table)
    return [baselines, parts, forms, *confusions, signs]


def speech_tables(results: "Mapping[str, TaskResult]") -> "list[Table]":
    """Returns what is measured of spoken answers, one table a set, beside real speech on the same judge."""
    from rich.table import Table

    arms, tables = ("spoken", "real", "spoken minus real"), []
    for name, result in results.items():
        table = Table("metric", "by", "n", "spoken", "real", "- real", "other", title=f"{name}: what is said aloud")
        for metric, measured in result.speech.items():
            for by, scores in measured.items():
                other = ", ".join(f"{arm} {score.value:.3g}" for arm, score in scores.items() if arm not in arms)
                shown = [
                    f"{score.value:.3g} ±{(score.high - score.low) / 2:.2g}" if score else "-"
                    for score in map(scores.get, arms)
                ]
                table.add_row(metric, by, str(max(score.n for score in scores.values())), *shown, other)
        tables.append(table)
    return tables


def _shown(score: "Score | None") -> str:
    return f"{score.value:.1f} ±{(score.high - score.low) / 2:.1f}" if score else "-"


def _signed(score: "Score | None") -> str:
    return f"{score.value:+.1f} ±{(score.high - score.low) / 2:.1f}" if score else ""
