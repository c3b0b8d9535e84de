"""What spoken answers are worth, beside real speech where there is any.

    metric            by               arms
    wer               a listener       spoken: its transcript against the right text; real: of the real recording
    wer_of_written    a listener       spoken: against what the model wrote
    agreement         a listener       percent of answers heard word by word as they were written
    (the set's own)   a listener       spoken: the metrics of the set on the transcript; written: on what was written
    movement          -                nats; spoken, real and prompt
    movement_ratio    -                over real speech; so are length_ratio and variance_ratio
    log_mel_dtw       -                nats from the real recording of the same words
    stop              -                percent that ended by themselves, within 0.5 s of where they should
    silent, cut_off   -                percent without sound; percent that did not end by themselves
    real_time_factor  -                seconds of work for a second of speech; alone: one at a time
    first_sound_s     -                alone: seconds until the first samples
    similarity        a speaker encoder  cosine to the voice of the prompt
    own_voice         a speaker encoder  percent nearer to their own voice than to any other of the set
    log_perplexity    a language model, of a listener's transcripts: nats a token, given what the prompt says
    length            the same         tokens a transcript

Where rows have what two arms need, their difference is paired. `n` of a score: the rows that it rests on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sonant.audio.io import info
from sonant.chat.messages import AudioPart, Conversation, assistant
from sonant.data.manifest import relative_path
from sonant.evaluate.arms import Progress
from sonant.evaluate.marks import mark, scored
from sonant.evaluate.metrics.score import Estimate, Score, ratio
from sonant.evaluate.metrics.speech import (
    SAMPLE_RATE_HZ,
    Frames,
    dtw_distance,
    level_log_mels,
    movement,
    movement_ratio,
    variance_ratio,
)
from sonant.evaluate.metrics.text import word_errors
from sonant.evaluate.normalize import normalizer
from sonant.evaluate.speech.listeners import Listener
from sonant.evaluate.speech.spoken import Said
from sonant.evaluate.tasks import Task

STOP_TOLERANCE_S = 0.5
SHORTEST_S = 0.05  # of a recording that a listener is asked about

Pairs = NDArray[np.float64]  # (N, 2): count and size; size 0 says nothing
BySpeech = dict[str, dict[str, dict[str, Score]]]  # metric -> by whom -> arm


class Voices(Protocol):
    """Who speaks, as a vector."""

    def __call__(self, clips: Sequence[AudioPart]) -> NDArray[np.float64]:
        """Returns (N, D) unit vectors; NaN for a clip too short to tell."""
        ...


class Likelihood(Protocol):
    """How likely texts are."""

    def __call__(self, texts: Sequence[str], contexts: Sequence[str]) -> list[tuple[float, int]]:
        """Returns (nats, tokens) of each text after its context."""
        ...


@dataclass(frozen=True)
class Truth:
    """How a row sounds when a real voice answers, as far as that is known, and the words it says."""

    clip: AudioPart | None
    text: str | None


@dataclass(frozen=True)
class SpeechTest:
    """By whom speech is measured: each part has a name, and what is not given is not measured."""

    listeners: tuple[Listener, ...] = ()
    voices: tuple[str, Voices] | None = None
    likelihood: tuple[str, Likelihood] | None = None
    pins: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SpeechMarks:
    """Scores, and what stands beside each row in items.jsonl."""

    scores: BySpeech
    rows: tuple[dict[str, Any], ...]
    pins: Mapping[str, Any]

    def item(self, index: int, folder: Path) -> dict[str, Any]:
        """Returns what stands beside a row, paths as `folder` sees them."""
        row = self.rows[index]
        real = row["real"] and row["real"] | {"path": _seen_from(folder, row["real"]["path"])}
        return row | {"path": _seen_from(folder, row["path"]), "real": real}


def truth_of(row: Conversation) -> Truth:
    """Returns the real answer of a row: its closing recording and what is said in it, else its reference."""
    clip = row.spoken
    return Truth(clip, (row.messages[-1].spoken_text if clip else row.reference) or None)


def measure(
    rows: Sequence[Conversation],
    said: Sequence[Said],
    how: Task,
    test: SpeechTest,
    *,
    truths: Sequence[Truth] = (),
    progress: Progress = lambda what, done, total: None,
) -> SpeechMarks:
    """Returns every measure of the spoken answers to `rows`. truths: where rows do not hold them (see `truth_of`)."""
    truths = truths or [truth_of(row) for row in rows]
    asked = _Asked(tuple(rows), tuple(said), tuple(truths), how)
    scores: BySpeech = {}
    heard: dict[str, list[str]] = {}
    for listener in test.listeners:
        heard[listener.name] = _transcribe(listener, [each.clip for each in said], progress)
        real = _transcribe(listener, [each.clip for each in truths], progress)
        _add(scores, listener.name, asked.of_words(heard[listener.name], real))
    _add(scores, "", asked.of_sound())
    if test.voices:
        name, vectors = test.voices
        _add(scores, name, asked.of_voices(vectors))
    if test.likelihood and heard:
        name, likelihood = test.likelihood
        listener_name, transcripts = next(iter(heard.items()))
        _add(scores, f"{name}, {listener_name}", asked.of_likelihood(transcripts, likelihood))
    items = tuple(asked.item(i, {name: texts[i] for name, texts in heard.items()}) for i in range(len(rows)))
    listeners = {listener.name: dict(listener.pins) for listener in test.listeners}
    return SpeechMarks(scores, items, {"listeners": listeners, **test.pins})


@dataclass(frozen=True)
class _Asked:
    """The rows of a set with what was said and what is true."""

    rows: tuple[Conversation, ...]
    said: tuple[Said, ...]
    truths: tuple[Truth, ...]
    how: Task

    def item(self, index: int, heard: Mapping[str, str]) -> dict[str, Any]:
        said, clip = self.said[index], self.truths[index].clip
        real = clip and {"path": clip.path, "offset_s": clip.offset_s, "duration_s": clip.duration_s}
        finished = {"text_finished": said.text_finished, "speech_finished": said.speech_finished}
        return (
            {"path": said.path, "text": said.spoken_text, "duration_s": said.duration_s}
            | finished
            | {
                "heard": dict(heard),
                "real": real,
            }
        )

    def of_words(self, heard: Sequence[str], real: Sequence[str]) -> dict[str, dict[str, Estimate]]:
        """What a listener's transcripts tell."""
        clean = normalizer(self.how.normalizer)
        transcripts, reals = [clean(text) for text in heard], [clean(text) for text in real]
        written = [clean(each.spoken_text) for each in self.said]
        right = [clean(truth.text) if truth.text else "" for truth in self.truths]
        is_real = [bool(truth.clip and truth.text) for truth in self.truths]
        against = {
            "spoken": [word_errors(h, r) if r else (0.0, 0.0) for h, r in zip(transcripts, right, strict=True)],
            "real": [word_errors(h, r) if k else (0.0, 0.0) for h, r, k in zip(reals, right, is_real, strict=True)],
        }
        own = [word_errors(h, w) for h, w in zip(transcripts, written, strict=True)]
        found = {
            "wer": paired({arm: np.array(counts) for arm, counts in against.items()}, "spoken", "real"),
            "wer_of_written": paired({"spoken": np.array(own), "real": np.array(against["real"])}, "spoken", "real"),
            "agreement": paired(
                {"spoken": np.array([(h == w, 1) for h, w in zip(transcripts, written, strict=True)], dtype=float)}
            ),
        }
        if all(truth.text for truth in self.truths):
            texts = {"spoken": list(heard), "written": [each.spoken_text for each in self.said]}
            rows = [_answered(row, str(truth.text)) for row, truth in zip(self.rows, self.truths, strict=True)]
            for metric, arms in mark(rows, texts, replace(self.how, judge=None, choices=())).estimates.items():
                if metric != "wer":
                    minus = {"spoken minus written": arms["spoken"] - arms["written"]}
                    found[metric] = dict(arms) | minus
        return found

    def of_sound(self) -> dict[str, dict[str, Estimate]]:
        """What the recordings alone tell."""
        spoken = [_frames(each.clip) for each in self.said]
        real = [_frames(truth.clip) for truth in self.truths]
        prompts = [_frames(clips[-1] if (clips := row.prompt().heard_parts) else None) for row in self.rows]
        moves = {"spoken": spoken, "real": real, "prompt": prompts}
        pairs = list(zip(spoken, real, strict=True))
        same = [one if words else (one[0], _frames(None)) for one, words in zip(pairs, self._same_words(), strict=True)]
        lengths = [len(one) / len(other) if len(one) and len(other) else np.nan for one, other in same]
        alone = [each for each in self.said if each.streamed_s is not None and each.duration_s]
        work = {
            "spoken": _mean([each.seconds / each.duration_s if each.duration_s else np.nan for each in self.said]),
            "alone": _mean([float(each.streamed_s or 0) / each.duration_s for each in alone]),
        }
        first = [each.first_sound_s for each in self.said if each.first_sound_s is not None]
        return {
            "movement": _known({arm: _mean([movement(frames) for frames in clips]) for arm, clips in moves.items()}),
            "movement_ratio": _known({"spoken": _mean([movement_ratio(*pair) for pair in pairs])}),
            "variance_ratio": _known({"spoken": _mean([variance_ratio(*pair) for pair in pairs])}),
            "length_ratio": _known({"spoken": _mean(lengths)}),
            "log_mel_dtw": _known({"spoken": _mean([dtw_distance(*pair) for pair in same])}),
            "stop": paired({"spoken": np.array(self._stops())}),
            "silent": paired({"spoken": np.array([(not each.path, 1) for each in self.said], dtype=float)}),
            "cut_off": paired({"spoken": np.array([(not each.speech_finished, 1) for each in self.said], dtype=float)}),
            "real_time_factor": _known(work),
            "first_sound_s": _known({"alone": _mean(first)}),
        }

    def of_voices(self, vectors: Voices) -> dict[str, dict[str, Estimate]]:
        """Whose voice an answer has: that of the last clip its row heard."""
        heard = [(row.prompt().heard_parts or (None,))[-1] for row in self.rows]
        prompts = _vectors(vectors, heard)
        speakers = [row.speaker if clip else None for row, clip in zip(self.rows, heard, strict=True)]
        names = sorted({name for name in speakers if name})
        centres = np.array([np.nanmean(prompts[[name == each for each in speakers]], axis=0) for name in names])
        found: dict[str, dict[str, Estimate]] = {"similarity": {}, "own_voice": {}}
        for arm, clips in {"spoken": [s.clip for s in self.said], "real": [t.clip for t in self.truths]}.items():
            own = _vectors(vectors, clips)
            found["similarity"] |= _known({arm: _mean(list((own * prompts).sum(1)))})
            if len(names) > 1:
                centred = own @ (centres / np.linalg.norm(centres, axis=1, keepdims=True)).T  # (N, voices)
                told = [
                    (names[int(row.argmax())] == name, 1.0) if name and not np.isnan(row).any() else (0.0, 0.0)
                    for row, name in zip(centred, speakers, strict=True)
                ]
                found["own_voice"] |= paired({arm: np.array(told, dtype=float)})
        return found

    def of_likelihood(self, heard: Sequence[str], likelihood: Likelihood) -> dict[str, dict[str, Estimate]]:
        """How likely what was heard, written and really said is, after what the prompts say."""
        contexts = [" ".join(filter(None, (part.transcript for part in row.prompt().heard_parts))) for row in self.rows]
        texts = {
            "spoken": list(heard),
            "written": [each.spoken_text for each in self.said],
            "real": [truth.text or "" for truth in self.truths],
        }
        found: dict[str, dict[str, Estimate]] = {"log_perplexity": {}, "length": {}}
        for arm, said in texts.items():
            pairs = list(zip(said, contexts, strict=True))
            distinct = list(dict.fromkeys(pairs))
            weighed = dict(zip(distinct, likelihood(*map(list, zip(*distinct, strict=True))), strict=True))
            counts = np.array([weighed[pair] for pair in pairs], dtype=float)
            if (kept := counts[counts[:, 1] > 0]).size:
                found["log_perplexity"][arm] = _hundredth(ratio(kept))
                found["length"][arm] = _mean(list(counts[:, 1]))
        return found

    def _same_words(self) -> list[bool]:
        clean = normalizer(self.how.normalizer)
        return [
            bool(truth.clip and truth.text) and clean(each.spoken_text) == clean(str(truth.text))
            for each, truth in zip(self.said, self.truths, strict=True)
        ]

    def _stops(self) -> list[tuple[float, float]]:
        """(1 if the speech ended by itself within 0.5 s of where it should, 1).

        It should end where the real recording of these words does; of other words, where as many letters would at the
        pace of the real recording; without one, (0, 0).
        """
        found = []
        for each, truth in zip(self.said, self.truths, strict=True):
            if not truth.clip or not truth.text or not each.spoken_text:
                found.append((0.0, 0.0))
                continue
            expected_s = _duration_s(truth.clip) * len(each.spoken_text) / len(truth.text)
            near = abs(each.duration_s - expected_s) <= STOP_TOLERANCE_S
            found.append((float(each.speech_finished and near), 1.0))
        return found


