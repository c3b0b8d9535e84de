"""`sonant data`: import data, and look at manifests before training on them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonant.cli import data_cache, data_import, data_marks

if TYPE_CHECKING:
    from sonant.chat.tokenizer import ChatTokenizer
    from sonant.data.check import Limits
    from sonant.data.check_audio import Depth
    from sonant.data.faults import Report

app = typer.Typer(help="Import data, and look at manifests before training on them.", no_args_is_help=True)
app.command("import", epilog=data_import.IMPORT_EPILOG)(data_import.import_)
app.command(epilog=data_import.EXPORT_EPILOG)(data_import.export)
app.command(epilog=data_cache.EPILOG)(data_cache.cache_features)
app.command(epilog=data_marks.EPILOG)(data_marks.mark_words)

CHECK_EPILOG = """Examples:

    sonant data check train.jsonl dev.jsonl test.jsonl --json report.json

    sonant data check train.jsonl --tokenizer tiny/llm --context 512 --tokens-per-second 12.5 --window 30

    sonant data check train.jsonl --fix clean.jsonl   (dropped rows and why: clean.jsonl.dropped.jsonl)

Exit status: 0 without errors (warnings may be there), 1 with errors.
"""

STATS_EPILOG = """Examples:

    sonant data stats train.jsonl test.jsonl

    sonant data stats train.jsonl --tokenizer tiny/llm --json stats.json
"""

Manifests = Annotated[list[Path], typer.Argument(help="Manifests (.jsonl); train, dev or test in a name is its split.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")]
TokenizerOption = Annotated[str | None, typer.Option("--tokenizer", help="Folder of an LLM, or tiny/llm.")]
Workers = Annotated[int, typer.Option(min=1, help="Threads that read recordings.")]


@app.command(epilog=CHECK_EPILOG)
def check(
    manifests: Manifests,
    tokenizer: TokenizerOption = None,
    context: Annotated[int | None, typer.Option(min=1, help="Most tokens of a row; needs --tokenizer.")] = None,
    tokens_per_second: Annotated[
        float | None, typer.Option(min=0.0, help="Audio tokens after the adapter, counted in --context.")
    ] = None,
    window: Annotated[float | None, typer.Option(min=0.0, help="Longest clip in seconds the encoder hears.")] = None,
    headers_only: Annotated[bool, typer.Option("--headers-only", help="Do not decode recordings.")] = False,
    metadata_only: Annotated[
        bool, typer.Option("--metadata-only", help="Open no recording: a million rows in a minute.")
    ] = False,
    fix: Annotated[Path | None, typer.Option(help="Write the rows without errors here (a folder if several).")] = None,
    json: Json = None,
    workers: Workers = 4,
) -> None:
    """Find what is wrong with manifests and their recordings, each fault with file:line and a remedy."""
    from sonant.data.check import check

    depth: Depth = "metadata" if metadata_only else "headers" if headers_only else "samples"
    loaded = _tokenizer(tokenizer)
    limits = _limits(context, tokens_per_second, window, has_tokenizer=loaded is not None)
    with progress_bar("clips") as progress:
        report = check(manifests, tokenizer=loaded, limits=limits, depth=depth, workers=workers, progress=progress)
    if report.faults:
        print_table("Faults", ("severity", "code", "count", "first at", "what and remedy"), report.table())
    for note in report.skipped:
        typer.echo(f"not checked: {note}")
    typer.echo(report.summary)
    _write_json(json, report.to_json())
    if fix is not None:
        _fix(report, manifests, fix)
    raise typer.Exit(report.exit_status)


@app.command(epilog=STATS_EPILOG)
def stats(
    manifests: Manifests,
    tokenizer: TokenizerOption = None,
    json: Json = None,
    workers: Workers = 4,
) -> None:
    """Count rows, turns, clips, hours and tokens, by task, language and speaker."""
    from sonant.data.manifest import Manifest
    from sonant.data.stats import stats

    loaded = _tokenizer(tokenizer)

    def text_tokens(conversation: Any) -> int:
        assert loaded is not None
        return sum(len(loaded.encode_text(message.text)) for message in conversation.messages)

    found = stats(map(Manifest, manifests), text_tokens=text_tokens if loaded else None, workers=workers)
    for label, values in found.by.items():
        rows = found.table(label)
        if set(values) != {""}:
            print_table(f"By {label}", (label, "rows", "clips", "hours", "answer words"), rows[:20])
        if len(rows) > 20:
            typer.echo(f"... and {len(rows) - 20} more; --json has all")
    if found.duration_histogram:
        bins = [(name, str(count)) for name, count in found.duration_histogram.items()]
        print_table("Clips by duration", ("duration", "clips"), bins)
    total = found.total
    typer.echo(
        f"{total.rows} rows ({found.text_only_share:.1%} text only), {found.turns} answers, {total.clips} clips, "
        f"{total.duration_s / 3600:.2f} hours" + (f", {found.tokens} text tokens" if loaded else "")
    )
    if found.unreadable_clips:
        typer.echo(f"{found.unreadable_clips} clips cannot be opened and count as 0 s; run 'sonant data check'")
    _write_json(json, found.to_json())


def _limits(
    context: int | None, tokens_per_second: float | None, window_s: float | None, *, has_tokenizer: bool
) -> "Limits":
    import math

    from sonant.data.check import Limits
    from sonant.errors import ConfigError

    if context is not None and not has_tokenizer:
        raise ConfigError(f"--context {context} needs --tokenizer, because rows are counted in its tokens")
    rate = tokens_per_second
    audio_tokens = None if rate is None else lambda duration_s: math.ceil(duration_s * rate)
    return Limits(context=context, window_s=window_s, audio_tokens=audio_tokens)


def _tokenizer(name: str | None) -> "ChatTokenizer | None":
    if name is None:
        return None
    from sonant.chat.tokenizer import ChatTokenizer
    from sonant.models.parts import resolve_part

    return ChatTokenizer.from_folder(resolve_part(name))


def _fix(report: "Report", manifests: Sequence[Path], out: Path) -> None:
    from sonant.data.check import fix
    from sonant.errors import ManifestError

    names = [path.name for path in manifests]
    if len(set(names)) < len(names):
        raise ManifestError(f"--fix {out}: two manifests have the same file name; repair them one at a time")
    for path in manifests:
        target = out if len(manifests) == 1 else out / path.name
        kept, dropped = fix(report, path, target)
        typer.echo(f"{target}: {kept} rows kept, {dropped} dropped (reasons in {target}.dropped.jsonl)")


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function of (done, total) that moves a bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table on stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: what manifests hold is never read as rich markup
    Console().print(table)


def _write_json(path: Path | None, values: dict[str, Any]) -> None:
    if path is not None:
        import json

        path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        typer.echo(f"written: {path}")
