import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from sonant import __version__, config
from sonant.cli.main import app
from sonant.errors import SonantError

Run = Callable[..., Any]


def verbs(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if not hasattr(group, "commands"):
        yield path
        return
    for name, command in group.commands.items():
        yield from verbs(command, (*path, name))


VERBS = list(verbs(typer.main.get_command(app)))


def test_the_verbs_are_those_of_the_readme() -> None:
    expected = {
        "quickstart",
        "world",
        "data",
        "synth",
        "train",
        "ablate",
        "evaluate",
        "report",
        "ask",
        "serve",
        "talk",
        "export",
        "parity",
    }
    assert {path[0] for path in VERBS} == expected


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_the_help_of_every_verb_shows_an_example(sonant: Run, verb: tuple[str, ...]) -> None:
    shown = sonant(*verb, "--help")
    assert shown.status == 0
    assert "Example" in shown.out
    assert f"sonant {' '.join(verb)}" in shown.out.split("Example")[1]


def test_sonant_help_lists_all_verbs_and_does_not_import_torch() -> None:
    code = (
        "import sys, atexit; sys.argv = ['sonant', '--help']; atexit.register(lambda: print('torch' in sys.modules)); "
        "from sonant.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *shown, torch_imported = done.stdout.splitlines()
    assert all(any(verb[0] in line for line in shown) for verb in VERBS)
    assert torch_imported == "False"


def test_no_verb_at_all_shows_the_help(sonant: Run) -> None:
    shown = sonant()
    assert "quickstart" in shown.out + shown.err


def test_the_version_is_printed(sonant: Run) -> None:
    assert sonant("--version").out == f"sonant {__version__}\n"


def test_an_unknown_verb_is_refused_with_status_2(sonant: Run) -> None:
    outcome = sonant("trian")
    assert outcome.status == 2
    assert "No such command 'trian'" in outcome.err


def test_python_dash_m_sonant_is_the_same_command() -> None:
    command = [sys.executable, "-m", "sonant", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"sonant {__version__}\n"


def test_a_mistake_in_a_real_process_is_one_line_and_status_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sonant", "data", "stats", str(tmp_path / "none.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("sonant: ")
    assert "none.jsonl" in done.stderr


def test_an_error_of_ours_is_told_in_its_own_words(sonant: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SonantError("what happened, what to do")

    monkeypatch.setattr(config, "load_config", fail)
    assert sonant("train", "voicetextblender", "tiny", "--show").complaint == "sonant: what happened, what to do"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_is_full_or_closed_is_one_line(
    sonant: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    def fail(_: object, path: Path) -> None:
        raise OSError(code, "the system's own words", str(path))

    monkeypatch.setattr(config, "save_config", fail)
    complaint = sonant("train", "voicetextblender", "tiny", "--out", tmp_path / "run").complaint
    assert complaint.startswith(f"sonant: the system's own words: {tmp_path / 'run' / 'config.yaml'}; ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_that_names_no_file_is_one_line(sonant: Run, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    assert "No space left on device" in sonant("data", "stats", tmp_path / "m.jsonl", "--json", "/dev/full").complaint


def test_an_error_that_names_no_file_is_a_bug_and_not_hidden(sonant: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "without a file: a bug, or broken hardware")

    monkeypatch.setattr(config, "load_config", fail)
    with pytest.raises(OSError, match="a bug"):
        sonant("train", "voicetextblender", "tiny", "--show")
