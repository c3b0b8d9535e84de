"""`sonant data cache-features`: run a frozen encoder once, so that training need not."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sonant.audio.features import FeatureSpec
    from sonant.data.frame_cache import CacheReport

EPILOG = """Examples:

    sonant data cache-features train.jsonl dev.jsonl --encoder tiny/encoder --out frames

    sonant data cache-features train.jsonl --out frames --kind seamless --encoder facebook/seamless-m4t-v2-large
        -o length_adapter=false -o dtype=bfloat16 --average 2 --device cuda

Call it again after an interruption, or with further manifests: what is there is kept.
"""


def cache_features(
    manifests: Annotated[list[Path], typer.Argument(help="Manifests (.jsonl).")],
    out: Annotated[Path, typer.Option(help="The folder of the cache.")],
    encoder: Annotated[str, typer.Option(help="Folder or hub id of the encoder, or tiny/encoder.")] = "tiny/encoder",
    kind: Annotated[str, typer.Option(help="What kind of encoder it is: tiny, seamless, whisper, wavlm, ...")] = "tiny",
    average: Annotated[int, typer.Option(min=1, help="Keep the mean of so many frames (SpeechMapper: 2).")] = 1,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "-o", "--option", help="A setting of the encoder, as in a preset: -o dtype=bfloat16", metavar="KEY=VALUE"
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="float16, or float32: twice the space, and exactly what the encoder gives.")
    ] = "float16",
    device: Annotated[str, typer.Option(help="Where the encoder runs: auto, cpu, cuda, cuda:1.")] = "auto",
    shard_mb: Annotated[int, typer.Option(min=1, help="Size of a file; what a kill may cost.")] = 256,
    batch_s: Annotated[float, typer.Option(min=1, help="Seconds of audio encoded at once.")] = 120.0,
    workers: Annotated[int, typer.Option(min=1, help="Batches in the making at once.")] = 2,
) -> None:
    """Write down what a frozen encoder makes of every clip; recipes read it instead of running it.

    A recipe with `frames` set does so by itself, in its first epoch, clip by clip; this encodes clips together.
    """
    import time

    from sonant.cli.data import progress_bar
    from sonant.config import parse_override, validate
    from sonant.data.frame_cache import write_frame_cache
    from sonant.data.frame_shards import DTYPES
    from sonant.generate.encode import clip_encoder
    from sonant.models.device import device_named
    from sonant.models.encoders.base import EncoderConfig
    from sonant.models.encoders.identity import encoded_spec
    from sonant.models.encoders.load import load_encoder

    if precision not in DTYPES:
        raise typer.BadParameter(f"{precision!r} is none; {' and '.join(DTYPES)} are", param_hint="--precision")
    where = device_named(device)
    settings = {"kind": kind, "path": encoder, "average": average}
    for text in option or []:
        settings |= parse_override(text)
    loaded = load_encoder(validate(EncoderConfig, settings, where="the encoder"))
    spec, encode = encoded_spec(loaded), clip_encoder(loaded, device=str(where))
    how: dict[str, Any] = {"shard_bytes": shard_mb << 20, "batch_s": batch_s, "workers": workers}
    how |= {"encode": encode, "spec": spec, "precision": precision}
    began = time.perf_counter()
    with progress_bar("clips") as progress:
        report = write_frame_cache(manifests, out, progress=progress, **how)
    _tell(report, spec, out, time.perf_counter() - began)
    raise typer.Exit(1 if report.left_out else 0)


def _tell(report: "CacheReport", spec: "FeatureSpec", out: Path, wall_s: float) -> None:
    from sonant.cli.data import print_table

    rows = [
        ("encoder", f"{spec.encoder}, {spec.dim} wide at {spec.frame_rate_hz:g} Hz"),
        ("clips", f"{report.clips:,}, of which {report.new_clips:,} new"),
        ("new hours", f"{report.frames / spec.frame_rate_hz / 3600:.3f}"),
        ("new GB", f"{report.num_bytes / 1e9:.3f}"),
        ("clips a second", f"{report.new_clips / wall_s:.0f}"),
        ("frames a second", f"{report.frames / wall_s:.0f}"),
    ]
    print_table(f"Frames in {out}", ("", ""), rows)
    for fault in report.mended:
        typer.echo(f"made again: {fault}")
    for name, reason in list(report.left_out.items())[:20]:
        typer.echo(f"left out: {name}: {reason}")
    if report.left_out:
        typer.echo(
            f"{len(report.left_out)} clips have no frames: rows with them cannot be trained on; mend or drop them"
        )
