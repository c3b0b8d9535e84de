"""From a public layout to a manifest: every row that is read is kept or dropped, and the dropped ones are named.

    SRC ─▶ reader of KIND ─▶ utterances, conversations, dropped rows ─▶ OUT.jsonl          one conversation a row
                                                                        OUT.dropped.jsonl  place, reason, detail
                                                                        OUT.import.json    settings and counts
                                                                        OUT_audio/         recordings that SRC embeds

Only metadata is read, unless a layout holds recordings inside other files. OUT.jsonl is written whole or not at all, so
that an import that was stopped is started again; recordings that are there already are not made twice.
"""

import difflib
import inspect
import itertools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias, get_args, get_type_hints

from sonant.chat.messages import Conversation, assistant, user
from sonant.data.languages import language_name
from sonant.data.manifest import line_of, write_lines
from sonant.data.prompts import SPLITS, PromptBank, Split, instructed, load_prompt_bank
from sonant.data.sources import (
    common_voice,
    covost2,
    delimited,
    fleurs,
    hf,
    kaldi,
    lhotse,
    librispeech,
    llama_factory,
    ms_swift,
    nemo,
    wavllm,
)
from sonant.data.sources.base import AudioStore, Dropped, SourceRow, Utterance
from sonant.data.sources.rows import NOTE
from sonant.errors import ConfigError, ManifestError

Read: TypeAlias = Callable[..., Iterator[SourceRow]]  # a sources.base.Reader that names its options

KINDS: dict[str, Read] = {
    "librispeech": librispeech.read,
    "common-voice": common_voice.read,
    "covost2": covost2.read,
    "fleurs": fleurs.read,
    "kaldi": kaldi.read,
    "wavllm": wavllm.read,
    "csv": delimited.read,
    "nemo": nemo.read,
    "lhotse": lhotse.read,
    "hf": hf.read,
    "ms-swift": ms_swift.read,
    "llama-factory": llama_factory.read,
}
# What a task takes from an utterance: the answer first, then the fields of its wordings.
TASKS: dict[str, Callable[[Utterance], dict[str, str | None]]] = {
    "asr": lambda row: {"transcript": row.audio.transcript},
    "translation": lambda row: {"translation": row.translation, "target_language": row.target_language},
    "spoken_qa": lambda row: {"answer": row.answer, "question": row.question},
}
SPOKEN_TASKS = ("question", "chat")  # without wordings: the recording is all that is said; a chat may lack an answer
ROW_KEYS = {"id", "task", "language", "speaker", "messages"}  # a corpus's own "task" becomes "source_task"
PROGRESS_ROWS = 256


@dataclass(frozen=True)
class ImportReport:
    """How many rows were read and kept, and how many dropped by reason: read = kept + dropped."""

    read: int
    kept: int
    dropped: dict[str, int]


def import_corpus(
    kind: str,
    src: str | Path,
    out_manifest: str | Path,
    *,
    task: str = "asr",
    split: Split = "train",
    bank: PromptBank | None = None,
    options: Mapping[str, str] = MappingProxyType({}),
    limit: int | None = None,
    progress: Callable[[int], None] = lambda read: None,
) -> ImportReport:
    """Returns the counts, after writing the manifest of (at most `limit`) rows of a corpus and what was dropped.

    `split` says which wordings of the prompt bank are used, and which split of the corpus is read if its reader has an
    option of that name that is not given. Rows that are whole conversations keep their task and wording.
    Raises: ConfigError for an unknown kind, task or option; ManifestError if SRC is not of this layout or no row can be
    kept, and then nothing is written.
    """
    check_name("kind", kind, KINDS)
    check_name("task", task, (*TASKS, *SPOKEN_TASKS))
    check_name("split", split, SPLITS)
    chosen = choose_options(kind, {"split": split, **options} if "split" in options_of(kind) else options)
    out = Path(out_manifest).absolute()
    if out.suffix != ".jsonl":
        raise ManifestError(f"{out_manifest}: a manifest is named OUT.jsonl")
    if out.resolve() == Path(src).resolve():
        raise ManifestError(f"{out_manifest}: is SRC itself, which would be lost; write the manifest to another file")
    bank = None if task in SPOKEN_TASKS else bank or load_prompt_bank(task)
    store = AudioStore(out.with_name(f"{out.stem}_audio"))
    rows = itertools.islice(KINDS[kind](Path(src).absolute(), store=store, **chosen), limit)
    run = _Run(out.parent)
    write_lines(out, run.lines((_asked(row, task, bank, split) for row in rows), src=src, progress=progress))
    write_lines(out.with_suffix(".dropped.jsonl"), (json.dumps(asdict(row)) for row in run.dropped))
    settings = {"kind": kind, "source": str(src), "task": task, "split": split, "options": chosen, "limit": limit}
    note = settings | {"prompts": bank and {"name": bank.name, "sha256": bank.sha256}} | asdict(run.report)
    write_lines(out.with_suffix(NOTE), [json.dumps(note, ensure_ascii=False, indent=2)])
    return run.report


