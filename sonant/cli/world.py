"""`sonant world`: make the tiny world's corpora, or build its parts again."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make the tiny world: corpora to train on, and the parts themselves.", no_args_is_help=True)

MAKE_EPILOG = """Examples:

    sonant world make runs/world

    sonant world make runs/world --set train.asr=3000 --set engine=flite   (flite: apt-get install flite)
"""
BUILD_EPILOG = """Examples:

    sonant world build runs/parts

    sonant world build runs/parts --part llm --set train.steps=200
"""
Settings = Annotated[list[str] | None, typer.Option("--set", help="Any setting, as a.b=c.")]


@app.command(epilog=MAKE_EPILOG)
def make(
    out: Annotated[Path, typer.Argument(help="Folder for clips and manifests.")], settings: Settings = None
) -> None:
    """Speak and write the corpora: train, dev and test of every task. Run again, it makes only what is missing."""
    from sonant.config import load_config
    from sonant.synth.world import WorldConfig, make_world

    counts = make_world(out, config=load_config(WorldConfig, [], overrides=settings or []), tell=typer.echo)
    for name, num_rows in counts.items():
        typer.echo(f"{num_rows:6} rows  {out / name}")


@app.command(epilog=BUILD_EPILOG)
def build(
    out: Annotated[Path, typer.Argument(help="Folder for tokenizer, texts, runs and finished parts.")],
    part: Annotated[str, typer.Option(help="llm, encoder or all.")] = "all",
    settings: Settings = None,
) -> None:
    """Train the tiny parts again, from nothing: what is shipped as tiny/llm and tiny/encoder. About ten minutes."""
    from sonant.errors import ConfigError

    if part not in ("llm", "encoder", "all"):
        raise ConfigError(f"--part {part!r}: parts are llm, encoder and all")
    if part == "all" and settings:
        raise ConfigError("--set needs --part: the settings of the two parts differ")
    if part in ("llm", "all"):
        _build_llm(out, settings or [])
    if part in ("encoder", "all"):
        _build_encoder(out, settings or [])


def _build_llm(out: Path, settings: list[str]) -> None:
    from sonant.config import load_config
    from sonant.data.manifest import write
    from sonant.recipes.tiny_llm import TinyLLM, main
    from sonant.synth.world import text_rows
    from sonant.synth.world_tokenizer import train_tokenizer

    train_tokenizer(out / "tokenizer")
    write(out / "text" / "train.jsonl", text_rows("train", 60_000))
    write(out / "text" / "dev.jsonl", text_rows("dev", 600))
    write(out / "text" / "test.jsonl", text_rows("test", 1200))
    paths = [f"tokenizer={out / 'tokenizer'}", f"train_manifest={out / 'text' / 'train.jsonl'}"]
    paths += [f"{split}_manifests=[{out / 'text' / f'{split}.jsonl'}]" for split in ("dev", "test")]
    config = load_config(TinyLLM, [], overrides=["train.resume=true", *paths, *settings])
    _print_scores(main(config, out / "llm", say=typer.echo), out / "llm" / "model")


def _build_encoder(out: Path, settings: list[str]) -> None:
    from sonant.config import load_config
    from sonant.recipes.tiny_encoder import TinyEncoderRecipe, build_encoder
    from sonant.synth.world_listening import make_listening
    from sonant.synth.world_tokenizer import train_tokenizer

    train_tokenizer(out / "tokenizer")
    typer.echo("speaking 15,000 clips (espeak, flite, festival)")
    train, dev = make_listening(out / "listening")
    overrides = ["train.resume=true", f"tokenizer={out / 'tokenizer'}", *settings]
    config = load_config(TinyEncoderRecipe, [], overrides=overrides)
    folder = out / "encoder" / "model"
    folder.mkdir(parents=True, exist_ok=True)
    run_dir, command = out / "encoder", "sonant world build"
    scores = build_encoder(train, folder, config=config, run_dir=run_dir, dev=dev, command=command, say=typer.echo)
    _print_scores(scores, folder)


def _print_scores(scores: dict[str, float], folder: Path) -> None:
    for name, score in scores.items():
        typer.echo(f"{score:7.2f}  {name}")
    typer.echo(f"written: {folder}")
