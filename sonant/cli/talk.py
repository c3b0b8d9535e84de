"""`sonant talk`: speak with a trained model, in a page of the browser or, without one, in the terminal."""

import os
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonant.cli.imports import quick_imports

if TYPE_CHECKING:
    from sonant.chat.messages import Conversation, Message
    from sonant.generate.assistant import Assistant

EPILOG = """Examples:

    sonant talk runs/quickstart/model              (opens the page)

    sonant talk runs/quickstart/model --no-open    (prints its address, for a browser of your choice)

    sonant talk runs/quickstart/model --terminal   (the microphone of this machine: pip install sonant[talk])
"""
SHORTEST_S = 0.2  # of a recording that was meant


def talk(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="0 takes any free one. The browser keeps conversations by address.")
    ] = 8000,
    open_: Annotated[
        bool | None, typer.Option("--open/--no-open", help="Open a browser. By default: where there is one.")
    ] = None,
    terminal: Annotated[bool, typer.Option("--terminal", help="Talk here, without page or server.")] = False,
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, cuda:1.")] = "auto",
) -> None:
    """Talk to a model: hold a key and speak. It answers in writing and, where it has a voice, aloud."""
    from sonant.errors import AudioError

    if terminal:
        _in_terminal(model, device=device)
    elif open_ is None and not _has_browser():
        try:
            _in_terminal(model, device=device)
        except AudioError as error:
            raise AudioError(f"no browser can be opened here (--no-open prints the page's address); {error}") from None
    else:
        _in_browser(model, port=port, open_page=open_ is not False, device=device)


def _in_browser(model: Path, *, port: int, open_page: bool, device: str) -> None:
    import secrets

    from pydantic import SecretStr

    from sonant.errors import RequestError
    from sonant.serve.settings import ServeConfig, trained_wordings

    try:
        with quick_imports():
            from sonant.serve.running import load_service, run
    except ImportError as error:
        raise RequestError(f"the page needs more packages ({error.name}); pip install 'sonant[serve]'") from None

    # Nobody else on this machine, and no other web page, may ask: the key lives as long as this command.
    key = secrets.token_urlsafe(24)
    settings = ServeConfig(port=port, key=SecretStr(key), wordings=trained_wordings(model))
    service = load_service(model, settings, device=device)
    run(service, on_ready=lambda url: _show(f"{url}/#key={key}", open_page=open_page))


def _show(address: str, *, open_page: bool) -> None:
    typer.echo(f"Talk to it at  {address}\n(Ctrl-C ends it)")
    if open_page and not webbrowser.open(address):
        typer.echo("No browser could be opened: open this address in one.", err=True)


def _has_browser() -> bool:
    """Whether a browser with a window can be opened here, not one that lives in a terminal."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def _in_terminal(model: Path, *, device: str) -> None:
    with quick_imports():
        from sonant.audio.device import check_device
        from sonant.chat.messages import Conversation
        from sonant.errors import AudioError, SonantError
        from sonant.generate.assistant import Assistant
    check_device("input")
    talker = Assistant.from_folder(model, device=device)
    aloud = talker.model.speech_head is not None
    if aloud:
        try:
            check_device("output")
        except AudioError as error:
            typer.echo(f"sonant: {error} Answers are only written.", err=True)
            aloud = False
    typer.echo("Press Enter and speak; Enter again sends it. What you type is sent as it is. Ctrl-D ends.")
    conversation = Conversation(())
    while (turn := _turn()) is not None:
        try:
            conversation = _answered(conversation, turn, by=lambda asked: _answer(talker, asked, aloud=aloud))
        except SonantError as error:
            typer.echo(f"sonant: {error}", err=True)  # and the turn is forgotten


def _answered(conversation: "Conversation", turn: "Message", *, by: Callable[["Conversation"], str]) -> "Conversation":
    """The conversation with a turn and its answer, without as many of its oldest turns as no longer fit the model.

    Raises: RequestError if the turn cannot be answered alone either.
    """
    from dataclasses import replace

    from sonant.chat.messages import assistant
    from sonant.errors import RequestError

    known, forgotten = conversation.messages, 0
    while True:
        asked = replace(conversation, messages=(*known[forgotten:], turn))
        try:
            said = assistant(by(asked))
            break
        except RequestError:
            if forgotten == len(known):
                raise
            forgotten += 2  # a turn and its answer
    if forgotten:
        typer.echo(f"  (for want of room the first {forgotten // 2} of {len(known) // 2} answers are forgotten)")
    return replace(asked, messages=(*asked.messages, said))


def _turn() -> "Message | None":
    """The next turn, spoken or typed; None at the end."""
    from sonant.chat.messages import AudioPart, user

    while True:
        try:
            line = input("> ").strip()
            if line:
                return user(line)
            wav = _recorded(lambda: input("  listening ... "))
        except EOFError:
            typer.echo()
            return None
        if wav is not None:
            return user(AudioPart(data=wav))
        typer.echo("  Nothing was heard; press Enter, speak, press Enter.")


def _recorded(wait: Callable[[], object]) -> bytes | None:
    """What the microphone hears while `wait` waits, as WAV; None if that is next to nothing."""
    import io

    import soundfile

    from sonant.audio.device import recording

    with recording() as heard:
        wait()
    samples = heard.samples
    if len(samples) < SHORTEST_S * heard.sample_rate_hz or not samples.any():
        return None
    wav = io.BytesIO()
    soundfile.write(wav, samples, heard.sample_rate_hz, format="WAV", subtype="PCM_16")
    return wav.getvalue()


def _answer(talker: "Assistant", conversation: "Conversation", *, aloud: bool) -> str:
    """Writes the answer as it comes and says it as it is made, if it is to be heard; returns its text."""
    from sonant.audio.device import loudspeaker
    from sonant.generate.reply import SoundChunk, TextPiece

    text = ""
    try:
        if not aloud:
            for piece in talker.stream(conversation):
                text += _shown(piece)
            return text
        with loudspeaker(sample_rate_hz=talker.voice.sample_rate_hz) as speaker:
            for event in talker.stream_speech(conversation):
                if isinstance(event, TextPiece):
                    text += _shown(event.text)
                elif isinstance(event, SoundChunk):
                    speaker.write(event.samples[:, None])
        return text
    finally:
        if text:
            typer.echo()  # what was written ends its line, also where it cannot be said


def _shown(piece: str) -> str:
    typer.echo(piece, nl=False)
    sys.stdout.flush()
    return piece