def options_of(kind: str) -> dict[str, str | None]:
    """Returns the options that the reader of a kind takes, with their defaults; None: it must be given."""
    parameters = inspect.signature(KINDS[kind]).parameters.values()
    named = (each for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY and each.name != "store")
    return {each.name: None if each.default is inspect.Parameter.empty else each.default for each in named}


def choose_options(kind: str, options: Mapping[str, str]) -> dict[str, str]:
    """Returns the options. Raises: ConfigError for an unknown or missing one, or a value that is not allowed."""
    hints, known = get_type_hints(KINDS[kind]), options_of(kind)
    for name, value in options.items():
        check_name(f"option of {kind}", name, known)
        if (allowed := get_args(hints[name])) and value not in allowed:
            raise ConfigError(f"{kind}: {name} is {value!r}; allowed is {' or '.join(allowed)}")
    if missing := [name for name, default in known.items() if default is None and name not in options]:
        raise ConfigError(f"{kind}: needs -o {missing[0]}=...; 'sonant data import --layout {kind}' says what it is")
    return dict(options)


def check_name(what: str, name: str, known: Collection[str]) -> None:
    """Raises: ConfigError if `name` is not known, with the nearest that is."""
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"no {what} {name!r}{hint}; there is {', '.join(known) or 'none'}")


def _asked(row: SourceRow, task: str, bank: PromptBank | None, split: Split) -> Conversation | Dropped:
    """The utterance with an instruction and the answer, or what it lacks for this task."""
    if not isinstance(row, Utterance):
        return row
    if row.extra.keys() & ROW_KEYS:
        extra = {f"source_{name}" if name in ROW_KEYS else name: value for name, value in row.extra.items()}
        row = replace(row, extra=extra)
    if bank is None:
        return _spoken(row, task)
    values = {name: (value or "") for name, value in TASKS[task](row).items()}
    if missing := [name for name, value in values.items() if not value.strip()]:
        return Dropped(row.place or row.id, f"no {missing[0].replace('_', ' ')}", row.id)
    extra = dict(row.extra) | ({"question": values["question"]} if "question" in values else {})
    if target := values.get("target_language"):
        extra["target_language"] = target
        try:
            values["target_language"] = language_name(target)
        except ConfigError as error:
            return Dropped(row.place or row.id, "unknown target language", str(error))
    answer, *names = values
    parts = instructed(bank.pick(split, row.id), row.audio, **{name: values[name] for name in names})
    turns = (user(*parts), assistant(values[answer]))
    return Conversation(turns, id=row.id, task=task, language=row.language, speaker=row.speaker, extra=extra)


def _spoken(row: Utterance, task: str) -> Conversation | Dropped:
    """The utterance as the user's whole turn."""
    has_answer = bool(row.answer and row.answer.strip())
    if not has_answer and task == "question":
        return Dropped(row.place or row.id, "no answer", row.id)
    turns = (user(row.audio), *((assistant(row.answer or ""),) if has_answer else ()))
    return Conversation(turns, id=row.id, task=task, language=row.language, speaker=row.speaker, extra=row.extra)


class _Run:
    """What an import has read, kept and dropped so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.num_read = 0
        self.ids: set[str] = set()
        self.dropped: list[Dropped] = []

    @property
    def report(self) -> ImportReport:
        reasons = Counter(row.reason for row in self.dropped)
        return ImportReport(self.num_read, len(self.ids), dict(reasons.most_common()))

    def lines(
        self, rows: Iterator[Conversation | Dropped], *, src: str | Path, progress: Callable[[int], None]
    ) -> Iterator[str]:
        """Yields the lines of the manifest. Raises: ManifestError if there would be none, or `src` cannot be read."""
        try:
            for row in rows:
                self.num_read += 1
                line = self._line(row)
                if isinstance(line, Dropped):
                    self.dropped.append(line)
                else:
                    yield line
                if self.num_read % PROGRESS_ROWS == 0:
                    progress(self.num_read)
        except OSError as error:
            raise ManifestError(f"{error.filename or src}: cannot be read ({error.strerror or error})") from None
        progress(self.num_read)
        if not self.ids:
            first = "".join(f"; the first: {row.place}: {row.reason} {row.detail}".rstrip() for row in self.dropped[:1])
            raise ManifestError(f"{src}: of {self.num_read} rows read, none can be kept{first}")

    def _line(self, row: Conversation | Dropped) -> str | Dropped:
        if isinstance(row, Dropped):
            return row
        row = row if row.id else replace(row, id=f"row-{self.num_read}")
        if row.id in self.ids:
            return Dropped(row.id, "duplicate id")
        try:
            line = line_of(row, self.folder)
            line.encode("utf-8")
        except (UnicodeEncodeError, ManifestError) as error:
            return Dropped(row.id, "no valid JSON", str(error))
        self.ids.add(row.id)
        return line
