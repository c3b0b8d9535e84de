"""What an encoder hears: samples -> log-mel frames or normalised waveform.

    samples (S,) ─ frames ─ window ─ |rfft|^2 ─ mel filters ─ log ─ normalise ─ stack ─> (F, M)

A spec of kind "encoded" names what a frozen encoder made of them before: read from a cache, never extracted.

One `FeatureSpec` says everything; its presets give what the Hugging Face feature extractor of each model family gives
for one recording without padding (tests hold them together within 1e-4). Written out because those extractors cannot
be compared, hashed or saved, pad and mask in their own ways, and the one of seamless loops over frames in Python.
"""

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sonant.errors import AudioError, ConfigError

_BAND_MELS = 16  # filters of one product
_FRAMES_MULTIPLE = 64  # frames are multiplied so many at a time: oneDNN makes a kernel for each number it meets


@dataclass(frozen=True)
class FeatureSpec:
    """How to turn samples into features; hashable, so that two encoders with the same ears share the work."""

    kind: Literal["waveform", "log_mel", "encoded"]
    sample_rate_hz: int = 16_000
    num_mels: int = 80
    n_fft: int = 400
    window_length: int = 400
    hop_length: int = 160  # samples
    window: Literal["hann", "hann_symmetric", "povey"] = "hann"
    # Frames centred on multiples of the hop, the ends mirrored or zero; or Kaldi's: only whole frames, of 16-bit values
    # without their mean, pre-emphasised one by one.
    framing: Literal["reflect", "zeros", "kaldi"] = "reflect"
    preemphasis: float = 0.0
    mel_scale: Literal["slaney", "kaldi"] = "slaney"  # slaney: area-normalised; kaldi: triangles in mels, from 20 Hz
    log: Literal["log10_floor", "ln_floor", "ln_plus"] = "log10_floor"  # log(max(x, floor)) or log(x + floor)
    log_floor: float = 1e-10
    dynamic_range: float = 0.0  # nothing lies further below the loudest log mel of the recording; 0: no limit
    # whisper: (x + 4) / 4; unit: zero mean and unit variance of each mel over the recording, or of the waveform
    normalization: Literal["none", "whisper", "unit"] = "none"
    variance_epsilon: float = 0.0  # deviation = sqrt(variance + variance_epsilon) + deviation_epsilon
    deviation_epsilon: float = 0.0
    stack: int = 1  # successive frames side by side in one
    pad_short: bool = False  # zeros follow what is shorter than `min_samples`, instead of an AudioError
    encoder: str = ""  # encoded only: the encoder whose frames these are, its weights included
    encoded_dim: int = 1  # encoded only: width of a frame
    encoded_rate_hz: float = 0.0  # encoded only: frames a second

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            allowed, value = get_args(hint), getattr(self, name)
            if allowed and value not in allowed:
                raise ConfigError(f"feature spec: {name} is {value!r}; one of {', '.join(allowed)} is allowed")
            if hint is int and value < 1:
                raise ConfigError(f"feature spec: {name} is {value}; 1 or more is allowed")
        if self.window_length > self.n_fft:
            raise ConfigError(
                f"feature spec: window_length {self.window_length} exceeds n_fft {self.n_fft}; shorten it"
            )
        given = {bool(self.encoder), self.encoded_rate_hz > 0}
        if given != {self.kind == "encoded"}:
            raise ConfigError(
                f"feature spec: kind {self.kind!r} with encoder {self.encoder!r} at {self.encoded_rate_hz:g} Hz; "
                "frames of an encoder, and only those, have both: use FeatureSpec.encoded"
            )

    @classmethod
    def whisper(cls, num_mels: int = 80) -> Self:
        """Returns the features of Whisper (80 mels; 128 from large-v3 on), without padding to 30 s.

        In HF's padded form silence is max(-1.5, features.max() - 2): pad with that to give the encoder the same.
        Source: transformers `WhisperFeatureExtractor`.
        """
        return cls("log_mel", num_mels=num_mels, dynamic_range=8.0, normalization="whisper")

    @classmethod
    def seamless(cls) -> Self:
        """Returns the features of SeamlessM4T and Wav2Vec2-BERT: Kaldi's, normalised by mel, two frames in one (160).

        Differs from transformers `SeamlessM4TFeatureExtractor` in that an odd last frame is left out, not masked.
        """
        return cls(
            "log_mel",
            n_fft=512,
            window="povey",
            framing="kaldi",
            preemphasis=0.97,
            mel_scale="kaldi",
            log="ln_floor",
            log_floor=1.192092955078125e-07,
            normalization="unit",
            variance_epsilon=1e-7,
            stack=2,
        )

    @classmethod
    def parakeet(cls, num_mels: int = 80) -> Self:
        """Returns the features of Parakeet, Canary and other NeMo encoders (80 or 128 mels), without dither.

        Source: transformers `ParakeetFeatureExtractor`, less the frame that it masks.
        """
        return cls(
            "log_mel",
            num_mels=num_mels,
            n_fft=512,
            window="hann_symmetric",
            framing="zeros",
            preemphasis=0.97,
            log="ln_plus",
            log_floor=2.0**-24,
            normalization="unit",
            deviation_epsilon=1e-5,
        )

    @classmethod
    def waveform(cls, *, normalize: bool) -> Self:
        """Returns the samples themselves, at zero mean and unit variance if asked (wav2vec 2.0, HuBERT, WavLM).

        Source: transformers `Wav2Vec2FeatureExtractor`; `normalize` is its `do_normalize`.
        """
        if not normalize:
            return cls("waveform")
        return cls("waveform", normalization="unit", variance_epsilon=1e-7)

    @classmethod
    def tiny(cls) -> Self:
        """Returns the features of the tiny encoder: 80 mels, 25 ms frames every 10 ms, normalised by mel.

        60 dB of range: the pauses of every engine and microphone become alike, and a band that a telephone cuts off is
        constant and becomes 0.
        """
        return cls(
            "log_mel",
            n_fft=512,
            framing="zeros",
            dynamic_range=6.0,
            normalization="unit",
            deviation_epsilon=1e-5,
            pad_short=True,
        )

    @classmethod
    def encoded(cls, encoder: str, dim: int, frame_rate_hz: float) -> Self:
        """Returns the frames that `encoder` made of the sound: `dim` wide, `frame_rate_hz` of them a second.

        They are looked up (`sonant.batch.CachedFrames`), not extracted; how an encoder is named so that one with other
        weights has another name, `sonant.models.encoders.identity.encoded_spec` says.
        """
        return cls("encoded", encoder=encoder, encoded_dim=dim, encoded_rate_hz=frame_rate_hz)

    @property
    def dim(self) -> int:
        """Returns M, the width of a frame (1 for a waveform)."""
        if self.kind == "encoded":
            return self.encoded_dim
        return self.num_mels * self.stack if self.kind == "log_mel" else 1

    @property
    def frame_rate_hz(self) -> float:
        """Returns frames per second (samples per second for a waveform)."""
        if self.kind == "encoded":
            return self.encoded_rate_hz
        return self.sample_rate_hz / (self.hop_length * self.stack if self.kind == "log_mel" else 1)

    def num_frames(self, num_samples: int) -> int:
        """Returns F, the frames that `extract` makes of S samples (S for a waveform).

        Raises: AudioError for kind "encoded": only the encoder knows, see its `output_lengths`.
        """
        if self.kind == "encoded":
            raise AudioError(f"the number of frames of {self.encoder} is for the encoder to say; ask `output_lengths`")
        if self.pad_short:
            num_samples = max(num_samples, self.min_samples)
        if self.kind == "waveform":
            return num_samples
        if self.framing == "kaldi":
            return max(0, 1 + (num_samples - self.window_length) // self.hop_length) // self.stack
        return num_samples // self.hop_length // self.stack

    @property
    def min_samples(self) -> int:
        """Returns the fewest samples that make an output frame, or two frames where a variance is needed."""
        if self.kind == "waveform":
            return 1
        frames = max(self.stack, 2 if self.normalization == "unit" else 1)
        if self.framing == "kaldi":
            return self.window_length + (frames - 1) * self.hop_length
        # Mirroring n_fft / 2 samples needs one more than that.
        return max(frames * self.hop_length, self.n_fft // 2 + 1)

    def to_json(self) -> dict[str, Any]:
        """Returns the plain values that `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Returns the spec of `to_json`. Raises: ConfigError if a key or a value is unknown."""
        known = {field.name for field in fields(cls)}
        wrong = [f"unknown key {key!r}" for key in values if key not in known] + ["no kind"] * ("kind" not in values)
        if wrong:
            raise ConfigError(f"feature spec: {', '.join(wrong)}; use the values that FeatureSpec.to_json gives")
        return cls(**values)


@torch.no_grad()
def extract(samples: Tensor, spec: FeatureSpec) -> Tensor:
    """Returns the features of one recording: (F, M) float32, or (S,) for a waveform.

    samples: (S,) float32 mono in [-1, 1] at `spec.sample_rate_hz`.

    Raises: AudioError if the samples are not one row, fewer than `spec.min_samples` without `spec.pad_short`, or if the
    spec is of kind "encoded".
    """
    if spec.kind == "encoded":
        raise AudioError(
            f"frames of {spec.encoder} are not extracted but read from a cache; give make_example that cache "
            "(`cached`), or the feature spec of the encoder itself"
        )
    if spec.pad_short and samples.ndim == 1 and 0 < len(samples) < spec.min_samples:
        samples = torch.nn.functional.pad(samples, (0, spec.min_samples - len(samples)))
    if samples.ndim != 1 or len(samples) < spec.min_samples:
        raise AudioError(
            f"cannot extract features of samples of shape {tuple(samples.shape)}; give one row (S,) of at least "
            f"{spec.min_samples} samples ({spec.min_samples / spec.sample_rate_hz:g} s); drop or pad shorter audio"
        )
    samples = samples.to(torch.float32)
    if spec.kind == "waveform":
        return samples if spec.normalization == "none" else _normalize(samples, spec, correction=0)
    mels = _log(_mels(_power(samples, spec), spec), spec)  # (F, M)
    if spec.dynamic_range:
        mels.clamp_(min=mels.max() - spec.dynamic_range)
    if spec.normalization == "whisper":
        mels.add_(4.0).div_(4.0)
    elif spec.normalization == "unit":
        mels = _normalize(mels, spec, correction=1)
    mels = mels[: len(mels) // spec.stack * spec.stack]
    return mels.reshape(-1, spec.dim)


def mel_filters(spec: FeatureSpec) -> NDArray[np.float64]:
    """Returns the triangular filters: (n_fft // 2 + 1, num_mels) float64.

    Source: slaney: Auditory Toolbox (linear below 1 kHz, logarithmic above), unit area; kaldi: `mel-computations.cc`.
    """
    top_hz = spec.sample_rate_hz / 2
    bins_hz = np.linspace(0.0, top_hz, spec.n_fft // 2 + 1)
    if spec.mel_scale == "kaldi":
        edges = np.linspace(htk_mel(20.0), htk_mel(top_hz), spec.num_mels + 2)
        points = htk_mel(bins_hz)
    else:
        edges = slaney_hz(np.linspace(0.0, slaney_mel(top_hz), spec.num_mels + 2))
        points = bins_hz
    filters = triangles(points, edges)
    return filters if spec.mel_scale == "kaldi" else filters * (2.0 / (edges[2:] - edges[:-2]))


def triangles(points: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns filters (P, M) of height 1: the m-th rises from edge m (of M + 2) to m + 1, and falls to m + 2."""
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (points[:, None] - low) / (centre - low)
    falling = (high - points[:, None]) / (high - centre)
    return np.maximum(0.0, np.minimum(rising, falling))


def htk_mel(hz: Any) -> Any:
    """Returns HTK's mels, which are Kaldi's, of frequencies in Hz."""
    return 1127.0 * np.log1p(hz / 700.0)


def htk_hz(mel: Any) -> Any:
    """Returns the frequencies in Hz of HTK's mels."""
    return 700.0 * np.expm1(mel / 1127.0)


def slaney_mel(hz: float) -> float:
    """Returns Slaney's mels of a frequency in Hz."""
    return hz * 3.0 / 200.0 if hz < 1000.0 else 15.0 + 27.0 * float(np.log(hz / 1000.0) / np.log(6.4))


def slaney_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the frequencies in Hz of Slaney's mels."""
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp(np.log(6.4) / 27.0 * (mel - 15.0)))


@functools.cache
def _bands(spec: FeatureSpec) -> list[tuple[slice, Tensor]]:
    """The filters, `_BAND_MELS` of them at a time, and the bins these reach: few of low filters, many of high ones."""
    bands = []
    for filters in torch.from_numpy(mel_filters(spec)).to(_dtype(spec)).split(_BAND_MELS, dim=1):
        reached = filters.any(dim=1).nonzero()
        bins = slice(int(reached.min()), int(reached.max()) + 1) if len(reached) else slice(0, 1)
        bands.append((bins, filters[bins].contiguous()))
    return bands


def _mels(power: Tensor, spec: FeatureSpec) -> Tensor:
    """(F, n_fft // 2 + 1) -> (F, num_mels): half the time of the product with the whole matrix, which is mostly zeros.

    bins   . . . . . . . .
    mels   ╲_____╱ . . . .     one product a band
           . . . ╲_______╱
    """
    num_frames = len(power)
    power = torch.nn.functional.pad(power, (0, 0, 0, -num_frames % _FRAMES_MULTIPLE))
    return torch.cat([power[:, bins] @ filters for bins, filters in _bands(spec)], dim=1)[:num_frames]


@functools.cache
def _window(spec: FeatureSpec) -> Tensor:
    """The window, centred in n_fft samples for centred frames: (n_fft,); at the start for Kaldi's: (window_length,)."""
    window = torch.hann_window(spec.window_length, periodic=spec.window == "hann", dtype=torch.float64)
    if spec.window == "povey":
        window = window**0.85
    if spec.framing != "kaldi":
        left = (spec.n_fft - spec.window_length) // 2
        window = torch.nn.functional.pad(window, (left, spec.n_fft - spec.window_length - left))
    return window.to(_dtype(spec))


def _dtype(spec: FeatureSpec) -> torch.dtype:
    # Kaldi's logarithm has no floor to speak of: rounding of the loud low bins would show in the quiet high ones.
    return torch.float64 if spec.framing == "kaldi" else torch.float32


def _power(samples: Tensor, spec: FeatureSpec) -> Tensor:
    """The power spectrum of each frame: (S,) -> (F, n_fft // 2 + 1)."""
    if spec.framing == "kaldi":
        frames = (samples.to(torch.float64) * 2**15).unfold(0, spec.window_length, spec.hop_length)
        frames = frames - frames.mean(dim=1, keepdim=True)
        first = frames[:, :1]  # is its own predecessor
        emphasised = torch.sub(frames, torch.cat([first, frames[:, :-1]], dim=1), alpha=spec.preemphasis)
        spectrum = torch.fft.rfft(emphasised.mul_(_window(spec)), n=spec.n_fft)
    else:
        if spec.preemphasis:
            samples = torch.cat([samples[:1], samples[1:] - spec.preemphasis * samples[:-1]])
        side = spec.n_fft // 2
        mode = "reflect" if spec.framing == "reflect" else "constant"
        padded = torch.nn.functional.pad(samples[None], (side, side), mode=mode)[0]
        # The frame centred on the very end is left out, as all of these extractors do.
        frames = padded.unfold(0, spec.n_fft, spec.hop_length)[: len(samples) // spec.hop_length]
        spectrum = torch.fft.rfft(frames * _window(spec))
    return spectrum.real.square() + spectrum.imag.square()


def _log(power: Tensor, spec: FeatureSpec) -> Tensor:
    """The logarithm, in the place of `power`."""
    if spec.log == "ln_plus":
        return power.add_(spec.log_floor).log_()
    power.clamp_(min=spec.log_floor)
    return power.log10_() if spec.log == "log10_floor" else power.log_()


def _normalize(values: Tensor, spec: FeatureSpec, *, correction: int) -> Tensor:
    # In float64 the mean of a constant is that constant: it becomes 0, not rounding error over epsilon.
    values = values.to(torch.float64)
    variance, mean = torch.var_mean(values, dim=0, correction=correction)
    deviation = torch.sqrt(variance + spec.variance_epsilon) + spec.deviation_epsilon
    return values.sub_(mean).div_(deviation).to(torch.float32)
