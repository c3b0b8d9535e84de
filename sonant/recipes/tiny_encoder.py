"""The tiny encoder: speech recognition from nothing in minutes, on clips that machines have spoken.

    clips ─ speed · room · tilt · telephone · noise · gain ─ mels ─ vocal tract · masks ─┐   new for every epoch
                                                                                         v
                     CTC on the tokens of the tiny LLM  +  CTC on letters, halfway up the encoder

One engine's voices do not carry over to another engine's, so the corpus wants several, and hard augmentation.
Source: intermediate CTC (Lee and Watanabe 2021). `sonant world build` runs this on the corpus it makes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sonant.audio.augment import AugmentConfig, Augmenter, Samples
from sonant.audio.io import resample
from sonant.batch import Batch, Example, make_example
from sonant.chat.messages import Conversation
from sonant.chat.tokenizer import ChatTokenizer
from sonant.config import Config
from sonant.data.blend import Group, Source
from sonant.data.loader import BatchStream, LoaderConfig
from sonant.data.manifest import Manifest
from sonant.data.measure import RowSizes
from sonant.data.plan import PlanConfig
from sonant.errors import ModelError
from sonant.evaluate.metrics.text import WER
from sonant.generate.recognizer import CTCRecognizer
from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.tiny import TinyArchitecture, TinyEncoder
from sonant.models.freeze import FreezePlan, GroupConfig
from sonant.models.losses import CTCLoss, LossOutput, task_parts, unwrap
from sonant.models.parts import resolve_part
from sonant.train import distributed
from sonant.train.provenance import Provenance
from sonant.train.trainer import TrainConfig, train

AUGMENT = AugmentConfig(
    speed_probability=0.4,
    noise_snr_db=(5.0, 35.0),
    room_probability=0.2,
    tilt_probability=0.5,
    vtlp_probability=0.7,
    vtlp_factor=(0.82, 1.22),
)


class TinyEncoderRecipe(Config):
    """Every choice of a run; the defaults made the encoder that is shipped."""

    tokenizer: str = "tiny/llm"  # folder or hub id; its tokens are what the CTC head spells in
    begin: str | None = None  # an encoder to go on from: tiny/NAME or a folder; None: from nothing
    architecture: TinyArchitecture = TinyArchitecture()  # of one from nothing
    augment: AugmentConfig = AUGMENT
    silence_s: float = Field(default=0.4, ge=0)  # at most this much before and after half of the clips each
    telephone_share: float = Field(default=0.2, ge=0, le=1)  # of clips cut off at 4 kHz
    letter_weight: float = Field(default=1.0, ge=0)
    learning_rate: float = Field(default=3e-3, gt=0)
    plan: PlanConfig = PlanConfig(token_budget=400, window=1024, micro_batches=2)  # frames of 40 ms: 2 x 16 s a step
    loader: LoaderConfig = LoaderConfig(prefetch=8)
    train: TrainConfig = TrainConfig(steps=4000, warmup_steps=200, weight_decay=1e-2, validate_every=1000)


def build_encoder(
    manifests: Sequence[Path],
    out: Path,
    *,
    config: TinyEncoderRecipe,
    run_dir: Path,
    dev: Mapping[str, Path] | None = None,
    command: str = "",
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Trains on `manifests` (one audio, its transcript as the answer) and writes the encoder's folder to `out`.

    dev: voice group -> manifest; returns voice group -> word error rate (%). Under torchrun (two processes of one
    thread train faster than one of two) only the first process writes and measures.

    Raises: SonantError where manifests, settings or the tokenizer do not fit.
    """
    provenance = Provenance(config, command)
    torch.manual_seed(config.train.seed)
    tokenizer = ChatTokenizer.from_folder(resolve_part(config.tokenizer))
    encoder = _begun(config, vocab_size=tokenizer.vocab_size)
    stream = make_stream(config, manifests, encoder, tokenizer)
    say(f"{sum(p.numel() for p in encoder.parameters()):,} parameters; {len(stream.lengths):,} clips")
    result = train(
        encoder,
        stream,
        loss=SpellingLoss(tokenizer, letter_weight=config.letter_weight),
        config=config.train,
        groups=FreezePlan({"encoder": GroupConfig(patterns=("*",), lr=config.learning_rate)}).apply(encoder),
        run_dir=run_dir,
        validate=lambda step: word_error_rates(encoder, tokenizer, dev or {}, limit=50),
    )
    if not distributed.leads():
        return {}
    encoder.save(out)
    scores = word_error_rates(encoder.eval(), tokenizer, dev or {})
    provenance.write(out, steps=result.step, data=manifests, dev_word_error_rate=scores)
    return scores


def _begun(config: TinyEncoderRecipe, *, vocab_size: int) -> TinyEncoder:
    if config.begin is None:
        shape = config.architecture.model_dump() | {"vocab_size": vocab_size}
        return TinyEncoder(EncoderConfig(kind="tiny", architecture=shape))
    encoder = TinyEncoder(EncoderConfig(kind="tiny", path=config.begin))
    if (spelled := encoder.ctc_head.out_features - 1) != vocab_size:
        raise ModelError(f"begin: {config.begin} spells in {spelled} tokens, {config.tokenizer} has {vocab_size}")
    return encoder


