"""What hears of an exported model, for vLLM's processor; vLLM itself is not needed here."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoProcessor

from sonant.errors import SonantError
from sonant.export.hf.inputs import as_batch
from sonant.export.hf.modeling import SonantForConditionalGeneration

RATE_HZ = 16_000
LONGEST_S = 30.0  # of the clip by which vLLM measures memory


class Ears:
    """The encoders and the adapter of the model exported to `folder`; its LLM is let go, for vLLM has its own.

    longest: the vectors that a clip of `LONGEST_S` has at most.
    """

    def __init__(self, folder: str) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = SonantForConditionalGeneration.from_pretrained(folder).speech_lm
        del self.model.llm
        self.longest = self.model.audio_tokens(LONGEST_S)

    @torch.no_grad()
    def __call__(self, clips: Sequence[Any]) -> list[Tensor]:
        """Returns the vectors (T, D) of clips (S,) at 16 kHz, each with a T of its own.

        Raises: ValueError, which vLLM answers with status 400, if a clip cannot be heard.
        """
        turns = [[{"role": "user", "content": [{"type": "audio", "audio": np.asarray(c)}]}] for c in clips]
        try:
            batch = as_batch(self.processor(turns), self.model.feature_specs, reads_prompt=False)
            audio, lengths = self.model.hear(batch)
        except SonantError as error:
            raise ValueError(str(error)) from error
        return [vectors[:length].clone() for vectors, length in zip(audio, lengths.tolist(), strict=True)]


ears = lru_cache(maxsize=1)(Ears)
