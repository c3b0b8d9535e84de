"""Builds the speech encoder that a configuration names."""

from collections.abc import Callable

from sonant.models.encoders.averaged import AveragedEncoder
from sonant.models.encoders.base import EncoderConfig, SpeechEncoder
from sonant.models.encoders.parakeet import ParakeetEncoder
from sonant.models.encoders.seamless import SeamlessEncoder
from sonant.models.encoders.tiny import TinyEncoder
from sonant.models.encoders.tiny_speaker import TinySpeakerEncoder
from sonant.models.encoders.wav2vec2_bert import Wav2Vec2BertEncoder
from sonant.models.encoders.wavlm import WavLMEncoder
from sonant.models.encoders.whisper import WhisperEncoder
from sonant.models.encoders.windows import in_windows

ENCODERS: dict[str, Callable[[EncoderConfig], SpeechEncoder]] = {
    "tiny": TinyEncoder,
    "tiny_speaker": TinySpeakerEncoder,
    "whisper": WhisperEncoder,
    "wavlm": WavLMEncoder,
    "seamless": SeamlessEncoder,
    "parakeet": ParakeetEncoder,
    "wav2vec2_bert": Wav2Vec2BertEncoder,
}


def load_encoder(config: EncoderConfig) -> SpeechEncoder:
    """Returns the encoder of `config`, its weights loaded or, for an `architecture`, random.

    Raises: ModelError for weights or settings that are missing or do not fit.
    """
    encoder = ENCODERS[config.kind](config)
    window_s = config.window_s
    if isinstance(encoder, WhisperEncoder):
        longest_s = encoder.window / encoder.feature_spec.frame_rate_hz
        window_s = min(window_s or longest_s, longest_s)
    if window_s is not None:
        overlap_s = window_s / 10 if config.overlap_s is None else config.overlap_s
        encoder = in_windows(encoder, window_s=window_s, overlap_s=overlap_s)
    return encoder if config.average == 1 else AveragedEncoder(encoder, config.average)