def make_stream(
    config: TinyEncoderRecipe, manifests: Sequence[Path], encoder: TinyEncoder, tokenizer: ChatTokenizer
) -> BatchStream:
    """Returns augmented batches of all clips, every manifest as large as it is; lengths are counted in 40 ms frames."""
    spec = encoder.feature_spec
    augmenter = EarAugmenter(config.augment, silence_s=config.silence_s, telephone_share=config.telephone_share)

    def example(row: Conversation, rng: np.random.Generator) -> Example:
        return make_example(row, tokenizer, [spec], augmenter=augmenter, rng=rng)

    blend = Group("speech", [Source(path.stem, Manifest(path)) for path in manifests], temperature=1.0)
    sizes = RowSizes(text_tokens=lambda row: 0, audio_tokens=lambda seconds: round(seconds * encoder.frame_rate_hz))
    return BatchStream(blend, example, sizes=sizes, plan=config.plan, loader=config.loader)


class EarAugmenter(Augmenter):
    """Augments clips between silences of chance length, a share of them heard through a telephone: cut off at 4 kHz."""

    def __init__(self, config: AugmentConfig, *, silence_s: float, telephone_share: float) -> None:
        super().__init__(config)
        self.silence_s, self.telephone_share = silence_s, telephone_share

    def samples(self, samples: Samples, *, sample_rate_hz: int, rng: np.random.Generator) -> Samples:
        """Returns the changed recording (S',) float32."""
        around = (rng.uniform(0, self.silence_s, size=2) * sample_rate_hz * rng.integers(0, 2, size=2)).astype(int)
        samples = super().samples(np.pad(samples, around), sample_rate_hz=sample_rate_hz, rng=rng)
        if rng.random() < self.telephone_share:
            narrow = resample(samples, from_hz=sample_rate_hz, to_hz=8_000)
            samples = resample(narrow, from_hz=8_000, to_hz=sample_rate_hz)
        return samples


class SpellingLoss(CTCLoss):
    """CTC of the transcript in tokens and, at `letter_weight`, in letters: sums; the weight is the number of tokens.

    Letters align within a hundred steps and tokens along them; tokens alone have not begun after eight hundred. A clip
    spoken (or sped up) too fast for its letters teaches nothing.
    """

    def __init__(self, tokenizer: ChatTokenizer, *, letter_weight: float) -> None:
        super().__init__(stop_ids=tokenizer.stop_ids)
        self.tokenizer, self.letter_weight = tokenizer, letter_weight

    def __call__(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Returns the sum over the batch; "letters" is reported apart, per token as well."""
        encoder = cast(TinyEncoder, unwrap(model))
        lengths = batch.feature_lengths[encoder.feature_spec]
        frames, letter_logits = encoder.forward_with_letters(batch.features[encoder.feature_spec], lengths)
        is_target, num_frames = self._is_target(batch), encoder.output_lengths(lengths)
        tokens = [ids[mask] for ids, mask in zip(batch.token_ids, is_target, strict=True)]
        losses = _ctc(encoder.ctc_logits(frames), tokens, num_frames)
        letters = _ctc(letter_logits, [self._spell(ids) for ids in tokens], num_frames).sum()
        parts = task_parts(batch, torch.arange(batch.num_rows, device=losses.device), losses, is_target.sum(1).float())
        parts["letters"] = letters.detach(), self.weight(batch)
        return LossOutput(losses.sum() + self.letter_weight * letters, self.weight(batch), parts)

    def _spell(self, token_ids: Tensor) -> Tensor:
        text = self.tokenizer.decode(token_ids.tolist()).strip()
        return torch.tensor([TinyEncoder.LETTERS.index(c) for c in text if c in TinyEncoder.LETTERS])


def _ctc(logits: Tensor, targets: list[Tensor], num_frames: Tensor) -> Tensor:
    """Negative log likelihood (A,) of each clip's target under logits (A, T, V + 1), blank last."""
    log_probs, blank = logits.float().log_softmax(-1).transpose(0, 1), logits.shape[2] - 1
    sizes = torch.tensor([len(target) for target in targets], device=logits.device)
    joined = torch.cat(targets).to(logits.device)
    return F.ctc_loss(log_probs, joined, num_frames, sizes, blank=blank, reduction="none", zero_infinity=True)


def word_error_rates(
    encoder: TinyEncoder, tokenizer: ChatTokenizer, manifests: Mapping[str, Path], *, limit: int | None = None
) -> dict[str, float]:
    """Returns voice group -> word error rate (%) of greedy CTC on (the first `limit` rows of) its manifest."""
    recognizer, rates = CTCRecognizer(encoder, tokenizer), {}
    for group, path in manifests.items():
        rows = list(Manifest(path))[:limit]
        heard = recognizer.transcribe([row.audio_parts[0] for row in rows])
        rates[group] = WER.score(heard, [row.reference for row in rows]).value
    return rates
