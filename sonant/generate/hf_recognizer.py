"""Recognisers of Hugging Face, from a folder or the hub: Whisper, and encoders with a CTC head. All decode greedily.

Features are made by the feature extractor that lies beside the weights, not by our `FeatureSpec`: only it knows what
the model was trained on (whether a waveform was normalised, how many mels), and nothing is trained or compared here.
Safetensors only, never code that comes with a model.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers

from sonant.chat.messages import AudioPart
from sonant.errors import ModelError
from sonant.generate.recognizer import CTCRecognizer, Recognizer, Samples, Tell, by_length, collapse
from sonant.models.device import device_named
from sonant.models.encoders.wavlm import quiet_masks
from sonant.models.parts import PartClass, load_part, quiet_transformers, read_part_config, resolve_part

WHISPER = "whisper"
CTC_MODELS: dict[str, Any] = {
    "wav2vec2": transformers.Wav2Vec2ForCTC,
    "wav2vec2-bert": transformers.Wav2Vec2BertForCTC,
    "hubert": transformers.HubertForCTC,
    "wavlm": transformers.WavLMForCTC,
    "parakeet_ctc": transformers.ParakeetForCTC,
}
# No vector for masked frames is made: it is for training, and many checkpoints lack it.
UNMASKED = {"apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}
MIN_DURATION_S = 0.1  # shorter clips are followed by silence; some models have no frame for less


def load_recognizer(name: str, *, device: str | None = None) -> Recognizer:
    """Returns the recogniser of a folder, a hub id or tiny/encoder; its config.json tells of what kind it is.

    openai/whisper-small#de tells Whisper the language; otherwise it finds that out for each clip.
    device: where a model of Hugging Face runs; by default a GPU if there is one.
    Raises: ModelError if it cannot be loaded, is no recogniser, or does not know the language.
    """
    path, _, language = name.partition("#")
    model_type = read_part_config(resolve_part(path)).get("model_type")
    if model_type == WHISPER:
        return WhisperRecognizer(path, language=language or None, device=device)
    if language:
        raise ModelError(f"{name}: only Whisper is told a language; leave #{language} out")
    if model_type in CTC_MODELS:
        return HFCTCRecognizer(path, device=device)
    if model_type == "sonant_tiny_encoder":
        return CTCRecognizer.from_parts(path)
    raise ModelError(
        f"{path}: a model of type {model_type!r} does not recognise speech here; types are {WHISPER}, "
        f"{', '.join(CTC_MODELS)}, and tiny/encoder"
    )


def recognizer_folder(name: str) -> str:
    """Returns the folder or hub id of the recogniser that `load_recognizer` finds by that name."""
    return resolve_part(name.partition("#")[0])


class WhisperRecognizer:
    """Whisper; nothing of a clip is cut off.

    A clip of up to 30 s is heard whole, followed by silence as in training. A longer one is written down alone by
    Whisper's own long-form generation, which begins each window where the last whole phrase of the one before ended.
    Source: Radford et al. 2022, sections 2.3 and 3.8, through transformers; without its fallback to sampling.
    """

    def __init__(
        self, path: str, *, language: str | None = None, device: str | None = None, batch_size: int = 16
    ) -> None:
        """Loads the model. Raises: ModelError if it cannot be loaded, or does not know the language."""
        part = PartClass(transformers.WhisperForConditionalGeneration, (WHISPER,), "encoder_layers")
        self.model, self.extractor, self.tokenizer = _load(path, part, device=device)
        self.batch_size = batch_size
        known = self.model.generation_config
        if not hasattr(known, "no_timestamps_token_id"):
            raise ModelError(f"{path}: has no generation_config.json of Whisper; copy that of the model it grew from")
        languages = getattr(known, "lang_to_id", {})
        if language is not None and f"<|{language}|>" not in languages:
            listed = ", ".join(token.strip("<|>") for token in languages) or "none: it knows but one"
            raise ModelError(f"{path}: cannot be told the language {language!r}; there is {listed}")
        self.asked: dict[str, Any] = {"task": "transcribe", "language": language} if languages else {}

    def transcribe(self, clips: Sequence[AudioPart], *, progress: Tell = lambda new: None) -> list[str]:
        """Returns one transcript a clip, which does not depend on the others."""
        rate_hz = self.extractor.sampling_rate
        return by_length(clips, self._batch, sample_rate_hz=rate_hz, batch_size=self.batch_size, progress=progress)

    @torch.no_grad()
    def _batch(self, recordings: list[Samples]) -> list[str]:
        is_long = any(len(samples) > self.extractor.n_samples for samples in recordings)
        if is_long and len(recordings) > 1:
            return [text for samples in recordings for text in self._batch([samples])]
        inputs = self.extractor(
            recordings,
            sampling_rate=self.extractor.sampling_rate,
            padding="longest" if is_long else "max_length",
            truncation=False,
            return_attention_mask=True,
            return_tensors="pt",
        )
        with quiet_transformers():
            token_ids = self.model.generate(
                **inputs.to(self.model.device),
                **self.asked,
                return_timestamps=is_long,
                max_length=self.model.config.max_target_positions,
                do_sample=False,
                num_beams=1,
            )
        return [text.strip() for text in self.tokenizer.batch_decode(token_ids, skip_special_tokens=True)]


class HFCTCRecognizer:
    """An encoder with a CTC head: wav2vec 2.0, HuBERT, WavLM, Wav2Vec2-BERT, Parakeet. Clips are heard whole."""

    def __init__(self, path: str, *, device: str | None = None, batch_size: int = 16) -> None:
        """Loads the model. Raises: ModelError if it cannot be loaded or has no CTC head."""
        model_type = read_part_config(os.path.expanduser(path)).get("model_type", "")
        fixed = {} if model_type == "parakeet_ctc" else UNMASKED
        part = PartClass(CTC_MODELS.get(model_type), tuple(CTC_MODELS), "num_hidden_layers", fixed=fixed)
        self.model, self.extractor, self.tokenizer = _load(path, part, device=device)
        # A norm over time takes padding into its mean: such clips are heard one by one.
        norms_over_time = getattr(self.model.config, "feat_extract_norm", "layer") == "group"
        self.batch_size = 1 if norms_over_time else batch_size

    def transcribe(self, clips: Sequence[AudioPart], *, progress: Tell = lambda new: None) -> list[str]:
        """Returns one transcript a clip; clips are batched by length, and padding does not change a transcript."""
        rate_hz = self.extractor.sampling_rate
        return by_length(clips, self._batch, sample_rate_hz=rate_hz, batch_size=self.batch_size, progress=progress)

    @torch.no_grad()
    def _batch(self, recordings: list[Samples]) -> list[str]:
        rate_hz = self.extractor.sampling_rate
        inputs = self.extractor(
            [_at_least(samples, round(MIN_DURATION_S * rate_hz)) for samples in recordings],
            sampling_rate=rate_hz,
            padding=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(self.model.device)
        quiet_masks()
        best = self.model(**inputs).logits.argmax(-1)  # (A, T)
        blank = self.model.config.pad_token_id
        return [
            # Collapsed here: tokenizers that drop special tokens drop the blank between two equal letters first.
            self.tokenizer.decode(collapse(ids[:n], blank=blank), group_tokens=False, skip_special_tokens=True).strip()
            for ids, n in zip(best.tolist(), self._num_frames(inputs.attention_mask.sum(-1)), strict=True)
        ]

    def _num_frames(self, lengths: torch.Tensor) -> list[int]:
        """The frames of clips of so many samples or feature frames."""
        if isinstance(self.model, transformers.ParakeetForCTC):
            return self.model._get_subsampling_output_length(lengths).tolist()
        return self.model._get_feat_extract_output_lengths(lengths).tolist()


def _at_least(samples: Samples, num_samples: int) -> Samples:
    return np.pad(samples, (0, max(0, num_samples - len(samples))))


def _load(path: str, part: PartClass, *, device: str | None) -> tuple[Any, Any, Any]:
    """The model in float32, its feature extractor and its tokenizer."""
    model = load_part(part, path=path, architecture=None, dtype="float32", num_layers=None)
    folder = os.path.expanduser(path)
    try:
        with quiet_transformers():
            extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise ModelError(f"{path}: its feature extractor or tokenizer cannot be loaded ({error})") from None
    return model.eval().to(device_named(device or "auto")), extractor, tokenizer
