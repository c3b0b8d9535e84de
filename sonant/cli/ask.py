"""`sonant ask`: put a question, spoken or written, to a trained model; it answers in writing, or aloud."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonant.cli.imports import quick_imports

if TYPE_CHECKING:
    from sonant.chat.messages import Conversation, Message, Part
    from sonant.generate.assistant import Assistant
    from sonant.generate.reply import SpokenReply
    from sonant.generate.sampling import GenerationConfig

NEXT_TURN = "::"
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus")
OTHER_SUFFIXES = (".m4a", ".aac", ".mp4", ".webm", ".wma", ".amr", ".aif", ".aiff")  # not read, but meant as audio

EPILOG = """Examples:

    sonant ask runs/quickstart/model question.wav

    sonant ask runs/quickstart/model "repeat:" clip.wav

    sonant ask runs/quickstart/model what.wav :: "and where does it live?"   (two turns)

    sonant ask runs/quickstart/model --chat   (a line a turn; words that name audio files are heard)

    sonant ask runs/spectron/model clip.wav "continue:" --speak out.wav   (a model that speaks: written, then said)
"""


def ask(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    parts: Annotated[
        list[str] | None, typer.Argument(help="Text and audio files in any order; '::' begins the next turn.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Read turns from the terminal, a line each.")] = False,
    system: Annotated[str, typer.Option(help="A system message to begin with.")] = "",
    lora: Annotated[bool, typer.Option("--lora/--no-lora", help="--no-lora lets the base LLM answer.")] = True,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Draws the same answer, and the same sound, again.")] = 0,
    speak: Annotated[Path | None, typer.Option(help="Write the last answer as sound: .wav, .flac, .ogg, ...")] = None,
    vocoder: Annotated[
        str | None, typer.Option(help="griffin_lim, tiny/vocoder or a folder; else what fits the model.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, cuda:1.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole conversation as one manifest line.")] = False,
) -> None:
    """Ask a model: text, audio files, several turns. The answer streams to the terminal."""
    with quick_imports():
        from sonant.chat.messages import Conversation
        from sonant.chat.messages import system as system_message
        from sonant.errors import RequestError
        from sonant.generate.assistant import Assistant
        from sonant.generate.sampling import GenerationConfig
    turns = _turns(parts) if parts else []
    if not turns and not chat:
        raise RequestError("nothing to ask: give text or audio files after the model, or --chat")
    if speak is not None:
        _check_speak(speak, chat=chat)
    elif vocoder is not None:
        raise RequestError(f"--vocoder {vocoder} makes sound of an answer, but nothing is to be said; add --speak FILE")
    assistant = Assistant.from_folder(model, device=device, vocoder=vocoder)
    config = GenerationConfig(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    conversation = Conversation(messages=(system_message(system),) if system else ())
    for number, turn in enumerate(chain(turns, _typed_turns() if chat else ()), start=1):
        said_to = speak if number == len(turns) else None
        conversation = _answer(assistant, conversation, turn, config=config, lora=lora, quiet=as_json, speak=said_to)
    if as_json:
        typer.echo(json.dumps(conversation.to_json(), ensure_ascii=False))


def _answer(
    assistant: "Assistant",
    conversation: "Conversation",
    turn: "Message",
    *,
    config: "GenerationConfig",
    lora: bool,
    quiet: bool,
    speak: Path | None,
) -> "Conversation":
    from dataclasses import replace

    from sonant.chat.messages import AudioPart
    from sonant.chat.messages import assistant as assistant_message
    from sonant.generate.reply import SoundChunk, SpokenReply, TextPiece

    conversation = replace(conversation, messages=(*conversation.messages, turn))
    events: Iterable[TextPiece | SoundChunk | SpokenReply] = (
        map(TextPiece, assistant.stream(conversation, config=config, lora=lora))
        if speak is None
        else assistant.stream_speech(conversation, config=config, lora=lora)
    )
    text, spoken = "", None
    for event in events:
        if isinstance(event, TextPiece):
            text += event.text
            if not quiet:
                typer.echo(event.text, nl=False)
                sys.stdout.flush()
        elif isinstance(event, SpokenReply):
            spoken = event
    if not quiet:
        typer.echo()
    sound: list[Part] = []
    if spoken is not None and speak is not None:
        _write_sound(spoken, speak)
        sound.append(AudioPart(path=str(speak), transcript=spoken.spoken_text))
    return replace(conversation, messages=(*conversation.messages, assistant_message(text, *sound)))


def _write_sound(reply: "SpokenReply", path: Path) -> None:
    """Writes what was said, and tells how long it is and how fast it came."""
    import numpy as np

    from sonant.audio.io import save
    from sonant.errors import RequestError

    if reply.first_sound_s is None:
        raise RequestError(f"{path} is not written: the answer, {reply.text!r}, holds nothing to say; ask otherwise")
    loudest = max(1.0, float(np.abs(reply.samples).max()))
    save(path, reply.samples / loudest, sample_rate_hz=reply.sample_rate_hz)
    notes = [
        f"{path}: {reply.duration_s:.2f} s of speech",
        f"real-time factor {reply.real_time_factor:.2f}",
        f"first sound after {1000 * reply.first_sound_s:.0f} ms",
    ]
    if not reply.speech_finished:
        notes.append("CUT OFF: it did not come to an end by itself")
    if loudest > 1:
        notes.append(f"made softer by {20 * np.log10(loudest):.1f} dB to fit")
    typer.echo("; ".join(notes), err=True)


def _check_speak(path: Path, *, chat: bool) -> None:
    """Before a model is loaded. Raises: RequestError."""
    from sonant.audio.io import WRITABLE
    from sonant.errors import RequestError

    if chat:
        raise RequestError("--speak writes one answer, --chat gives many; ask the question without --chat")
    if path.suffix.lower() not in WRITABLE or not path.absolute().parent.is_dir():
        raise RequestError(f"--speak {path}: give a file that ends in {', '.join(WRITABLE)}, in a folder that exists")


def _turns(arguments: Sequence[str]) -> list["Message"]:
    from sonant.chat.messages import user
    from sonant.errors import RequestError

    turns: list[Message] = []
    turn: list[Part] = []
    for argument in [*arguments, NEXT_TURN]:
        if argument != NEXT_TURN:
            turn.append(_part(argument))
            continue
        if not turn:
            raise RequestError(f"an empty turn: put text or an audio file on both sides of {NEXT_TURN!r}")
        turns.append(user(*turn))
        turn = []
    return turns


def _typed_turns() -> Iterator["Message"]:
    from sonant.chat.messages import user

    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if line in ("", "/quit"):
            return
        parts = _joined(line.split())
        yield user(*parts) if len(parts) > 1 or _is_audio(line) else user(line)


def _joined(words: Sequence[str]) -> list["Part"]:
    """The words as parts; neighbouring text words become one part."""
    from sonant.chat.messages import TextPart

    parts: list[Part] = []
    for part in map(_part, words):
        if parts and isinstance(part, TextPart) and isinstance(parts[-1], TextPart):
            parts[-1] = TextPart(f"{parts[-1].text} {part.text}")
        else:
            parts.append(part)
    return parts


def _part(argument: str) -> "Part":
    from sonant.chat.messages import AudioPart, TextPart

    return AudioPart(path=argument) if _is_audio(argument) else TextPart(argument)


def _is_audio(argument: str) -> bool:
    # A file of any other name is meant as audio, too: decoding it says what is wrong, the model would read its name.
    name = argument.lower()
    if name.endswith(AUDIO_SUFFIXES) or (name.endswith(OTHER_SUFFIXES) and " " not in name):
        return True
    return os.path.isfile(argument) or (os.sep in argument and os.path.isdir(argument))
