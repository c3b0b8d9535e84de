"""Stand-ins for the tests of the speech head: small heads of both bodies, and rows that say something."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from small_speech_lm import make_batch, small_llm
from torch import Tensor, nn

from sonant.audio.mel import MelSpec
from sonant.batch import Batch
from sonant.models.speech_head.config import SpeechHeadConfig
from sonant.models.speech_head.head import SpeechHead
from sonant.models.speech_head.states import LLMContext, SpokenStates
from sonant.spoken import SpokenBatch

MEL = MelSpec(num_mels=16)
FRAME_S = 1 / MEL.frame_rate_hz
LLM_DIM = 64  # of small_llm
OWN: dict[str, Any] = {"body": "own", "dim": 32, "num_layers": 2, "num_heads": 2, "ffn_dim": 48}
POINTER: dict[str, Any] = {**OWN, "pointer": True}


def small_head(*, seed: int = 0, speaker_dim: int | None = None, **changes: Any) -> SpeechHead:
    """Returns a head in eval mode; the published one, with 16 mels, unless `changes` say otherwise."""
    torch.manual_seed(seed)
    config = SpeechHeadConfig.model_validate({"mel": MEL, "prenet_dim": 24, "postnet_dim": 24, **changes})
    return SpeechHead(config, llm_dim=LLM_DIM, speaker_dim=speaker_dim).eval()


def states(words: Sequence[Sequence[int]], *, context: bool = False, speaker: bool = False) -> SpokenStates:
    """Returns rows of words, each given by its number of letters; a token a word. What a row holds is its own."""
    rows = []
    for lengths in words:
        draw = torch.Generator().manual_seed(sum(lengths) + 7)
        rows.append(
            {
                "hidden": torch.randn(len(lengths), LLM_DIM, generator=draw),
                "token_word": torch.arange(len(lengths)),
                "letters": torch.randint(97, 122, (sum(lengths),), generator=draw),
                "letter_word": torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
                "embeds": torch.randn(2 + len(lengths), LLM_DIM, generator=draw),
                "speaker": torch.randn(8, generator=draw),
            }
        )
    padded = {key: nn.utils.rnn.pad_sequence([row[key] for row in rows], True, -1) for key in rows[0]}
    sizes = torch.tensor([len(lengths) for lengths in words])
    return SpokenStates(
        hidden=padded["hidden"],
        token_word=padded["token_word"],
        letters=padded["letters"],
        letter_word=padded["letter_word"],
        num_words=sizes,
        speaker=padded["speaker"] if speaker else None,
        context=LLMContext(small_llm(), padded["embeds"], sizes + 2) if context else None,
    )


def clips(*num_frames: int) -> tuple[Tensor, Tensor]:
    """Returns log mels (S, F, M), one row of each length, zeros in padding, and the lengths."""
    mels = [torch.randn(n, 16, generator=torch.Generator().manual_seed(n)) - 4 for n in num_frames]
    return nn.utils.rnn.pad_sequence(mels, batch_first=True), torch.tensor(num_frames)


def even_starts(words: Sequence[Sequence[int]], num_frames: Sequence[int]) -> Tensor:
    """Returns word starts (S, W) that share each clip evenly, a silence before the first included."""
    rows = [
        torch.arange(1, len(row) + 1) * (n * FRAME_S / (len(row) + 1)) for row, n in zip(words, num_frames, strict=True)
    ]
    return nn.utils.rnn.pad_sequence(rows, True, float("nan"))


def spoken_batch(rows: Sequence[tuple[int, Sequence[tuple[int, int]], int]], **changes: Any) -> Batch:
    """Returns `make_batch` of rows (tokens, audios, spoken frames): the last but one token speaks; 0 frames: silent."""
    batch = make_batch([(tokens, audios) for tokens, audios, _ in rows])
    said = [(row, tokens - 2, frames) for row, (tokens, _, frames) in enumerate(rows) if frames]
    if not said:
        return batch
    mels, lengths = clips(*[frames for _, _, frames in said])
    size = len(said)
    spoken = SpokenBatch(
        row=torch.tensor([row for row, _, _ in said]),
        token_position=torch.tensor([[position] for _, position, _ in said]),
        token_word=torch.zeros(size, 1, dtype=torch.int64),
        letters=torch.tensor([[97, 98 + frames] for _, _, frames in said]),
        letter_word=torch.zeros(size, 2, dtype=torch.int64),
        num_words=torch.ones(size, dtype=torch.int64),
        mels=mels,
        mel_lengths=lengths,
        word_starts=torch.full((size, 1), 2 * FRAME_S),
    )
    return replace(batch, spoken=replace(spoken, **changes))
