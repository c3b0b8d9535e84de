"""Suites: YAML files that name sets, where they lie below a root folder, and how they are asked and scored.

paraphrases: 4                      held-out wordings that each row is asked in
sets:
  test-clean:
    source: {kind: librispeech, path: LibriSpeech, options: {subset: test-clean}}     or   manifest: test/asr.jsonl
    task: asr                       without it, each row's own task
    prompts: asr                    a prompt bank; without it, rows are asked as they stand
    metrics: [wer, cer]             the first is the headline; without, those of the task
    normalizer: whisper_english
    judge: grade                    a rubric
    limit: 500                      the first rows
    choices: ["yes", "no"]          answers whose likelihoods are asked for too (EER, where there are two)
    baselines: true                 the model is also asked without the audio, and with the transcript instead of it
    speak: true                     answers are spoken, too; so they are where rows hold the recording of an answer
    prompt_s: 3                     only so many seconds of each recording are heard, to be continued
"""

import fnmatch
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from sonant.config import Config, load_config
from sonant.data.importer import import_corpus
from sonant.data.manifest import Manifest
from sonant.data.prompts import load_prompt_bank
from sonant.data.shards import file_sha256
from sonant.errors import EvaluationError, ManifestError
from sonant.evaluate.metrics.named import metric_named
from sonant.evaluate.normalize import NormalizerName
from sonant.evaluate.run import EvalSet, sets_of
from sonant.evaluate.speech.continuation import continued
from sonant.evaluate.speech.measure import Truth
from sonant.evaluate.tasks import Task, task_named
from sonant.evaluate.wordings import wordings_of

SHIPPED = Path(__file__).parent / "suites"
IMPORTED_AS = {
    "multiple_choice": "question",
    "continuation": "chat",
}  # task -> what the importer calls it, where that differs


class SourceConfig(Config):
    """A public layout, as `sonant data import KIND` reads it."""

    kind: str
    path: str  # below the root
    options: dict[str, str] = Field({})


class SetConfig(Config):
    """One set: where it is, and how it is asked and scored."""

    source: SourceConfig | None = None
    manifest: str | None = None  # below the root
    task: str | None = None
    prompts: str | None = None
    metrics: tuple[str, ...] | None = None
    normalizer: NormalizerName | None = None
    judge: str | None = None
    limit: int | None = Field(None, ge=1)
    choices: tuple[str, ...] | None = None
    baselines: bool = False
    speak: bool = False
    prompt_s: float | None = Field(None, gt=0, le=30)

    @model_validator(mode="after")
    def _one_place(self) -> "SetConfig":
        if (self.source is None) == (self.manifest is None):
            raise ValueError("a set has either a source or a manifest")
        if self.source is not None and self.task is None:
            raise ValueError("a source needs a task")
        return self

    @property
    def path(self) -> str:
        """Where it lies, below the root."""
        return self.source.path if self.source else str(self.manifest)

    def how(self, default: Task, *, judged: bool) -> Task:
        """Returns how it is scored, `default` where nothing is said."""
        metrics = default.metrics if self.metrics is None else tuple(map(metric_named, self.metrics))
        judge = (self.judge or default.judge) if judged else None
        choices = default.choices if self.choices is None else self.choices
        return Task(metrics, self.normalizer or default.normalizer, judge, choices)


class Suite(Config):
    """Sets that belong together."""

    about: str = ""  # where they come from, and how they lie below the root
    paraphrases: int = Field(4, ge=1)
    sets: dict[str, SetConfig] = Field(min_length=1)


@dataclass(frozen=True)
class Place:
    """Where sets are read, where imported ones are kept, and which are taken."""

    root: Path
    imported: Path
    only: str = "*"
    skip_missing: bool = False
    judged: bool = True  # False: nobody judges, and sets that only a judge could score are left out


@dataclass(frozen=True)
class Prepared:
    """The sets of a suite, and set -> why it was left out."""

    sets: tuple[EvalSet, ...]
    skipped: dict[str, str]
    pins: dict[str, str]


