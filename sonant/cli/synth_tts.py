"""`sonant synth tts`: any text column becomes recordings to train on."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sonant.cli.build import Engine, Part, Pitches, Rates, Seed, ShardRows, VoicesOption, run

EPILOG = """Examples:

    sonant synth tts sentences.txt runs/spoken --language en   (espeak, 640 voices; train on runs/spoken/rows.jsonl)

    sonant synth tts questions.csv runs/asked --text question --answer answer --task spoken_qa --language en

    sonant synth tts texts.parquet runs/spoken --language deu --engine hf:models/mms-tts-deu

    sonant synth tts texts.jsonl runs/spoken --voices en=en-us+f3,en-029 --voices de=de+m5 --rates 0.9 1.1

    sonant synth tts texts.jsonl runs/spoken --engine http://localhost:8000/v1#kokoro --voices en=af_heart --workers 8

    sonant synth tts texts.jsonl runs/spoken --voices en=amy.onnx
    --engine 'command:piper --model {voice} --input-file {text_file} --output-file {output}'

Run again, it makes only what is missing. Several machines at once: docs/building.md.
"""


Text = Annotated[
    str | None, typer.Option("--text", help="Column to speak, by default text; in a manifest user, assistant or a key.")
]
Answer = Annotated[
    str, typer.Option("--answer", help="Column that answers it. By default what was said, after an instruction.")
]


def tts(
    source: Annotated[Path, typer.Argument(help="A manifest, or .txt, .csv, .tsv, .jsonl, .parquet with texts.")],
    out: Annotated[Path, typer.Argument(help="Folder for clips, shards and the manifest rows.jsonl.")],
    engine: Engine = "espeak",
    text: Text = None,
    answer: Answer = "",
    task: Annotated[str, typer.Option(help="What the rows are called.")] = "asr",
    language: Annotated[str | None, typer.Option(help="Language of rows that name none.")] = None,
    in_words: Annotated[bool, typer.Option("--in-words", help="Say numbers, maths, dates in words.")] = False,
    words: Annotated[bool, typer.Option("--words", help="Also write when each word begins (espeak).")] = False,
    voices: VoicesOption = None,
    rates: Rates = (1, 1),
    pitches: Pitches = (1, 1),
    prompts: Annotated[str, typer.Option(help="Bank of instructions: a shipped one or a YAML file.")] = "asr",
    split: Annotated[Literal["train", "dev", "test"], typer.Option(help="Split of the bank.")] = "train",
    audio_format: Annotated[Literal["flac", "wav"], typer.Option("--format", help="How clips are stored.")] = "flac",
    sample_rate: Annotated[int, typer.Option(help="Of the clips, in Hz.")] = 16_000,
    seed: Seed = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes, threads or calls of the engine at once.")] = 2,
    shard_rows: ShardRows = 256,
    part: Part = "0/1",
) -> None:
    """Speak a column of texts and write rows to train on; a clip that cannot be made is counted with its reason."""
    from sonant.data.manifest import Manifest
    from sonant.data.prompts import load_prompt_bank
    from sonant.synth.speaking import Delivery, SpokenTexts
    from sonant.synth.texts import text_manifest
    from sonant.synth.tts import load_synthesizer
    from sonant.synth.voices import load_voices

    synthesizer = load_synthesizer(engine, num_workers=workers)
    chosen, suffix = load_voices(voices or [], synthesizer), f".{audio_format}"
    delivery = Delivery(chosen, rates, pitches, sample_rate_hz=sample_rate, suffix=suffix)
    manifest = text_manifest(source, out, column=text or "text")
    builder = SpokenTexts(
        synthesizer,
        delivery,
        load_prompt_bank(prompts),
        split=split,
        text=text or "user" if manifest == source else "user",
        answer=answer,
        task=task,
        language=language,
        in_words=in_words,
        marks=words,
        seed=seed,
    )
    builder.refuse_misspelt(Manifest(manifest))
    run(builder, manifest, out, shard_rows=shard_rows, part=part)
    if words:
        _tell_unmarked(out / "rows.jsonl")


def _tell_unmarked(path: Path) -> None:
    from sonant.data.manifest import Manifest

    if not path.exists():  # other parts are at work
        return
    unknown = sum("words" not in row.audio_parts[0].extra for row in Manifest(path))
    typer.echo(f"{unknown:8} rows without word marks: numbers, signs, and what is not said as it is written")
