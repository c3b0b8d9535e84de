"""What a speech head reads and gives: the states of what is written, and frames step by step."""

from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class LLMContext:
    """What stands before the first frame when frames are positions of the LLM: all up to the end of the text."""

    llm: PreTrainedModel
    inputs_embeds: Tensor  # (S, P, D) right-padded
    lengths: Tensor  # (S,) int64
    scale: Tensor | None = None  # (S, ...) of each row's LoRA (see `scaled_lora`)


@dataclass(frozen=True, eq=False)
class SpokenStates:
    """What S rows are about to say. N tokens, C letters, D and V widths of the LLM and of the speaker vector."""

    hidden: Tensor  # (S, N, D) final states of the tokens that are spoken
    token_word: Tensor  # (S, N) int64 the word of each; -1: padding
    letters: Tensor  # (S, C) int64 bytes + 0..255; -1: padding
    letter_word: Tensor  # (S, C) int64
    num_words: Tensor  # (S,) int64
    speaker: Tensor | None = None  # (S, V)
    context: LLMContext | None = None  # for body "llm"

    @property
    def num_rows(self) -> int:
        """S."""
        return self.letters.shape[0]


@dataclass(frozen=True, eq=False)
class SpokenStep:
    """One step of the rows that were still speaking."""

    rows: list[int]  # (S',) which row of the states each line is
    frames: Tensor  # (S', r, M) natural log mel
    done: Tensor  # (S',) bool: ended by itself; a row that its cap cuts off leaves without


@dataclass(frozen=True, eq=False)
class SpokenFrames:
    """What the head makes of true frames, step t from steps before t. T = ceil(F / r); frames in the head's own units.

    A step's frames count where the target does: `valid` is false in padding, and in a last step that is not full.
    """

    target: Tensor  # (S, F', M) with F' = T * r, zeros in padding
    valid: Tensor  # (S, F') bool
    last: Tensor  # (S, T) bool: the step in which speech ends
    coarse: Tensor  # (S, F', M)
    refined: Tensor | None = None  # (S, F', M)
    other: Tensor | None = None  # (S, F', M) arm energy: a second sample, as good as the first
    mean: Tensor | None = None  # (S, F', M) what is drawn around; of a latent, also the logarithm of its variance
    log_variance: Tensor | None = None
    stop_logits: Tensor | None = None  # (S, T)
    advance_logits: Tensor | None = None  # (S, T)
    advance: Tensor | None = None  # (S, T) float: whether the pointer moves on after this step

    @property
    def steps(self) -> Tensor:
        """Returns (S, T) bool: where steps are."""
        num_steps = self.last.shape[1]
        return self.valid.unflatten(1, (num_steps, -1))[:, :, 0]

    @property
    def output(self) -> Tensor:
        """Returns (S, F', M), the frames that would be heard."""
        return self.coarse if self.refined is None else self.refined
