"""When the words of a recording begin, found by forced alignment with an encoder that has a CTC head.

    letters     t   h e _     c   a t          the likeliest path that spells the transcript
    frames      x . x x x . . x . x x .        40 ms each in the tiny encoder
    marks       |          ^                   a word begins halfway between the letters around its beginning

A CTC head answers once it has heard enough: a letter a frame late, a whole word at any time. So letters are aligned
where the encoder spells in them too (`letter_head`), else its tokens. Beside what espeak knows of its own clips (264 of
dev), letters of the tiny encoder are 25 ms off on average and 67 ms at the 95th percentile; its tokens 58 and 150 ms.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, pairwise

import torch
from torch import Tensor

from sonant.audio.features import extract
from sonant.chat.messages import AudioPart, Conversation, Message
from sonant.chat.spelling import MARKS, spell
from sonant.chat.tokenizer import ChatTokenizer
from sonant.errors import ModelError
from sonant.models.alignment import forced_alignment
from sonant.models.encoders.base import EncoderConfig, SpeechEncoder
from sonant.models.encoders.load import load_encoder
from sonant.models.encoders.tiny import TinyEncoder
from sonant.models.parts import resolve_part

ROWS_AT_ONCE = 16
_Place = tuple[int, int, int]  # row, message and part of a batch
Starts = list[float | None]  # of each word, in seconds; None where it has no letter that the encoder spells


class WordMarker:
    """Finds when the words of recordings begin, by an encoder with a CTC head and the tokenizer that it spells in."""

    def __init__(self, encoder: SpeechEncoder, tokenizer: ChatTokenizer) -> None:
        if not hasattr(encoder, "ctc_logits"):
            raise ModelError(
                f"{type(encoder).__name__} has no CTC head and cannot tell when words begin; "
                "use an encoder with one, such as tiny/encoder"
            )
        self.encoder, self.tokenizer = encoder, tokenizer
        self._letters = encoder if isinstance(encoder, TinyEncoder) else None

    @classmethod
    def from_parts(cls, encoder: str = "tiny/encoder", tokenizer: str = "tiny/llm") -> "WordMarker":
        """Returns the marker of a saved tiny encoder and the folder of the tokenizer it was trained on."""
        loaded = load_encoder(EncoderConfig(kind="tiny", path=encoder))
        return cls(loaded, ChatTokenizer.from_folder(resolve_part(tokenizer)))

    @torch.no_grad()
    def starts(self, clips: Sequence[AudioPart], texts: Sequence[str]) -> list[Starts | None]:
        """Returns when each word of each text begins, in seconds from the start of its clip; None for a clip with fewer
        frames than its text has letters: nobody can have said it.

        Raises: AudioError if a clip cannot be read.
        """
        spec = self.encoder.feature_spec
        recordings = (c.load(sample_rate_hz=spec.sample_rate_hz) for c in clips)
        features = [extract(torch.from_numpy(samples), spec) for samples in recordings]
        lengths = torch.tensor([len(each) for each in features])
        logits = self._logits(torch.nn.utils.rnn.pad_sequence(features, batch_first=True), lengths)
        num_frames = self.encoder.output_lengths(lengths)
        spelled = [self._spelled(text) for text in texts]
        fits = [i for i, (ids, _) in enumerate(spelled) if ids and _frames_needed(ids) <= num_frames[i]]
        starts: list[Starts | None] = [None] * len(clips)
        if fits:
            targets = [torch.tensor(spelled[i][0]) for i in fits]
            own = forced_alignment(
                logits[fits].log_softmax(-1),
                num_frames[fits],
                torch.nn.utils.rnn.pad_sequence(targets, batch_first=True),
                torch.tensor([len(target) for target in targets]),
            )
            for i, path in zip(fits, own, strict=True):
                starts[i] = self._begun(path, spelled[i][1], num_words=len(texts[i].split()))
        return starts

    def _logits(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(A, T, letters + 1) where the encoder spells in letters, else (A, T, V + 1); blank last."""
        if self._letters is not None:
            return self._letters.forward_with_letters(features, lengths)[1].float()
        frames: Tensor = self.encoder(features, lengths)
        logits: Tensor = self.encoder.ctc_logits(frames)
        return logits.float()

    def _spelled(self, text: str) -> tuple[list[int], list[int]]:
        """What the path must spell, and the word of `text` that each of it belongs to; neither capitals nor signs."""
        said = [(place, re.sub(r"[^\w']|_", "", word).lower()) for place, word in enumerate(text.split())]
        if self._letters is None:
            said = [(place, word) for place, word in said if word]
            ids = self.tokenizer.encode_text(" ".join(word for _, word in said))
            owners = spell(self.tokenizer, ids).token_word.tolist()
            return ids, [said[owner][0] for owner in owners]
        alphabet = self._letters.LETTERS
        letters = [(place, [c for c in word if c in alphabet]) for place, word in said]
        spaced = [(c, place) for place, word in letters if word for c in (*word, " ")][:-1]
        return [alphabet.index(c) for c, _ in spaced], [place for _, place in spaced]

    def _begun(self, path: Tensor, words: Sequence[int], *, num_words: int) -> Starts:
        """The start of each word, of a path (T,) over what was spelled, each of it belonging to one of `words`."""
        starts: Starts = [None] * num_words
        late = 0 if self._letters is None else 1
        last: int | None = None
        before = -1
        for frame, token in enumerate(path.tolist()):
            if token < 0:
                continue
            if (word := words[token]) != before:
                begins = frame if last is None else (last + frame) / 2
                starts[word] = round(max(0.0, begins - late) / self.encoder.frame_rate_hz, 3)
            before, last = word, frame
        return starts


