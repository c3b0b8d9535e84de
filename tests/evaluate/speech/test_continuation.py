from pathlib import Path

import numpy as np
import pytest

from sonant.audio.io import save
from sonant.chat.messages import AudioPart, Conversation, user
from sonant.errors import EvaluationError
from sonant.evaluate.speech.continuation import continued


def whole(folder: Path, length_s: float, **changes: float) -> Conversation:
    path = folder / f"{length_s}.wav"
    save(path, np.zeros(round(16_000 * length_s), np.float32), sample_rate_hz=16_000)
    return Conversation((user(AudioPart(str(path), transcript="he hoped", **changes)),), id=str(length_s))  # type: ignore[arg-type]


def test_the_first_seconds_are_heard_and_the_rest_is_how_it_goes_on(tmp_path: Path) -> None:
    rows, truths, num_short = continued([whole(tmp_path, 5.0), whole(tmp_path, 3.2), whole(tmp_path, 1.0)], 3.0)
    assert num_short == 2
    (heard,) = rows[0].heard_parts
    rest = truths[0].clip
    assert rest
    assert (heard.offset_s, heard.duration_s, heard.transcript) == (0.0, 3.0, None)
    assert (rest.offset_s, rest.duration_s, truths[0].text) == (3.0, 2.0, None)
    assert rows[0].reference == "he hoped"


def test_a_part_of_a_recording_is_cut_within_it(tmp_path: Path) -> None:
    (row,), (truth,), _ = continued([whole(tmp_path, 40.0, offset_s=2.0, duration_s=35.0)], 30.0)
    assert truth.clip
    assert (row.heard_parts[0].offset_s, row.heard_parts[0].duration_s) == (2.0, 30.0)
    assert (truth.clip.offset_s, truth.clip.duration_s) == (32.0, 5.0)


def test_if_nothing_is_long_enough_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no recording exceeds 3 s"):
        continued([whole(tmp_path, 2.0)], 3.0)
