"""Pages about runs: report.html (scores, pictures, where the model and the cascade differ) and compare.html (A and B).

One file each, without script or network. Filters are radio buttons that CSS reads; recordings are linked or embedded.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from sonant import __version__
from sonant.evaluate.compare import Comparison
from sonant.evaluate.judge import Judged
from sonant.evaluate.metrics.score import RESAMPLES
from sonant.evaluate.report.audio import Clips
from sonant.evaluate.report.figures import figures
from sonant.evaluate.report.items import MAX_ITEMS, TaskDifferences, task_differences
from sonant.evaluate.report.speech import speech_sections
from sonant.evaluate.report.tables import tables
from sonant.evaluate.run_folder import Json, Run, read_run


def write_report(
    folders: Sequence[str | os.PathLike[str]], *, out: str | os.PathLike[str], embed_audio: bool = False
) -> Path:
    """Returns the path of the report written about the runs in `folders`; with `embed_audio` it needs no other file."""
    runs = _told_apart([read_run(folder) for folder in folders])
    clips = Clips(Path(out), embed=embed_audio)
    values = {
        "title": "Sonant: " + ", ".join(run.name for run in runs),
        "notes": dict.fromkeys(note for run in runs for note in run.notes),
        "runs": [
            tables(run) | {"sections": _sections(run, clips), "speech": speech_sections(run, clips)} for run in runs
        ],
        "figures": figures(runs),
    }
    return _write("report.html", values, clips)


def _told_apart(runs: Sequence[Run]) -> list[Run]:
    """The runs, those whose folders have one name called by their paths."""
    names = [run.name for run in runs]
    return [replace(run, label=str(run.folder)) if names.count(run.name) > 1 else run for run in runs]


def write_comparison(
    comparison: Comparison,
    *,
    out: str | os.PathLike[str],
    preferred: Mapping[str, Judged] | None = None,
    embed_audio: bool = False,
) -> Path:
    """Returns the path of the page written about two runs; `preferred` is what a judge thinks of each task."""
    a, b = comparison.a, comparison.b
    clips = Clips(Path(out), embed=embed_audio)
    names = (a.name, b.name) if a.name != b.name else (str(a.folder), str(b.folder))
    found = []
    for task, compared in comparison.tasks.items():
        arms = (compared.arm, compared.arm)
        found.append(
            task_differences(task, comparison.pairs(task), arms, how=b.results[task], clips=clips, folder=a.folder)
        )
    values = {
        "title": f"Sonant: {names[1]} against {names[0]}",
        "names": names,
        "comparison": comparison,
        "preferred": preferred or {},
        "sections": [_section(names, found)],
    }
    return _write("compare.html", values, clips)


def _write(page: str, values: Mapping[str, Any], clips: Clips) -> Path:
    pages = resources.files("sonant.evaluate.report").joinpath("pages")
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(lambda name: pages.joinpath(name).read_text(encoding="utf-8")),
    )
    html = environment.get_template(page).render(
        **values,
        num_linked=clips.num_linked,
        embedded=clips.embed,
        max_items=MAX_ITEMS,
        resamples=RESAMPLES,
        version=__version__,
    )
    clips.page.parent.mkdir(parents=True, exist_ok=True)
    clips.page.write_text(html, encoding="utf-8")
    return clips.page


def _sections(run: Run, clips: Clips) -> list[Json]:
    """Where model and cascade differ, and where training changed an answer to text."""
    found: dict[tuple[str, str], list[TaskDifferences]] = {("system", "cascade"): [], ("before", "after"): []}
    for task, how in run.results.items():
        arms = ("system", "cascade") if how["has_audio"] else ("before", "after")
        pairs = [(item, item) for item in run.items_of(task) if all(arm in item for arm in arms)]
        if pairs:
            found[arms].append(task_differences(task, pairs, arms, how=how, clips=clips, folder=run.folder))
    return [_section(names, tasks) for names, tasks in found.items() if tasks]


def _section(names: tuple[str, str], tasks: Sequence[TaskDifferences]) -> Json:
    """Items with the places they take when sorted: CSS does the sorting."""
    items = [(number, item) for number, task in enumerate(tasks) for item in task.shown]
    orders = [sorted(range(len(items)), key=key) for key in (lambda i: -abs(items[i][1].gap), lambda i: items[i][1].id)]
    by_gap, by_id = ({index: place for place, index in enumerate(order)} for order in orders)
    shown = [{"task": number, "item": item, "gap": by_gap[i], "id": by_id[i]} for i, (number, item) in enumerate(items)]
    return {"names": names, "tasks": tasks, "items": shown}
