"""What a speech head is made of. The defaults are the published Spectron; `best` presets say what they add."""

from typing import Literal, Self

import pydantic

from sonant.audio.mel import MelSpec
from sonant.config import Config


class SpeechHeadConfig(Config):
    """How the states of what is written become log mel frames.

    body "llm": frames are positions of the LLM, after the text. body "own": causal layers of its own over the letters
    of the text, the LLM's states of it, and a speaker vector.
    """

    body: Literal["llm", "own"] = "llm"
    mel: MelSpec = MelSpec()
    frames_per_step: int = pydantic.Field(1, ge=1)  # r
    normalise: bool = False  # mean and deviation of each mel bin, from the training data (`fit_normalisation`)
    prenet_dim: int = pydantic.Field(256, ge=1)
    prenet_dropout: float = pydantic.Field(0.5, ge=0, lt=1)
    prenet_dropout_at_test: bool = False  # always on: the head must not trust what it has just said
    history_noise: float = pydantic.Field(0.0, ge=0)  # deviation of what training adds to frames fed back
    postnet_dim: int = pydantic.Field(256, ge=1)
    latent: bool = False  # a Gaussian is drawn before the post-net (MELLE)
    arm: Literal["regression", "energy"] = "regression"  # energy: the post-net reads noise and gives samples (SLED)
    noise_dim: int = pydantic.Field(64, ge=1)  # of the energy arm
    around_mean: bool = False  # energy: samples are what noise adds to a regression, which is taught beside them
    temperature: float = pydantic.Field(1.0, ge=0)  # scales what is drawn at test; 0: the mean of the latent
    refine_layers: int = pydantic.Field(0, ge=0)  # causal convolutions over coarse frames
    refine_dim: int = pydantic.Field(256, ge=1)
    stop: bool = False  # a head that says when speech is over; with a pointer, passing the last word says it
    max_seconds: float = pydantic.Field(12.5, gt=0)  # no answer lasts longer: 1,000 frames of 12.5 ms
    max_seconds_per_letter: float | None = pydantic.Field(None, gt=0)  # nor than so much for each of its letters
    spoken_after: str | None = None  # what is said begins behind the last of these in the text; None: all is said
    speaker_encoder: int | None = pydantic.Field(None, ge=0)  # whose frames, pooled, say who speaks
    # of body "own"
    dim: int = pydantic.Field(192, ge=2)
    num_layers: int = pydantic.Field(4, ge=1)
    num_heads: int = pydantic.Field(4, ge=1)
    ffn_dim: int = pydantic.Field(768, ge=1)
    dropout: float = pydantic.Field(0.0, ge=0, lt=1)
    window: int | None = pydantic.Field(None, ge=1)  # steps of its past that a step sees; None: all
    pointer: bool = False  # reads the text word by word, by marks; else attends to all of it
    llm_states: Literal["none", "read", "taught"] = "taught"  # beside letters; taught: frames' loss reaches the LLM

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Self:
        if self.pointer and self.body == "llm":
            raise ValueError("pointer: the LLM's own layers have none; set body to own, or pointer to false")
        if self.latent and self.arm == "energy":
            raise ValueError("latent and arm energy both draw; choose one")
        if self.around_mean and self.arm != "energy":
            raise ValueError("around_mean is of arm energy; set arm to energy, or around_mean to false")
        if self.refine_layers and self.arm == "energy":
            raise ValueError("refine_layers: samples of the energy arm go out as they are; set it to 0")
        if self.body == "own" and self.dim % (2 * self.num_heads):
            raise ValueError(f"dim {self.dim} and {self.num_heads} heads: dim must be a multiple of twice the heads")
        return self


class SpeechLossConfig(Config):
    """Weights of the parts of the loss. The defaults are the published ones: |a-b|_1 + |a-b|_2^2 on frames and deltas.

    All are means over what is supervised, so that long clips do not drown the text.
    """

    text: float = pydantic.Field(1.0, ge=0)
    l1: float = pydantic.Field(1.0, ge=0)
    l2: float = pydantic.Field(1.0, ge=0)
    mel_deltas: tuple[int, ...] = (1,)  # lags over mel bins
    time_deltas: tuple[int, ...] = (1, 2)  # lags over frames
    energy: float = pydantic.Field(1.0, ge=0)  # arm energy: d(a, y) + d(b, y) - d(a, b)
    kl: float = pydantic.Field(0.1, ge=0)  # latent
    flux: float = pydantic.Field(0.0, ge=0)
    stop: float = pydantic.Field(1.0, ge=0)
    stop_positive: float = pydantic.Field(100.0, gt=0)  # a clip has one last frame and hundreds of others
    pointer: float = pydantic.Field(0.3, ge=0)
