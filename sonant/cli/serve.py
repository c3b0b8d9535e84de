"""`sonant serve`: a trained model behind OpenAI's API, with a page to talk to."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonant.cli.imports import quick_imports

if TYPE_CHECKING:
    from sonant.serve.settings import ServeConfig

KEY_VARIABLE = "SONANT_KEY"

EPILOG = """Examples:

    sonant serve runs/quickstart/model   (then open http://127.0.0.1:8000, or use any OpenAI client)

    sonant serve runs/quickstart/model --port 9000 wordings.transcription="repeat:" max_audio_s=60

    sonant serve runs/spectron/model voices.anna=anna.wav   (a voice for /v1/audio/speech)

    sonant serve runs/quickstart/model --host 0.0.0.0 --key-file key.txt hosts='[speech.example.org]'
"""


def serve(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    settings: Annotated[list[str] | None, typer.Argument(help="Settings as key=value; --show lists them.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 is this machine alone.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Port; 0 takes any that is free.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help=f"File with the key that clients must send; else {KEY_VARIABLE}, if set.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, cuda:1.")] = "auto",
    show: Annotated[bool, typer.Option("--show", help="Print the settings and stop.")] = False,
) -> None:
    """Serve a model: OpenAI's API, realtime speech, and a page to talk to. Ctrl-C or SIGTERM answers what it took."""
    chosen = _settings(model, settings or [], config, host=host, port=port, key_file=key_file)
    if show:
        import yaml

        typer.echo(yaml.safe_dump(chosen.model_dump(mode="json"), sort_keys=False, allow_unicode=True), nl=False)
        return
    from sonant.errors import RequestError

    try:
        with quick_imports():
            from sonant.serve.running import load_service, run
    except ImportError as error:
        raise RequestError(f"serving needs more packages ({error.name}); pip install 'sonant[serve]'") from None

    service = load_service(model, chosen, device=device)

    def tell(url: str) -> None:
        typer.echo(f"{service.model_name} listens at {url}{' (open it in a browser)' if chosen.page else ''}")
        typer.echo(_curl(url, service.model_name, needs_key=chosen.key is not None))

    run(service, on_ready=tell)


def _settings(
    model: Path, overrides: list[str], config: Path | None, *, host: str | None, port: int | None, key_file: Path | None
) -> "ServeConfig":
    from sonant.config import merge, parse_override, read_yaml, validate
    from sonant.serve.settings import ServeConfig, trained_wordings

    values: dict[str, Any] = {"wordings": trained_wordings(model).model_dump()}
    for source in (*([read_yaml(config)] if config else []), *map(parse_override, overrides)):
        values = merge(values, source)
    values |= {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    if key_file is not None:
        values["key"] = key_file.read_text(encoding="utf-8").strip()
    elif KEY_VARIABLE in os.environ:
        values.setdefault("key", os.environ[KEY_VARIABLE])
    chosen = validate(ServeConfig, values, where="settings of the server")
    chosen.check_lock()
    return chosen


def _curl(url: str, model: str, *, needs_key: bool) -> str:
    """A line to try it with."""
    key = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if needs_key else ""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "hello"}}]}}'
    return f"curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'"
