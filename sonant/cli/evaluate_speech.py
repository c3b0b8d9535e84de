"""By whom the speech of a model is measured, as the command line names it."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sonant.evaluate.arms import Examinee
    from sonant.evaluate.run import EvalSet
    from sonant.evaluate.speech.measure import SpeechTest


@dataclass(frozen=True)
class Measured:
    """Names of what measures speech; None: those of the tiny parts for a tiny model, else nothing."""

    listeners: Sequence[str] | None = None
    speaker_encoder: str | None = None
    perplexity: str | None = None


def load_speech_test(sets: "Sequence[EvalSet]", examinee: "Examinee", asked: Measured) -> "SpeechTest | None":
    """Returns what measures spoken answers; None if the model has no voice or no set is to be answered aloud.

    Raises: ModelError if a part cannot be loaded.
    """
    from sonant.evaluate.normalize import basic
    from sonant.evaluate.pins import part_sha256
    from sonant.evaluate.speech.listeners import SPHINX, load_listener
    from sonant.evaluate.speech.measure import SpeechTest, truth_of
    from sonant.generate.speaker_vectors import SpeakerVectors
    from sonant.generate.text_likelihood import TextLikelihood
    from sonant.models.encoders.tiny import TinyEncoder
    from sonant.models.parts import resolve_part

    model = examinee.assistant.model
    spoken = [each for each in sets if each.speak]
    if model.speech_head is None or not spoken:
        return None
    is_tiny = any(isinstance(encoder, TinyEncoder) for encoder in model.speech_encoders)
    listeners, encoder, llm = asked.listeners, asked.speaker_encoder, asked.perplexity
    if is_tiny:
        second = [SPHINX] if importlib.util.find_spec("pocketsphinx") else []
        listeners = ["tiny/encoder", *second] if listeners is None else listeners
        encoder = "tiny/speaker-encoder" if encoder is None else encoder
        llm = "tiny/llm" if llm is None else llm
    rows = [row for each in spoken for row in each.rows]
    heard = [part.transcript or "" for row in rows for part in row.prompt().heard_parts]
    sentences = [basic(text) for text in (*heard, *(truth_of(row).text or "" for row in rows)) if text]
    return SpeechTest(
        tuple(load_listener(name, sentences) for name in listeners or ()),
        (encoder, SpeakerVectors.from_part(encoder)) if encoder else None,
        (llm, TextLikelihood(llm)) if llm else None,
        {name: {"name": name, "sha256": part_sha256(resolve_part(name))} for name in (encoder, llm) if name},
    )
