"""`sonant train`: run a recipe from a preset, with settings changed one by one."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonant.cli.imports import quick_imports

if TYPE_CHECKING:
    from sonant.train.trainer import TrainResult

EPILOG = """Examples:

    sonant train voicetextblender tiny data.root=runs/quickstart/world --out runs/mine

    sonant train voicetextblender my.yaml arm=speech_only train.steps=500 --out runs/speech_only

    sonant train voicetextblender tiny data.root=runs/quickstart/world --out runs/mine --resume

    torchrun --nproc-per-node 8 -m sonant train voicetextblender best data.root=DATA --out runs/best

    sonant train speechmapper tiny root=runs/quickstart/world --out runs/mapper

    sonant train wavllm tiny root=runs/many --out runs/wavllm

    sonant train spectron tiny data.root=runs/spoken --out runs/spectron

    sonant train voicetextblender faithful --show   (print the resolved settings, train nothing)

    sonant train wavllm best --plan --devices 8 --memory-gb 80 --peak-tflops 990   (will it fit, and how fast?)

    sonant train voicetextblender tiny --plan --calibrate   (as fast as three steps here say)
"""
# Of --plan.
Devices = Annotated[int, typer.Option(min=1, help="--plan: devices, as 8.")]
MemoryGB = Annotated[float | None, typer.Option(min=0, help="--plan: GB of each device, as 80.")]
PeakTFLOPS = Annotated[float | None, typer.Option(min=0, help="--plan: of each device, as 990; else measured here.")]
BandwidthGBs = Annotated[
    float | None, typer.Option(min=0, help="--plan: GB/s of each device's memory, as 3350, with --peak-tflops.")
]
Efficiency = Annotated[
    float | None, typer.Option(min=0, max=1, help="--plan: share of the peak that is reached, as 0.4.")
]
Calibrate = Annotated[
    bool, typer.Option("--calibrate", help="--plan: measure the efficiency by a few steps here; loads weights.")
]
ClipSeconds = Annotated[float, typer.Option(min=0, help="--plan: seconds of a typical clip, as 10.")]
TextTokens = Annotated[int, typer.Option(min=2, help="--plan: text of a row, template and answer, as 64.")]
AnswerTokens = Annotated[int, typer.Option(min=1, help="--plan: of those, the answer's, as 32.")]
JSONOut = Annotated[Path | None, typer.Option("--json", help="--plan: also write it here, as plan.json.")]
RECIPES = ("voicetextblender", "speechmapper", "wavllm", "spectron")


def train(
    recipe: Annotated[str, typer.Argument(help=f"One of: {', '.join(RECIPES)}.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="Presets or YAML files first (tiny, faithful, best, my.yaml), then key=value.",
            metavar="[PRESET] [A.B=C]...",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The run's folder: log, checkpoints, model.")] = Path("runs/run"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out where it stopped.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the resolved settings and stop.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say what a step takes, and stop; loads no weights.")] = False,
    devices: Devices = 1,
    memory_gb: MemoryGB = None,
    peak_tflops: PeakTFLOPS = None,
    bandwidth_gb_s: BandwidthGBs = None,
    efficiency: Efficiency = None,
    calibrate: Calibrate = False,
    clip_s: ClipSeconds = 10.0,
    text_tokens: TextTokens = 64,
    answer_tokens: AnswerTokens = 32,
    json_out: JSONOut = None,
) -> None:
    """Train a recipe. Stops cleanly on Ctrl-C or SIGTERM and resumes exactly with --resume."""
    import yaml

    from sonant.config import save_config

    with quick_imports():
        from sonant.train.distributed import leads, take_gpu

        settings_class, main = load_recipe(recipe)
    config = _resolved(settings_class, recipe, [*(settings or []), *(["train.resume=true"] if resume else [])])
    if show:
        return typer.echo(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    if plan:
        from sonant.cli import train_plan

        rates = (peak_tflops, bandwidth_gb_s, efficiency, calibrate)
        wanted = train_plan.Wanted(devices, memory_gb, *rates, clip_s, text_tokens, answer_tokens)
        return train_plan.plan(config, wanted, out=json_out, say=typer.echo)
    out.mkdir(parents=True, exist_ok=True)
    if resume and leads() and not (out / "config.yaml").exists():
        typer.echo(f"{out}: no run to go on with; a new one begins")
    # A refused run must not change the settings of the one it met.
    if leads() and (resume or not (out / "config.yaml").exists()):
        save_config(config, out / "config.yaml")
    take_gpu(config.train.device)
    _conclude(main(config, out, say=typer.echo if leads() else lambda text: None), out)


def _conclude(result: "TrainResult", out: Path) -> None:
    if result.stopped:
        typer.echo(f"stopped by {result.stopped} at step {result.step}; go on with --resume")
        raise typer.Exit(3)
    typer.echo(f"trained: {out / 'model'}")


def _resolved(settings_class: type[Any], recipe: str, settings: list[str]) -> Any:
    """The settings of presets and files, with those given one by one laid over them."""
    import re

    from sonant.config import load_config
    from sonant.errors import ConfigError

    presets = [each for each in settings if "=" not in each] or ["tiny"]
    if re.fullmatch(r"gpus\d+", presets[0]):
        raise ConfigError(f"{presets[0]} is laid over another preset; write: {recipe} best {presets[0]}")
    overrides = [each for each in settings if "=" in each]
    return load_config(settings_class, [preset_path(recipe, name) for name in presets], overrides=overrides)


def load_recipe(name: str) -> tuple[type[Any], Callable[..., Any]]:
    """Returns a recipe's settings and its `main(config, run_dir, say=...)`. Raises: ConfigError that lists them all."""
    from sonant.errors import ConfigError

    match name:
        case "voicetextblender":
            from sonant.recipes import voicetextblender

            return voicetextblender.VoiceTextBlender, voicetextblender.main
        case "speechmapper":
            from sonant.recipes import speechmapper

            return speechmapper.SpeechMapper, speechmapper.main
        case "spectron":
            from sonant.recipes import spectron

            return spectron.Spectron, spectron.main
        case "wavllm":
            from sonant.recipes import wavllm

            return wavllm.WavLLM, wavllm.main
        case _:
            raise ConfigError(f"no recipe {name!r}; recipes are {', '.join(RECIPES)}")


def preset_path(recipe: str, name: str) -> Path:
    """Returns the file of a preset or of a YAML file. Raises: ConfigError that lists the presets."""
    from importlib import resources

    from sonant.errors import ConfigError

    if name.endswith((".yaml", ".yml")):
        return Path(name)
    folder = Path(str(resources.files("sonant.recipes"))) / "presets" / recipe
    path = folder / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ConfigError(f"no preset {name!r} for {recipe}; presets are {known}; a file's name ends in .yaml")
    return path
