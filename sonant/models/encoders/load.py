"""Builds the speech encoder that a configuration names."""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from sonant.models.encoders.averaged import AveragedEncoder
from sonant.models.encoders.base import EncoderConfig, EncoderKind, SpeechEncoder
from sonant.models.encoders.windows import in_windows

if TYPE_CHECKING:
    from sonant.models.encoders.whisper import WhisperEncoder


def load_encoder(config: EncoderConfig) -> SpeechEncoder:
    """Returns the encoder of `config`, its weights loaded or, for an `architecture`, random.

    Raises: ModelError for weights or settings that are missing or do not fit.
    """
    encoder = _class_of(config.kind)(config)
    window_s = config.window_s
    if config.kind == "whisper":
        longest_s = cast("WhisperEncoder", encoder).window / encoder.feature_spec.frame_rate_hz
        window_s = min(window_s or longest_s, longest_s)
    if window_s is not None:
        overlap_s = window_s / 10 if config.overlap_s is None else config.overlap_s
        encoder = in_windows(encoder, window_s=window_s, overlap_s=overlap_s)
    return encoder if config.average == 1 else AveragedEncoder(encoder, config.average)


def _class_of(kind: EncoderKind) -> Callable[[EncoderConfig], SpeechEncoder]:
    """The class of a kind, which alone is imported: those of Hugging Face take a quarter of a second."""
    match kind:
        case "tiny":
            from sonant.models.encoders.tiny import TinyEncoder

            return TinyEncoder
        case "tiny_speaker":
            from sonant.models.encoders.tiny_speaker import TinySpeakerEncoder

            return TinySpeakerEncoder
        case "whisper":
            from sonant.models.encoders.whisper import WhisperEncoder

            return WhisperEncoder
        case "wavlm":
            from sonant.models.encoders.wavlm import WavLMEncoder

            return WavLMEncoder
        case "seamless":
            from sonant.models.encoders.seamless import SeamlessEncoder

            return SeamlessEncoder
        case "parakeet":
            from sonant.models.encoders.parakeet import ParakeetEncoder

            return ParakeetEncoder
        case "wav2vec2_bert":
            from sonant.models.encoders.wav2vec2_bert import Wav2Vec2BertEncoder

            return Wav2Vec2BertEncoder