def paired(counts: Mapping[str, Pairs], one: str = "", other: str = "") -> dict[str, Estimate]:
    """Returns arm -> percent over the rows that say something; and `one minus other` over those where both do."""
    found = {arm: ratio(kept) for arm, each in counts.items() if len(kept := each[each[:, 1] > 0])}
    if one in found and other in found:
        both = (counts[one][:, 1] > 0) & (counts[other][:, 1] > 0)
        if both.any():
            found[f"{one} minus {other}"] = ratio(counts[one][both]) - ratio(counts[other][both])
    return found


def _mean(values: Sequence[float | None]) -> Estimate:
    """The mean of the values that are known, with n of them."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    if not known:
        return Estimate(float("nan"), np.full(1, np.nan), 0)
    return _hundredth(ratio(np.array([(value, 1.0) for value in known])))


def _hundredth(estimate: Estimate) -> Estimate:
    return replace(estimate, value=estimate.value / 100, resampled=estimate.resampled / 100)


def _known(estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    return {arm: each for arm, each in estimates.items() if each.n}


def _add(scores: BySpeech, by: str, found: Mapping[str, Mapping[str, Estimate]]) -> None:
    for metric, arms in found.items():
        if arms:
            scores.setdefault(metric, {})[by] = scored({metric: dict(arms)})[metric]


def _transcribe(listener: Listener, clips: Sequence[AudioPart | None], progress: Progress) -> list[str]:
    """One transcript a clip; none of what is not there or too short to hear."""
    places = [index for index, clip in enumerate(clips) if clip and _duration_s(clip) >= SHORTEST_S]
    done = 0

    def tell(new: int) -> None:
        nonlocal done
        done += new
        progress(f"{listener.name} listens", done, len(places))

    texts = listener.recognizer.transcribe([clip for index in places if (clip := clips[index])], progress=tell)
    found = dict(zip(places, texts, strict=True))
    return [found.get(index, "") for index in range(len(clips))]


def _vectors(vectors: Voices, clips: Sequence[AudioPart | None]) -> NDArray[np.float64]:
    distinct = {clip.key: clip for clip in clips if clip}  # many rows may hear the same recording
    found = vectors(list(distinct.values()))
    numbers = {key: number for number, key in enumerate(distinct)}
    full = np.full((len(clips), found.shape[1]), np.nan)
    for index, clip in enumerate(clips):
        if clip:
            full[index] = found[numbers[clip.key]]
    return full


def _frames(clip: AudioPart | None) -> Frames:
    if clip is None:
        return level_log_mels(np.zeros(0, np.float32))
    samples = clip.load(sample_rate_hz=SAMPLE_RATE_HZ)
    return level_log_mels(samples)


def _seen_from(folder: Path, path: str | None) -> str | None:
    return None if path is None else relative_path(path, folder)


def _duration_s(clip: AudioPart) -> float:
    return clip.duration_s if clip.duration_s is not None else info(clip.source).duration_s - clip.offset_s


def _answered(row: Conversation, text: str) -> Conversation:
    """The row with the words that are said as its answer: written ones may hold more."""
    return replace(row, messages=(*row.prompt().messages, assistant(text)))
