"""What the documentation shows is what the code takes."""

import ast
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from sonant.chat.messages import Conversation
from sonant.cli.train import load_recipe, preset_path
from sonant.config import load_config, merge, read_yaml
from sonant.recipes.voicetextblender import VoiceTextBlender

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of every code block in a language."""
    found = []
    for page in PAGES:
        found += [(page.name, text) for text in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)]
    return found


def test_every_manifest_line_shown_is_a_conversation() -> None:
    shown = blocks("json")
    assert len(shown) >= 2
    for page, text in shown:
        assert Conversation.from_json(json.loads(text)).reference, page


def test_every_setting_shown_is_one_that_the_recipe_knows() -> None:
    shown = blocks("yaml")
    assert shown
    tiny = read_yaml(preset_path("voicetextblender", "tiny"))
    for _, text in shown:
        VoiceTextBlender.model_validate(
            merge(tiny, {**yaml.safe_load(text)}) | {"model": yaml.safe_load(text)["model"]}
        )


def test_every_name_imported_in_an_example_exists() -> None:
    shown = blocks("python")
    assert shown
    for page, text in shown:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_is_a_verb_that_exists(page: Path) -> None:
    from typer.main import get_command

    from sonant.cli.main import app

    verbs = set(get_command(app).commands)  # type: ignore[attr-defined]
    for line in re.findall(r"^(?:\.venv/bin/)?sonant (.+)$", page.read_text(), re.MULTILINE):
        verb = shlex.split(line.split("#")[0])[0]
        assert verb in verbs, f"{page.name}: sonant {line}"


def trainings() -> list[str]:
    """What follows `sonant train` wherever it is shown: on a page, or in the head of a preset."""
    presets = sorted((ROOT / "sonant" / "recipes" / "presets").glob("*/*.yaml"))
    text = "\n".join([page.read_text() for page in PAGES] + [re.sub("(?m)^# ?", "", p.read_text()) for p in presets])
    lines = re.findall(r"^.*sonant train ([a-z]+ .+)$", re.sub(r"\\\n\s*", " ", text), re.MULTILINE)
    return sorted({re.split(r"\s{3,}(?=[a-z0-9])|\s#|`| \.\.\.", line)[0].strip() for line in lines})


@pytest.mark.parametrize("shown", trainings())
def test_every_training_shown_has_settings_that_can_be(shown: str) -> None:
    # Those of the `faithful` presets gave a path to parts that have an architecture, and were refused.
    recipe, *words = shlex.split(re.sub(r"--[a-z-]+( [^ =-][^ =]*)?(?= |$)", "", shown))
    settings, _ = load_recipe(recipe)
    presets = [word for word in words if "=" not in word]
    paths = [preset_path(recipe, name) for name in presets if not name.endswith(".yaml")]
    load_config(settings, paths or [preset_path(recipe, "tiny")], overrides=[word for word in words if "=" in word])
