"""`sonant world`: make the tiny world's corpora, or build its parts again."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, TypeVar

import typer

if TYPE_CHECKING:
    from sonant.config import Config

C = TypeVar("C", bound="Config")

app = typer.Typer(help="Make the tiny world: corpora to train on, and the parts themselves.", no_args_is_help=True)

MAKE_EPILOG = """Examples:

    sonant world make runs/world

    sonant world make runs/world --set train.asr=3000 --set engine=flite   (flite: apt-get install flite)

    sonant world make runs/many --for wavllm   (speakers, manners, combined instructions)

    sonant world make runs/spoken --for spectron   (answers spoken in eight voices; one: --set num_voices=1)
"""
BUILD_EPILOG = """Examples:

    sonant world build runs/parts

    sonant world build runs/parts --part llm --set train.steps=200
"""
Built: TypeAlias = tuple[dict[str, float], Path]  # scores, and the folder of the part
Settings = Annotated[list[str] | None, typer.Option("--set", help="Any setting, as a.b=c.")]


@app.command(epilog=MAKE_EPILOG)
def make(
    out: Annotated[Path, typer.Argument(help="Folder for clips and manifests.")],
    purpose: Annotated[
        Literal["voicetextblender", "wavllm", "spectron"],
        typer.Option("--for", help="The recipe whose tasks are made."),
    ] = "voicetextblender",
    settings: Settings = None,
) -> None:
    """Speak and write the corpora: train, dev and test of every task. Run again, it makes only what is missing."""
    if purpose == "wavllm":
        from sonant.synth.world.wavllm import WavLLMWorldConfig, make_wavllm_world

        many = _changed(WavLLMWorldConfig(), settings or [])
        counts = make_wavllm_world(out, config=many, tell=typer.echo)
    elif purpose == "spectron":
        from sonant.synth.world.spectron import SpectronWorldConfig, make_spectron_world

        spoken = _changed(SpectronWorldConfig(), settings or [])
        counts = make_spectron_world(out, config=spoken, tell=typer.echo)
    else:
        from sonant.synth.world.make import WorldConfig, make_world

        counts = make_world(out, config=_changed(WorldConfig(), settings or []), tell=typer.echo)
    for name, num_rows in counts.items():
        typer.echo(f"{num_rows:6} rows  {out / name}")


def _changed(config: C, settings: list[str]) -> C:
    """Returns `config` with `a.b=c` settings laid over it; nested values that are not named stay."""
    from sonant.config import merge, parse_override, validate

    values = config.model_dump()
    for setting in settings:
        values = merge(values, parse_override(setting))
    return validate(type(config), values, where=", ".join(settings))


def _build_llm(out: Path, settings: list[str]) -> Built:
    from sonant.data.manifest import write
    from sonant.recipes.tiny_llm import TinyLLM, main
    from sonant.synth.world.make import text_rows
    from sonant.synth.world.tokenizer import train_tokenizer

    train_tokenizer(out / "tokenizer")
    write(out / "text" / "train.jsonl", text_rows("train", 80_000))
    write(out / "text" / "dev.jsonl", text_rows("dev", 600))
    write(out / "text" / "test.jsonl", text_rows("test", 1200))
    config = TinyLLM(
        tokenizer=str(out / "tokenizer"),
        train_manifest=str(out / "text" / "train.jsonl"),
        dev_manifests=(str(out / "text" / "dev.jsonl"),),
        test_manifests=(str(out / "text" / "test.jsonl"),),
    )
    config = _changed(config, ["train.resume=true", *settings])
    return main(config, out / "llm", say=typer.echo), out / "llm" / "model"


def _build_encoder(out: Path, settings: list[str]) -> Built:
    from sonant.recipes.tiny_encoder import TinyEncoderRecipe, build_encoder
    from sonant.synth.world.listening import make_listening
    from sonant.synth.world.tokenizer import train_tokenizer

    train_tokenizer(out / "tokenizer")
    typer.echo("speaking 17,000 clips (espeak, flite, festival)")
    train, dev = make_listening(out / "listening", tell=typer.echo)
    config = _changed(TinyEncoderRecipe(tokenizer=str(out / "tokenizer")), ["train.resume=true", *settings])
    folder = out / "encoder" / "model"
    folder.mkdir(parents=True, exist_ok=True)
    run_dir, command = out / "encoder", "sonant world build"
    scores = build_encoder(train, folder, config=config, run_dir=run_dir, dev=dev, command=command, say=typer.echo)
    return scores, folder


def _build_manners_encoder(out: Path, settings: list[str]) -> Built:
    from sonant.recipes.tiny_encoder import TinyEncoderRecipe, build_encoder
    from sonant.synth.world.manners import make_manners

    train, dev = make_manners(out / "manners", tell=typer.echo)
    built = out / "encoder" / "model"
    config = TinyEncoderRecipe(begin=str(built) if built.is_dir() else "tiny/encoder", learning_rate=1.5e-3)
    shorter = ["train.steps=3000", "train.warmup_steps=100", "train.validate_every=500"]
    config = _changed(config, [*shorter, "train.resume=true", *settings])
    run_dir = out / "manners-encoder"
    folder, command = run_dir / "model", "sonant world build --part manners-encoder"
    folder.mkdir(parents=True, exist_ok=True)
    scores = build_encoder(
        [train], folder, config=config, run_dir=run_dir, dev={"manners": dev}, command=command, say=typer.echo
    )
    return scores, folder


def _build_speaker_encoder(out: Path, settings: list[str]) -> Built:
    from sonant.recipes.tiny_speaker_encoder import TinySpeakerRecipe, build_speaker_encoder
    from sonant.synth.world.tokenizer import train_tokenizer
    from sonant.synth.world.voice_pairs import make_voice_pairs

    train_tokenizer(out / "tokenizer")
    train, dev = make_voice_pairs(out / "voices", tell=typer.echo)
    config = _changed(TinySpeakerRecipe(tokenizer=str(out / "tokenizer")), ["train.resume=true", *settings])
    run_dir = out / "speaker-encoder"
    folder, command = run_dir / "model", "sonant world build --part speaker-encoder"
    scores = build_speaker_encoder(
        train, folder, config=config, run_dir=run_dir, dev=dev, command=command, say=typer.echo
    )
    return scores, folder


def _build_vocoder(out: Path, settings: list[str]) -> Built:
    from sonant.recipes.tiny_vocoder import TinyVocoderRecipe, build_vocoder
    from sonant.synth.world.listening import make_listening

    train, dev = make_listening(out / "listening", tell=typer.echo)  # the clips of the encoder
    config = _changed(TinyVocoderRecipe(), ["train.resume=true", *settings])
    run_dir = out / "vocoder"
    folder, command = run_dir / "model", "sonant world build --part vocoder"
    scores = build_vocoder(train, folder, config=config, run_dir=run_dir, dev=dev, command=command, say=typer.echo)
    return scores, folder


BUILDERS: dict[str, Callable[[Path, list[str]], Built]] = {  # in an order in which each finds what it begins from
    "llm": _build_llm,
    "encoder": _build_encoder,
    "manners-encoder": _build_manners_encoder,
    "speaker-encoder": _build_speaker_encoder,
    "vocoder": _build_vocoder,
}


@app.command(epilog=BUILD_EPILOG)
def build(
    out: Annotated[Path, typer.Argument(help="Folder for tokenizer, texts, runs and finished parts.")],
    part: Annotated[str, typer.Option(help=f"{', '.join(BUILDERS)} or all.")] = "all",
    settings: Settings = None,
) -> None:
    """Train the parts that are shipped as tiny/NAME again, from nothing. An hour and a half."""
    from sonant.errors import ConfigError

    if part not in (*BUILDERS, "all"):
        raise ConfigError(f"--part {part!r}: parts are {', '.join(BUILDERS)} and all")
    if part == "all" and settings:
        raise ConfigError("--set needs --part: the settings of the parts differ")
    for name, build_part in BUILDERS.items():
        if part in (name, "all"):
            scores, folder = build_part(out, settings or [])
            for score_name, score in scores.items():
                typer.echo(f"{score:7.2f}  {score_name}")
            typer.echo(f"written: {folder}")
