"""`sonant quickstart`: from nothing to a trained, measured speech language model that answers a spoken question."""

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sonant.evaluate.run import TaskResult
    from sonant.generate.assistant import Assistant
    from sonant.recipes.voicetextblender import VoiceTextBlender

EPILOG = """Examples:

    sonant quickstart

    sonant quickstart --arm speech_only --out runs/speech_only --set groups.lora.lr=2e-3 --set groups.adapter.lr=1e-3
    (what happens without text rows, at learning rates as they are common)
"""
NOTES = (
    "This is the tiny world: real synthesised speech (espeak-ng voices), a closed domain of a few hundred words, an "
    "LLM of two million parameters. It proves the road, the same code that trains hub models; it says nothing about "
    "open speech or about the size of the published systems.",
    "Test voices and sentences were never trained on, but for the short questions that close a context. "
    "spoken_qa_heldout asks about entities that no audio of this training names; the recogniser that it starts from "
    "was trained apart and has heard their names.",
)


def quickstart(
    out: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("runs/quickstart"),
    arm: Annotated[str, typer.Option(help="joint, speech_only or frozen_llm.")] = "joint",
    seed: Annotated[int, typer.Option(help="Seed of the training run.")] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any recipe setting, as a.b=c.")] = None,
) -> None:
    """Make the tiny world's corpora, train VoiceTextBlender on them, measure it, let it answer. About ten minutes.

    Started again, it goes on where it stopped.
    """
    started = time.monotonic()

    def headline(text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - started), 60)
        typer.secho(f"[{minutes}:{seconds:02}] {text}", bold=True)

    world = out / "world"
    config = _config(out, world, arm=arm, seed=seed, settings=settings or [])
    headline("1/4  speak: corpora of the tiny world")
    _make_world(world)
    headline(f"2/4  train: voicetextblender, preset tiny, arm {arm}")
    _train(config, out)
    headline("3/4  measure: voices, sentences and entities that were not trained on")
    assistant, results = _measure(out, world)
    headline("4/4  ask: one spoken question of the test split")
    _ask(assistant, world)
    headline("done")
    _next_steps(out, world, results)


def _config(out: Path, world: Path, *, arm: str, seed: int, settings: list[str]) -> "VoiceTextBlender":
    """Returns the run's settings, also written to `out`; mistakes are told before anything is made."""
    import json

    from sonant.cli.train import preset_path
    from sonant.config import load_config, save_config
    from sonant.errors import ConfigError
    from sonant.recipes.voicetextblender import VoiceTextBlender

    overrides = [f"arm={json.dumps(arm)}", f"data.root={json.dumps(str(world))}"]  # quoted: YAML reads these values
    overrides += [f"train.seed={seed}", f"data.plan.seed={seed}", "train.resume=true"]
    config = load_config(VoiceTextBlender, [preset_path("voicetextblender", "tiny")], overrides=[*overrides, *settings])
    path = out / "config.yaml"
    if path.exists() and load_config(VoiceTextBlender, [path]) != config:
        raise ConfigError(f"{out} holds a run with other settings ({path}); choose another --out or remove it")
    out.mkdir(parents=True, exist_ok=True)
    save_config(config, path)
    return config


def _make_world(world: Path) -> None:
    from sonant.synth.world.make import make_world

    make_world(world)


def _train(config: "VoiceTextBlender", out: Path) -> None:
    from sonant.recipes.voicetextblender import main

    result = main(config, out, say=typer.echo)
    if result.stopped:
        typer.echo(f"stopped by {result.stopped} at step {result.step}; start again to go on")
        raise typer.Exit(3)


def _measure(out: Path, world: Path) -> "tuple[Assistant, dict[str, TaskResult]]":
    from sonant.cli.evaluate import load_examinee
    from sonant.cli.evaluate_tables import print_results, progress_bar
    from sonant.evaluate.report.page import write_report
    from sonant.evaluate.run import run_sets, sets_of

    examinee = load_examinee(out / "model")
    with progress_bar() as tell:
        results = run_sets(sets_of(sorted((world / "test").glob("*.jsonl"))), examinee, out, progress=tell)
    (out / "report_notes.txt").write_text("\n".join(NOTES) + "\n")
    write_report([out], out=out / "report.html")
    print_results(results)
    return examinee.assistant, results


def _ask(assistant: "Assistant", world: Path) -> None:
    from sonant.data.manifest import Manifest

    row = Manifest(world / "test" / "spoken_qa.jsonl")[0]
    clip = row.audio_parts[0]
    typer.echo(f"  heard     {os.path.relpath(clip.name)}  (a test voice says: {clip.transcript!r})")
    typer.echo(f"  answered  {assistant.reply(row.prompt()).text!r}  (right: {row.reference!r})")


def _next_steps(out: Path, world: Path, results: "dict[str, TaskResult]") -> None:
    from sonant.data.manifest import Manifest

    clip = os.path.relpath(Manifest(world / "test" / "multi_turn.jsonl")[0].audio_parts[0].name)
    sonant = "sonant" if shutil.which("sonant") else os.path.relpath(sys.argv[0])
    typer.echo(
        f"  model  {out / 'model'}\n  scores {out / 'results.json'}\n  page   {out / 'report.html'}  (open it)\n"
    )
    typer.echo("Next, try:")
    typer.echo(f"  {sonant} talk {out / 'model'}    (speak with it in the browser; needs: pip install 'sonant[serve]')")
    typer.echo(f"  {sonant} serve {out / 'model'}   (OpenAI's API, and the same page)")
    typer.echo(f"  {sonant} ask {out / 'model'} {clip}")
    typer.echo(f"  {sonant} evaluate {out / 'model'} --suite tiny --root {world} --out {out.parent / 'unseen_prompts'}")
    typer.echo(f"  {sonant} data check {world}/*/*.jsonl")
