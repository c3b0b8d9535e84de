"""The speech head: from the states of what is written to log mel frames, one step of r frames at a time.

    begin  x0 x1 x2 ..      frames of the step before, through the pre-net
      |    |  |  |
      body                  the LLM after its text, or causal layers over the text's letters
      |    |  |  |
      x0   x1 x2 x3 ..      post-net, refiner; stop or pointer

What is fed back are always frames, never states: stepping with true frames gives what a pass over them gives.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonant.audio.mel import MelSpec
from sonant.errors import ModelError
from sonant.models.speech_head.bodies import LLMCache, OwnBody, OwnCache, run_llm, start_llm, step_llm
from sonant.models.speech_head.config import SpeechHeadConfig
from sonant.models.speech_head.draws import Draws
from sonant.models.speech_head.frame_layers import Drawn, PreNet, Refiner, make_postnet
from sonant.models.speech_head.states import SpokenFrames, SpokenStates, SpokenStep
from sonant.models.speech_head.word_pointer import Script, ScriptReader, advances, ages, pointers

_LEAST_DEVIATION = 0.1  # of a mel bin that never changes: dividing by less would make noise of it


@dataclass
class Speaking:
    """The rows that still speak, and all that their next step needs."""

    rows: list[int]
    draws: Draws
    frames: Tensor  # (S', r * M) of the step before, in the head's units
    num_steps: int
    most_steps: Tensor  # (S',) int64
    voice: Tensor | None  # (S', 1, width) of the speaker
    cache: OwnCache | LLMCache
    script: Script | None = None
    pointer: Tensor | None = None  # (S',) int64
    age: Tensor | None = None  # (S',) int64 steps since it moved
    stay: Tensor | None = None  # (S',) how likely it is that it would not have moved yet
    past: list[Tensor] | None = None  # of the refiner

    def keep(self, lines: Sequence[int]) -> None:
        """Drops every line but these."""
        if len(lines) == len(self.rows):
            return
        index = torch.tensor(lines, dtype=torch.int64, device=self.frames.device)
        self.rows = [self.rows[line] for line in lines]
        self.draws.keep(lines)
        self.frames, self.most_steps = self.frames[index], self.most_steps[index]
        self.voice = None if self.voice is None else self.voice[index]
        self.cache.select(index)
        if self.script is not None:
            self.script = self.script.select(index)
        if self.pointer is not None and self.age is not None and self.stay is not None:
            self.pointer, self.age, self.stay = self.pointer[index], self.age[index], self.stay[index]
        self.past = None if self.past is None else [past[index] for past in self.past]


class SpeechHead(nn.Module):
    """Pre-net, body, post-net and what ends speech. `llm_dim`: width of the LLM; `speaker_dim`: of a speaker vector.

    Raises: ModelError if a speaker vector is asked for and none is given, or the other way round.
    """

    def __init__(self, config: SpeechHeadConfig, *, llm_dim: int, speaker_dim: int | None = None) -> None:
        super().__init__()
        self.config = config
        own = config.body == "own"
        width = config.dim if own else llm_dim
        self.begin_of_speech = nn.Parameter(torch.randn(width) * 0.02)
        self.prenet = PreNet(config, width=width)
        if (config.speaker_encoder is None) != (speaker_dim is None):
            raise ModelError(f"speaker_encoder={config.speaker_encoder}, but a speaker vector of width {speaker_dim}")
        self.speaker_dim = speaker_dim
        self.speaker_in = None
        if speaker_dim is not None:
            self.speaker_in = nn.Sequential(nn.LayerNorm(speaker_dim), nn.Linear(speaker_dim, width))
        self.reader = ScriptReader(config, llm_dim=llm_dim) if own else None
        self.body = OwnBody(config) if own else None
        self.postnet = make_postnet(config, width=width)
        self.refiner = Refiner(config) if config.refine_layers else None
        self.stop = nn.Linear(width, 1) if config.stop and not config.pointer else None
        self.advance = nn.Linear(width, 1) if config.pointer else None
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(config.mel.num_mels))
        self.register_buffer("deviation", torch.ones(config.mel.num_mels))

    @property
    def mel(self) -> MelSpec:
        """Returns what its frames are."""
        return self.config.mel

    @property
    def step_s(self) -> float:
        """Returns the seconds of a step."""
        return self.config.frames_per_step / self.mel.frame_rate_hz

    @torch.no_grad()
    def fit_normalisation(self, mels: Iterable[Tensor]) -> None:
        """Sets the mean and the deviation of each bin to those of the training data: clips (F, M) of log mels.

        Raises: ModelError if the head does not normalise, or there is no clip.
        """
        if not self.config.normalise:
            raise ModelError("this head takes log mels as they are; set normalise to true")
        count, total, square = 0, self.mean.new_zeros(self.mel.num_mels).double(), self.mean.new_zeros(1).double()
        for mel in mels:
            x = mel.to(total)
            count, total, square = count + len(x), total + x.sum(0), square + x.square().sum(0)
        if not count:
            raise ModelError("fit_normalisation got no frames; give it the mels of the training data")
        mean = total / count
        self.mean.copy_(mean)
        self.deviation.copy_((square / count - mean.square()).clamp(min=_LEAST_DEVIATION**2).sqrt())

    def forward(
        self,
        states: SpokenStates,
        mels: Tensor,
        lengths: Tensor,
        *,
        word_starts: Tensor | None = None,
        seeds: Sequence[int] | None = None,
    ) -> SpokenFrames:
        """Returns what every step makes of the true frames before it.

        mels: (S, F, M) natural log mel, of which lengths (S,) frames count; word_starts: (S, W) seconds, for a pointer.
        seeds: draws what `begin(states, seeds=seeds)` draws.

        Raises: TrainingError if a pointer lacks marks.
        """
        target, valid = self._grouped(mels, lengths)
        last = F.one_hot((lengths - 1) // self.config.frames_per_step, target.shape[1]).bool()
        draws = Draws(seeds)
        inputs = self._inputs(target, draws) + self._voice(states)
        num_steps = -(-lengths // self.config.frames_per_step)
        advance = None
        if self.body is not None and self.reader is not None:
            script, pointer = self.reader(states), None
            if self.advance is not None:
                assert word_starts is not None, "a pointer is taught by word_starts"
                pointer = pointers(word_starts, states.num_words, num_steps, step_s=self.step_s)
                advance = advances(pointer, num_steps)
                inputs = inputs + self.reader.at(script, pointer, ages(pointer))
            hidden = self.body(inputs, script, pointer)
        else:
            hidden = run_llm(states.context, inputs).float()
        return self._framed(hidden, target, valid, last=last, advance=advance, draws=draws)

    @torch.no_grad()
    def begin(self, states: SpokenStates, *, seeds: Sequence[int]) -> Speaking:
        """Returns the state before the first step; one seed for each row. Then: `while state.rows: step(state)`."""
        size = self.config.frames_per_step * self.mel.num_mels
        zeros = states.letters.new_zeros(states.num_rows)
        state = Speaking(
            rows=list(range(states.num_rows)),
            draws=Draws(seeds),
            frames=self.mean.new_zeros(states.num_rows, size),
            num_steps=0,
            most_steps=self._most_steps(states),
            voice=None if self.speaker_in is None else self._voice(states),
            cache=OwnCache() if self.body is not None else start_llm(states.context),
            script=None if self.reader is None else self.reader(states),
        )
        if self.advance is not None:
            state.pointer, state.age, state.stay = zeros, zeros, self.mean.new_ones(states.num_rows)
        return state

    @torch.no_grad()
    def step(self, state: Speaking, *, true_frames: Tensor | None = None) -> SpokenStep:
        """Returns the next frames of the rows in `state`, which moves on; rows that are over leave it.

        true_frames: (S', r, M) fed back in place of the frames made, to test.
        """
        frames = state.frames[:, None]
        fed = self.prenet(frames, state.draws)
        inputs = self.begin_of_speech.expand_as(fed) if state.num_steps == 0 else fed
        if state.voice is not None:
            inputs = inputs + state.voice
        hidden = self._hidden(state, inputs)
        drawn: Drawn = self.postnet(hidden, state.draws)
        made = drawn.frames.unflatten(2, (self.config.frames_per_step, -1))[:, 0]  # (S', r, M)
        if self.refiner is not None:
            made, state.past = self.refiner(made, state.past)
        state.num_steps += 1
        done = self._done(state, hidden[:, 0])
        back = made if true_frames is None else self._to_units(true_frames)
        state.frames = back.flatten(1)
        step = SpokenStep(list(state.rows), made * self.deviation + self.mean, done)
        over = done | (state.num_steps >= state.most_steps)
        state.keep([line for line, ended in enumerate(over.tolist()) if not ended])
        return step

    def _hidden(self, state: Speaking, inputs: Tensor) -> Tensor:
        if isinstance(state.cache, LLMCache):
            return step_llm(state.cache, inputs).float()
        assert self.body is not None
        assert self.reader is not None
        assert state.script is not None
        pointer = None
        if state.pointer is not None and state.age is not None:
            pointer = state.pointer[:, None]
            inputs = inputs + self.reader.at(state.script, pointer, state.age[:, None])
        hidden: Tensor = self.body(inputs, state.script, pointer, state.cache)
        return hidden

    def _done(self, state: Speaking, hidden: Tensor) -> Tensor:
        """Moves the pointer, if there is one; returns (S',) whether speech is over."""
        if state.pointer is not None and state.age is not None and state.stay is not None:
            assert self.advance is not None
            assert state.script is not None
            # The median of the duration foretold: a threshold on each step alone may never be reached.
            state.stay = state.stay * (1 - self.advance(hidden)[:, 0].sigmoid())
            moves = state.stay < 0.5
            state.pointer = state.pointer + moves
            state.age = torch.where(moves, 0, state.age + 1)
            state.stay = torch.where(moves, 1.0, state.stay)
            over = state.pointer >= state.script.num_slots
            state.pointer = torch.where(over, 0, state.pointer)  # it leaves; no slot is there to be read
            return over
        if self.stop is not None:
            return torch.as_tensor(self.stop(hidden)[:, 0] > 0)
        return torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)

    def _most_steps(self, states: SpokenStates) -> Tensor:
        """(S,) int64"""
        config = self.config
        seconds = torch.full((states.num_rows,), config.max_seconds, device=states.letters.device)
        if config.max_seconds_per_letter is not None:
            num_letters = (states.letters >= 0).sum(1) + 1
            seconds = torch.minimum(seconds, config.max_seconds_per_letter * num_letters)
        return (seconds / self.step_s).ceil().long()

    def _voice(self, states: SpokenStates) -> Tensor:
        """(S, 1, width), or zeros that fit anything."""
        if self.speaker_in is None:
            return self.begin_of_speech.new_zeros(1, 1, 1)
        if states.speaker is None:
            raise ModelError("this head needs a speaker vector, and a row has no clip whose speaker it could be")
        voice: Tensor = self.speaker_in(states.speaker.float())
        return voice[:, None]

    def _to_units(self, mels: Tensor) -> Tensor:
        return (mels - self.mean) / self.deviation

    def _grouped(self, mels: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames of each step (S, T, r * M) in the head's units, zeros in padding, and which of them count (S, F')."""
        r = self.config.frames_per_step
        num_steps = math.ceil(int(lengths.max()) / r)
        valid = torch.arange(num_steps * r, device=lengths.device) < lengths[:, None]
        mels = F.pad(mels, (0, 0, 0, max(0, num_steps * r - mels.shape[1])))[:, : num_steps * r]
        target = self._to_units(mels).masked_fill(~valid[..., None], 0.0)
        return target.unflatten(1, (num_steps, r)).flatten(2), valid

    def _inputs(self, target: Tensor, draws: Draws) -> Tensor:
        """(S, T, width): the begin of speech, then each step's frames but the last's."""
        before = F.pad(target[:, :-1], (0, 0, 1, 0))
        if self.training and self.config.history_noise:
            before = before + self.config.history_noise * torch.randn_like(before)
        fed = self.prenet(before, draws)
        begin = self.begin_of_speech.expand(len(fed), 1, -1).to(fed.dtype)
        return torch.cat([begin, fed[:, 1:]], dim=1)

    def _framed(
        self, hidden: Tensor, target: Tensor, valid: Tensor, *, last: Tensor, advance: Tensor | None, draws: Draws
    ) -> SpokenFrames:
        def frames(x: Tensor | None) -> Tensor | None:
            """(S, T, r * M) -> (S, F', M)"""
            return None if x is None else x.unflatten(2, (self.config.frames_per_step, -1)).flatten(1, 2)

        drawn: Drawn = self.postnet(hidden, draws)
        other = self.postnet(hidden, draws, purpose="other").frames if self.config.arm == "energy" else None
        coarse, truth = frames(drawn.frames), frames(target)
        assert coarse is not None
        assert truth is not None
        return SpokenFrames(
            target=truth,
            valid=valid,
            last=last,
            coarse=coarse,
            refined=None if self.refiner is None else self.refiner(coarse)[0],
            other=frames(other),
            mean=frames(drawn.mean),
            log_variance=frames(drawn.log_variance),
            stop_logits=None if self.stop is None else self.stop(hidden)[..., 0],
            advance_logits=None if self.advance is None else self.advance(hidden)[..., 0],
            advance=advance,
        )
