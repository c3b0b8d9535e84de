"""Loads the vocoder that a name or folder says."""

from pathlib import Path

from sonant.audio.mel import MelSpec
from sonant.errors import ModelError
from sonant.models.parts import read_part_config, resolve_part
from sonant.models.vocoders.base import Vocoder
from sonant.models.vocoders.griffin_lim import GriffinLim
from sonant.models.vocoders.hugging_face import MODEL_TYPES, load_hugging_face
from sonant.models.vocoders.vocos import MODEL_TYPE, Vocos


def load_vocoder(name: str, mel: MelSpec | None = None) -> Vocoder:
    """Returns a vocoder for `mel`: "griffin_lim" (any mels), "tiny/vocoder", a folder of ours or of Hugging Face.

    Raises: ModelError if there is none, or if it is for other mels than `mel`, saying where they differ.
    """
    if name == "griffin_lim":
        return GriffinLim(mel)
    path = resolve_part(name)
    model_type = read_part_config(path).get("model_type")
    if model_type == MODEL_TYPE:
        vocoder: Vocoder = Vocos.from_folder(Path(path))
    elif model_type in MODEL_TYPES:
        vocoder = load_hugging_face(path, model_type=model_type)
    else:
        known = ", ".join((MODEL_TYPE, *MODEL_TYPES))
        raise ModelError(f"{name}: holds a model of type {model_type!r}; vocoders are {known}, and griffin_lim")
    if mel is not None and (unlike := mel.unlike(vocoder.mel)):
        raise ModelError(
            f"{name}: is for other mels than the voice's: {unlike}; use griffin_lim, which takes any, "
            "or a vocoder trained on the voice's"
        )
    return vocoder
