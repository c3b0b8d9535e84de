"""How a model is asked for what OpenAI's audio endpoints do: known where it is trained, needed where it is served."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from sonant.config import Config


def _with_colon(value: Any) -> Any:
    match value:
        case dict() if list(value.values()) == [None]:
            return f"{next(iter(value))}:"  # YAML takes `repeat:` for a mapping
    return value


Wording = Annotated[str, BeforeValidator(_with_colon)]


class EndpointWordings(Config):
    """How the model is asked in writing for what the audio endpoints do: best the words it was trained with.

    A recording follows its wording. `sonant serve` takes them from the settings, else from `wordings` in the model's
    provenance.json, else these.
    """

    transcription: Wording = "transcribe:"
    translation: Wording = "translate to english:"
    speech: Wording = "read aloud:"
    languages: Annotated[tuple[str, ...], Field(min_length=1)] = ("en",)  # that it transcribes; verbose_json says [0]
    translates_to: str = "en"