def _frames_needed(ids: Sequence[int]) -> int:
    return len(ids) + sum(one == other for one, other in pairwise(ids))


def marked_rows(rows: Iterable[Conversation], marker: WordMarker, counts: Counter[str]) -> Iterator[Conversation]:
    """Yields the rows with word marks on every recording whose text is known; `counts` tells what became of each.

    A part's text is its transcript; of a spoken answer, what is said of it; of the one recording of an asr row without
    transcripts, the answer. Marks that are there are kept.

    Raises: AudioError if a recording cannot be read.
    """
    source = iter(rows)
    while batch := list(islice(source, ROWS_AT_ONCE)):
        wanted = [
            (place, part, text)
            for place, row, message, part in _parts(batch)
            if (text := _text_of(row, message, part, counts))
        ]
        found = marker.starts([part for _, part, _ in wanted], [text for *_, text in wanted]) if wanted else []
        marked: dict[_Place, AudioPart] = {}
        for (place, part, text), starts in zip(wanted, found, strict=True):
            if starts is None:
                counts["more letters than the recording has frames"] += 1
                continue
            counts["marked"] += 1
            counts["words without a letter, left unknown"] += sum(start is None for start in starts)
            marks = [[word, start] for word, start in zip(text.split(), starts, strict=True)]
            marked[place] = replace(part, extra={**part.extra, MARKS: marks})
        yield from (_with(row, index, marked) for index, row in enumerate(batch))


def _parts(rows: Sequence[Conversation]) -> Iterator[tuple[_Place, Conversation, Message, AudioPart]]:
    for i, row in enumerate(rows):
        for j, message in enumerate(row.messages):
            for k, part in enumerate(message.parts):
                if isinstance(part, AudioPart):
                    yield (i, j, k), row, message, part


def _text_of(row: Conversation, message: Message, part: AudioPart, counts: Counter[str]) -> str:
    """What is said in a recording that wants marks; "" if it wants none, or nobody knows."""
    text = part.transcript or (message.spoken_text if message.role == "assistant" else "")
    if not text and row.task == "asr" and len(row.audio_parts) == 1:
        text = row.reference
    is_cut = message.role == "assistant" and part.name in {heard.name for heard in row.heard_parts}
    if MARKS in part.extra:
        counts["had marks"] += 1
    elif is_cut and part.transcript is None:
        counts["cut from what is heard, so its words are not known: mark words before cutting"] += 1
    elif not text.strip():
        counts["without a transcript"] += 1
    else:
        return text
    return ""


def _with(row: Conversation, index: int, marked: Mapping[_Place, AudioPart]) -> Conversation:
    messages = [
        replace(message, parts=tuple(marked.get((index, j, k), part) for k, part in enumerate(message.parts)))
        for j, message in enumerate(row.messages)
    ]
    return replace(row, messages=tuple(messages))
