"""In whose voice a model speaks, if it does."""

from sonant.chat.messages import AudioPart
from sonant.serve.failures import RefusedError
from sonant.serve.service import Service


def check_has_voice(service: Service, *, param: str | None) -> None:
    """Raises: RefusedError if the model cannot speak."""
    if not service.has_voice:
        raise RefusedError(
            f"{service.model_name!r} has no voice (no speech_head): it answers in writing alone; leave out the audio, "
            "or serve a model that speaks",
            param=param,
            code="no_voice",
        )


def voice_named(service: Service, name: str, *, param: str) -> AudioPart | None:
    """Returns the recording that lends a voice, None for the model's own. Raises: RefusedError if there is none so."""
    if name not in service.voices:
        names = ", ".join(service.voices)
        raise RefusedError(f"there is no voice of this name; this server has {names}", param=param)
    return service.voices[name]