def shipped_suites() -> list[str]:
    """Returns the names of the suites that come with Sonant."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def suite_path(name_or_path: str) -> Path:
    """Returns the file of a suite. Raises: EvaluationError if there is none of that name."""
    if name_or_path.endswith((".yaml", ".yml")):
        return Path(name_or_path)
    if name_or_path not in shipped_suites():
        raise EvaluationError(f"no suite {name_or_path!r}; shipped are {', '.join(shipped_suites())}; or give a .yaml")
    return SHIPPED / f"{name_or_path}.yaml"


def load_suite(name_or_path: str) -> Suite:
    """Returns a shipped suite or one from a file. Raises: EvaluationError or ConfigError if there is none."""
    return load_config(Suite, [suite_path(name_or_path)])


def prepare(
    name_or_path: str,
    place: Place,
    *,
    paraphrases: int | None = None,
    limit: int | None = None,
    progress: Callable[[str, int], None] = lambda name, read: None,
) -> Prepared:
    """Returns the sets of a suite, read from below `place.root`; those in public layouts are imported first.

    Raises: EvaluationError if a set is missing and missing ones are not to be skipped, or if none is left.
    """
    path, suite = suite_path(name_or_path), load_suite(name_or_path)
    wanted = {name: each for name, each in suite.sets.items() if fnmatch.fnmatch(name, place.only)}
    sets: list[EvalSet] = []
    skipped: dict[str, str] = {}
    for name, each in wanted.items():
        if not place.judged and not each.how(task_named(each.task or ""), judged=False).metrics:
            skipped[name] = "only a judge can score it"
            continue
        each, num = each.model_copy(update={"limit": limit or each.limit}), paraphrases or suite.paraphrases
        try:
            sets += _eval_sets(f"{path.stem}/{name}", each, place, num=num, progress=progress)
        except ManifestError as error:
            if not place.skip_missing:
                remedy = "put it there, give another --root, choose sets with --only, or leave it out by --skip-missing"
                raise EvaluationError(f"set {name!r} cannot be read: {error}; {remedy}") from None
            skipped[name] = str(error)
    if not sets:
        found = "; ".join(f"{name}: {why}" for name, why in skipped.items()) or f"no set is called {place.only!r}"
        raise EvaluationError(f"suite {path.stem!r}: nothing to evaluate ({found}); there is {', '.join(suite.sets)}")
    return Prepared(tuple(sets), skipped, {"name": path.stem, "sha256": file_sha256(path)})


def _eval_sets(
    name: str, each: SetConfig, place: Place, *, num: int, progress: Callable[[str, int], None]
) -> list[EvalSet]:
    manifest, pins = _imported(name, each, place, progress) if each.source else (place.root / each.path, {})
    if each.task is None:
        found = sets_of([manifest], limit=each.limit)
        return [replace(one, name=f"{name}/{one.name}", baselines=each.baselines) for one in found]
    rows, truths = tuple(Manifest(manifest))[: each.limit], tuple[Truth, ...]()
    how = each.how(task_named(each.task), judged=place.judged)
    pins |= {"manifests": {manifest.name: file_sha256(manifest)}, "limit": each.limit, "task": each.task}
    if each.prompt_s is not None:
        continuing, rests, num_short = continued(rows, each.prompt_s)
        rows, truths = tuple(continuing), tuple(rests)
        pins |= {"prompt_s": each.prompt_s, "too_short": num_short}
    if how.metrics:
        _check_references(manifest, rows)
    speak = each.speak or any(row.spoken for row in rows)
    whole = EvalSet(name, rows, how, pins=pins, baselines=each.baselines, speak=speak, truths=truths)
    if each.prompts is None:
        return [whole]
    bank = load_prompt_bank(each.prompts)
    wordings = wordings_of(bank, num=num)
    asked = {wording.name: wording.text for wording in wordings}
    banked = {"prompt_bank": {"name": bank.name, "sha256": bank.sha256, "wordings": asked}}
    return [replace(whole, wordings=tuple(wordings), pins=pins | banked)]


def _imported(
    name: str, each: SetConfig, place: Place, progress: Callable[[str, int], None]
) -> tuple[Path, dict[str, Any]]:
    """The manifest made of a public layout, and what is pinned of its making."""
    source = each.source
    assert source is not None
    out = place.imported / f"{name}.jsonl"
    import_corpus(
        source.kind,
        place.root / source.path,
        out,
        task=IMPORTED_AS.get(str(each.task), str(each.task)),
        split="test",
        options=source.options,
        progress=lambda read: progress(name, read),
    )
    note = json.loads(out.with_suffix(".import.json").read_text(encoding="utf-8"))
    return out, {"source": {key: note[key] for key in ("kind", "options", "read", "kept", "dropped")}}


def _check_references(manifest: Path, rows: Sequence[Any]) -> None:
    for row in rows:
        if not row.reference:
            raise EvaluationError(f"{manifest}: row {row.id!r} has no reference; it must end with an assistant's text")
