"""The house rules that a machine can check: rooms, directions, budgets, and a README that tells the truth."""

import ast
import difflib
import functools
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sonant"

BELOW_CHAT = "errors config audio"
BELOW_BATCH = f"{BELOW_CHAT} chat"
BELOW_MODELS = f"{BELOW_BATCH} spoken batch"
ROOMS = {
    room: set(allowed.split())
    for room, allowed in {
        "errors": "",
        "config": "errors",
        "audio": "errors config",
        "chat": BELOW_CHAT,
        "spoken": BELOW_BATCH,
        "batch": f"{BELOW_BATCH} spoken",
        "data": BELOW_MODELS,
        "models": "errors config audio spoken batch",
        "train": "errors config spoken batch models",
        "generate": f"{BELOW_MODELS} models",
        "evaluate": f"{BELOW_BATCH} data generate",
        "synth": f"{BELOW_BATCH} data generate",
        "testing": f"{BELOW_MODELS} data models generate",
        "recipes": f"{BELOW_MODELS} data models train generate evaluate",
        "serve": f"{BELOW_MODELS} models generate",
        "export": f"{BELOW_MODELS} models generate",
        "parity": f"{BELOW_MODELS} data models generate serve export",
        "cli": f"{BELOW_MODELS} data models train generate evaluate synth recipes serve export parity",
    }.items()
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@functools.cache
def nodes_of(path: Path) -> tuple[ast.stmt, ...]:
    """Every import and every function of a file."""
    kinds = (ast.ImportFrom, ast.Import, ast.FunctionDef, ast.AsyncFunctionDef)
    return tuple(node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """Every import of our own package in a file, lazy ones included, as (line, room)."""
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: use absolute imports, so that rooms are visible"
            names = [f"{node.module}.{a.name}" if node.module == "sonant" else str(node.module) for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        yield from ((node.lineno, name.split(".")[1]) for name in names if name.startswith("sonant."))


def test_rooms_import_downwards_only() -> None:
    faults = []
    for path in modules():
        room = room_of(path)
        if room in ("__init__", "__main__"):
            continue
        assert room in ROOMS, f"{path}: a room that the table does not know"
        for line, other in imported_rooms(path):
            if other not in ROOMS[room] | {room, "__version__"}:
                faults.append(f"{path.relative_to(ROOT)}:{line}: {room} may not import {other}")
    assert not faults, "\n".join(faults)


def test_what_answers_knows_nothing_of_what_speaks_http() -> None:
    for path in (PACKAGE / "serve" / "answering").glob("*.py"):
        names = [str(node.module) for node in nodes_of(path) if isinstance(node, ast.ImportFrom)]
        outside = [n for n in names if n.startswith("sonant.serve") and not n.startswith("sonant.serve.answering")]
        assert not outside, path


def test_nothing_but_the_plugin_leads_to_vllm() -> None:
    used = {"vllm", "sonant.export.vllm_model"}
    for path in modules():
        if path.name in ("vllm_plugin.py", "vllm_model.py"):
            continue
        for node in nodes_of(path):
            names = [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [n for n in names if n in used or n.startswith("vllm.")], path


def test_the_rules_themselves_have_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(ROOMS):
        ready = {room for room, allowed in ROOMS.items() if room not in done and allowed <= done}
        assert ready, f"a circle among {sorted(set(ROOMS) - done)}"
        done |= ready


def test_room_init_files_are_empty() -> None:
    full = [p for p in PACKAGE.rglob("__init__.py") if p.parent != PACKAGE and p.read_text().strip()]
    assert not full


def test_no_file_is_longer_than_400_lines() -> None:
    long = {str(p.relative_to(ROOT)): n for p in modules() if (n := len(p.read_text().splitlines())) > 400}
    assert not long


def function_lengths(path: Path) -> Iterator[tuple[str, int]]:
    for node in nodes_of(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            yield node.name, (node.end_lineno or 0) - node.lineno + 1 - docstring


def test_no_function_is_longer_than_50_lines_and_the_loop_and_recipe_mains_than_100() -> None:
    faults = []
    for path in modules():
        for name, length in function_lengths(path):
            is_loop = (room_of(path), name) in {("train", "train"), ("recipes", "main")}
            if length > (100 if is_loop else 50):
                faults.append(f"{path.relative_to(ROOT)}: {name} has {length} lines")
    assert not faults, "\n".join(faults)


RECIPES = sorted(p for p in (PACKAGE / "recipes").glob("*.py") if p.name != "__init__.py")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_has_at_most_200_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 200


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(RECIPES, 2)), ids=lambda p: p.stem)
def test_recipes_share_at_most_40_percent_of_their_lines(one: Path, other: Path) -> None:
    lines = [[s for raw in p.read_text().splitlines() if (s := raw.strip()) and s[0] != "#"] for p in (one, other)]
    same = sum(b.size for b in difflib.SequenceMatcher(None, *lines, autojunk=False).get_matching_blocks())
    assert same / min(map(len, lines)) <= 0.4


def test_the_readme_shows_a_command_before_line_35_and_stays_below_250_lines() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 250
    assert any(line.startswith("make quickstart") for line in lines[:34])


def test_the_file_tree_of_the_readme_is_true() -> None:
    tree = re.search(r"## The house.*?```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree, "README.md needs a section '## The house' with the file tree in a code block"
    stated = {line.split()[0] for line in tree.group(1).splitlines() if line.strip()}
    missing = [name for name in stated if not (ROOT / name).exists()]
    assert not missing, f"in the README but not on disk: {missing}"
    rooms = {f"sonant/{p.name}{'/' if p.is_dir() else ''}" for p in PACKAGE.iterdir() if p.name[0] not in "_."}
    assert not rooms - stated, f"on disk but not in the README: {sorted(rooms - stated)}"


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, sonant.cli.main; print({'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
