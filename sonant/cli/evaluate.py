"""`sonant evaluate`: what a model can do, beside what it is compared with."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonant.cli.evaluate_tables import list_suites, print_results, progress_bar
from sonant.cli.imports import quick_imports

if TYPE_CHECKING:
    from sonant.evaluate.arms import Examinee
    from sonant.evaluate.run import EvalSet, TaskResult
    from sonant.evaluate.speech.measure import SpeechTest
    from sonant.evaluate.suite import Place, Prepared
    from sonant.generate.chat_model import ChatModel

EPILOG = """Examples:

    sonant evaluate runs/quickstart/model runs/quickstart/world/test/*.jsonl --out runs/quickstart

    sonant evaluate MODEL --suite librispeech --root /data --out runs/a   (--suite list shows what lies where)

    sonant evaluate MODEL --suite voicebench --root /data --judge http://localhost:8000/v1#Qwen/Qwen3-32B

    sonant evaluate MODEL --suite tiny_spectron --root WORLD --out runs/a   (a model with a voice answers aloud)

    sonant evaluate MODEL asr.jsonl text_only.jsonl --max-forgetting 0.5   (exit status 1 if text skill was lost)

    sonant evaluate --compare runs/a runs/b --out runs/a_b   (with --judge, also which answers it prefers)

    sonant evaluate --compare runs/a runs/b --together speaker   (intervals over speakers, not over their rows)

    sonant evaluate --with lm-eval --setup   (once: a venv of its own)

    sonant evaluate MODEL text_only.jsonl my_task.yaml --with lm-eval --out runs/a   (before and after training)

    sonant evaluate runs/a --with comet --checkpoint comet/checkpoints/model.ckpt

Stopped and started again with the same --out, it asks only what is missing.
"""
Model = Annotated[Path | None, typer.Argument(help="Folder of a trained model.")]
Manifests = Annotated[list[Path] | None, typer.Argument(help="Manifests with references; rows are grouped by task.")]
Out = Annotated[Path, typer.Option(help="Folder for results.json, items.jsonl and pins.json.")]
SuiteName = Annotated[str, typer.Option("--suite", help="A shipped suite, a .yaml, or 'list'.")]
Root = Annotated[Path, typer.Option(help="The suite's sets lie below this folder.")]
Only = Annotated[str, typer.Option(help="Only the suite's sets of this name; * and ? are wild.")]
SkipMissing = Annotated[bool, typer.Option("--skip-missing", help="Leave out sets that are not there, and list them.")]
Imported = Annotated[Path | None, typer.Option(help="Where imported sets are kept (OUT/imported); runs may share it.")]
Paraphrases = Annotated[int | None, typer.Option(min=1, help="Held-out wordings a row is asked in.")]
JudgeName = Annotated[
    str, typer.Option("--judge", help="Model that judges: URL#MODEL or a folder; 'none' leaves judged metrics out.")
]
RecognizerName = Annotated[
    str | None,
    typer.Option(
        "--recognizer",
        help="Writes down the audio for the cascade: Whisper or a CTC model, a hub id or folder (openai/whisper-small, "
        "with #de where the language is known); '' for none. Tiny models have tiny/encoder.",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first rows of each set.")]
Baselines = Annotated[
    bool, typer.Option("--baselines", help="Also ask the model without the audio, and with the transcript instead.")
]
BatchSize = Annotated[int, typer.Option(min=1)]
Listeners = Annotated[
    list[str] | None,
    typer.Option(
        "--listener",
        help="Writes down what a model with a voice says; several judge side by side: pocketsphinx, or what "
        "--recognizer takes. Tiny models have tiny/encoder and pocketsphinx (if it is installed).",
    ),
]
SpeakerEncoder = Annotated[
    str | None, typer.Option(help="Tells voices apart: tiny/speaker-encoder or a folder of WavLM; '' for none.")
]
Perplexity = Annotated[str | None, typer.Option(help="LLM that weighs what was said: tiny/llm, a folder; '' for none.")]
Device = Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, cuda:1.")]
NewTokens = Annotated[int, typer.Option(min=1)]
MaxForgetting = Annotated[
    float | None, typer.Option(help="Points that any text-only task may lose; more sets exit status 1.")
]
Compare = Annotated[tuple[Path, Path] | None, typer.Option(help="Two run folders: paired differences, no model asked.")]
Together = Annotated[str, typer.Option(help="With --compare: what rows share that stand or fall together (speaker).")]
With = Annotated[str, typer.Option("--with", help="An outside tool in a venv of its own: comet or lm-eval.")]
Setup = Annotated[bool, typer.Option("--setup", help="Make the venv of the tool in --with.")]
Endpoint = Annotated[str, typer.Option(help="URL#MODEL that lm-eval asks instead of a folder.")]
Checkpoint = Annotated[Path | None, typer.Option(help="COMET's model file.")]


def evaluate(
    model: Model = None,
    manifests: Manifests = None,
    out: Out = Path("results"),
    suite: SuiteName = "",
    root: Root = Path(),
    only: Only = "*",
    skip_missing: SkipMissing = False,
    imported: Imported = None,
    paraphrases: Paraphrases = None,
    judge: JudgeName = "",
    recognizer: RecognizerName = None,
    listener: Listeners = None,
    speaker_encoder: SpeakerEncoder = None,
    perplexity: Perplexity = None,
    limit: Limit = None,
    baselines: Baselines = False,
    batch_size: BatchSize = 32,
    max_new_tokens: NewTokens = 128,
    device: Device = "auto",
    max_forgetting: MaxForgetting = None,
    compare: Compare = None,
    together: Together = "",
    tool: With = "",
    setup: Setup = False,
    endpoint: Endpoint = "",
    checkpoint: Checkpoint = None,
) -> None:
    """Score a model beside the cascade, the text oracle, and the LLM it grew from."""
    from sonant.cli.evaluate_tools import compare_runs, run_tool

    if compare:
        return compare_runs(*compare, out, judge=_judge(judge, out), together=together)
    if tool:
        return run_tool(tool, model, manifests, out, setup=setup, endpoint=endpoint, checkpoint=checkpoint, limit=limit)
    if suite == "list":
        return list_suites()
    with quick_imports():
        from sonant.evaluate.run import run_sets, sets_of
        from sonant.evaluate.suite import Place
    model = _given(model, manifests or suite, together)
    place = Place(root, imported or out / "imported", only, skip_missing, judged=judge != "none")
    with progress_bar() as tell:
        prepared = _prepare(suite, place, paraphrases, limit, tell) if suite else None
        sets = [*(sets_of(manifests, limit=limit) if manifests else ()), *(prepared.sets if prepared else ())]
        examinee = load_examinee(model, recognizer, device=device, max_new_tokens=max_new_tokens, batch_size=batch_size)
        asked = replace(examinee, baselines=baselines)
        pins = {**examinee.pins, "suite": prepared.pins} if prepared else examinee.pins
        speech = _speech_test(sets, asked, listener, speaker_encoder, perplexity)
        results = run_sets(sets, asked, out, judge_model=_judge(judge, out), speech=speech, pins=pins, progress=tell)
    _conclude(results, out, skipped=prepared.skipped if prepared else {}, max_forgetting=max_forgetting)


def _given(model: Path | None, sets: list[Path] | str, together: str) -> Path:
    from sonant.errors import EvaluationError

    if together:
        raise EvaluationError(f"--together {together} says how two runs are compared; give --compare A B as well")
    if model is None or not sets:
        raise EvaluationError("what is to be evaluated? give MODEL and MANIFESTS, or MODEL --suite NAME --root FOLDER")
    return model


def _prepare(suite: str, place: "Place", paraphrases: int | None, limit: int | None, tell: progress_bar) -> "Prepared":
    from sonant.evaluate.suite import prepare

    def importing(name: str, read: int) -> None:
        tell(f"import {name}", read)

    return prepare(suite, place, paraphrases=paraphrases, limit=limit, progress=importing)


def load_examinee(
    model: Path, recognizer: str | None = None, *, device: str = "cpu", max_new_tokens: int = 128, batch_size: int = 32
) -> "Examinee":
    """Returns the model in a folder with the recogniser of its cascade: "" is none, None that of tiny models.

    Raises: CheckpointError or ModelError if either cannot be loaded.
    """
    from sonant.evaluate.arms import Examinee
    from sonant.evaluate.pins import run_pins
    from sonant.generate.assistant import Assistant
    from sonant.generate.hf_recognizer import load_recognizer
    from sonant.generate.sampling import GenerationConfig
    from sonant.models.encoders.tiny import TinyEncoder
    from sonant.models.parts import resolve_part

    assistant = Assistant.from_folder(model, device=device)
    if recognizer is None:
        is_tiny = any(isinstance(encoder, TinyEncoder) for encoder in assistant.model.speech_encoders)
        recognizer = "tiny/encoder" if is_tiny else ""
    heard_by = load_recognizer(recognizer) if recognizer else None
    generation = GenerationConfig(max_new_tokens=max_new_tokens)
    pins = run_pins(model, recognizer=resolve_part(recognizer), config=generation)
    return Examinee(assistant, heard_by, generation, batch_size, pins)


def _speech_test(
    sets: "list[EvalSet]", asked: "Examinee", listeners: list[str] | None, encoder: str | None, llm: str | None
) -> "SpeechTest | None":
    from sonant.cli.evaluate_speech import Measured, load_speech_test

    return load_speech_test(sets, asked, Measured(listeners, encoder, llm))


def _judge(name: str, out: Path) -> "ChatModel | None":
    """The model that judges; what it said once is kept, and not asked again of the same files."""
    if name in ("", "none"):
        return None
    from sonant.evaluate.pins import part_sha256
    from sonant.generate.cache import CachedModel
    from sonant.generate.chat_model import load_chat_model
    from sonant.models.parts import resolve_part

    model = load_chat_model(name)
    files = "" if "://" in name else part_sha256(resolve_part(name))
    return CachedModel(model, out / "answers" / "judge" / files[:24])


def _print(results: "dict[str, TaskResult]", out: Path, *, skipped: dict[str, str]) -> None:
    print_results(results)
    for name, result in results.items():
        for reason, count in result.pins.get("source", {}).get("dropped", {}).items():
            typer.echo(f"not read: {name}: {count} rows, {reason}")
    for name, why in skipped.items():
        typer.echo(f"left out: {name}: {why}")
    typer.echo(f"written: {out / 'results.json'}, {out / 'items.jsonl'}, {out / 'pins.json'}")


def _conclude(
    results: "dict[str, TaskResult]", out: Path, *, skipped: dict[str, str], max_forgetting: float | None
) -> None:
    _print(results, out, skipped=skipped)
    check_forgetting(results, max_forgetting=max_forgetting)


def check_forgetting(results: "dict[str, TaskResult]", *, max_forgetting: float | None) -> None:
    """Prints the verdict; exits with status 1 if any text task lost more than `max_forgetting`; None: neither."""
    from sonant.errors import EvaluationError
    from sonant.evaluate.run import forgetting

    if max_forgetting is None:
        return
    lost = forgetting(results)
    if not lost:
        raise EvaluationError("--max-forgetting needs rows without audio among the manifests; there are none")
    worst = max(lost, key=lambda task: lost[task].value)
    failed = lost[worst].value > max_forgetting
    verdict = "FAILED" if failed else "passed"
    typer.echo(f"forgetting {verdict}: worst is {worst}, {lost[worst]} points lost, {max_forgetting} allowed")
    if failed:
        raise typer.Exit(1)
