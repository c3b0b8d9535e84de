"""What teaches a speaker encoder: pairs joined by hand, means of spans, each loss against a hand calculation."""

import math

import pytest
import torch
import torch.nn.functional as F

from sonant.audio.features import extract
from sonant.batch import Batch
from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.tiny_speaker import TinySpeakerEncoder, speaker_features
from sonant.models.voice_losses import (
    VoiceLoss,
    VoiceLossConfig,
    VoiceStudent,
    VoiceTruth,
    _same,
    _still,
    _window,
    join,
    silence_of,
    span_means,
    whole,
)

SMALL = {"dim": 16, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 24}
TRUTHS = {
    "same": VoiceTruth(speakers=(0, 0), throats=(0, 0), manners=(0, 1)),
    "other": VoiceTruth(speakers=(1, 2), throats=(1, 0), manners=(2, 2)),
}


@pytest.fixture
def student() -> VoiceStudent:
    torch.manual_seed(0)
    encoder = TinySpeakerEncoder(EncoderConfig(kind="tiny_speaker", architecture=SMALL))
    return VoiceStudent(encoder, num_speakers=3, num_throats=2, num_manners=4)


def batch_of(lengths: list[int], ids: tuple[str, ...] = ("same", "other")) -> Batch:
    spec, num = speaker_features(), len(ids)
    empty = torch.zeros(num, 0, dtype=torch.int64)
    none = torch.zeros(num, dtype=torch.int64)
    return Batch(
        ids=ids,
        tasks=("verification",) * num,
        token_ids=empty,
        token_lengths=none,
        loss_mask=torch.zeros(num, 0),
        prompt_ids=empty,
        prompt_lengths=none,
        audio_row=torch.arange(num).repeat_interleave(2),
        audio_position=torch.zeros(2 * num, dtype=torch.int64),
        features={spec: torch.rand(2 * num, max(lengths), 80) - 3},
        feature_lengths={spec: torch.tensor(lengths)},
        audio_duration_s=1.0,
        **{
            name: torch.zeros(2 * num, *([0] if name == "transcript_ids" else []), dtype=torch.int64)
            for name in ("transcript_ids", "transcript_lengths")
            if name in Batch.__dataclass_fields__
        },
    )


def test_a_pair_is_joined_in_either_order_by_silence() -> None:
    mels = torch.arange(1.0, 5.0)[:, None, None].expand(4, 12, 2)
    lengths, silence = torch.tensor([8, 12, 4, 9]), torch.tensor([-3.0, -3.0])
    joined = join(mels, lengths, order=torch.tensor([[0, 1], [1, 0]]), pauses=torch.tensor([4, 6]), silence=silence)
    assert joined.lengths.tolist() == [24, 19]
    assert joined.mels[0, :, 0].tolist() == [1.0] * 8 + [-3.0] * 4 + [2.0] * 12
    assert joined.mels[1, :19, 0].tolist() == [4.0] * 9 + [-3.0] * 6 + [3.0] * 4
    # Four mel frames are one frame; in the second row 9 and 15 are no multiples of it.
    assert joined.spans.tolist() == [[[0, 2], [3, 6]], [[0, 2], [4, 4]]]


def test_joined_mels_are_the_mels_of_joined_samples() -> None:
    torch.manual_seed(0)
    spec = speaker_features()
    first, second, pause = torch.randn(8000) * 0.1, torch.randn(4800) * 0.1, torch.zeros(3200)
    clips = [extract(samples, spec) for samples in (first, second)]
    mels = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    joined = join(
        mels,
        torch.tensor([50, 30]),
        order=torch.tensor([[0, 1]]),
        pauses=torch.tensor([20]),
        silence=silence_of(spec),
    )
    heard = extract(torch.cat([first, pause, second]), spec)
    inner = [*range(47), *range(54, 66), *range(74, 97)]  # away from where a window of 64 ms sees both sides of an edge
    torch.testing.assert_close(joined.mels[0][inner], heard[inner])


def test_span_means_are_means_and_an_empty_span_gives_zeros() -> None:
    frames = torch.arange(12.0).reshape(2, 3, 2)
    means = span_means(frames, torch.tensor([[1, 3], [2, 2]]))
    assert means.tolist() == [[3.0, 4.0], [0.0, 0.0]]
    assert whole(torch.tensor([3, 1])).tolist() == [[0, 3], [0, 1]]


def test_a_window_lies_inside_its_span_and_short_spans_stay() -> None:
    torch.manual_seed(0)
    spans = torch.tensor([[10, 100], [5, 20]]).repeat(200, 1)
    cut = _window(spans)
    long, short = cut[::2], cut[1::2]
    assert short.eq(torch.tensor([5, 20])).all()
    sizes = long[:, 1] - long[:, 0]
    assert set(sizes.tolist()) == {25, 90}
    assert long[:, 0].min() == 10
    assert long[:, 1].max() == 100


def test_same_or_not_leaves_out_one_throat_of_two_speakers() -> None:
    firsts, seconds = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    line = torch.tensor([math.log(10.0), 0.5])
    # Speakers 0 and 1 speak with throats 0 and 1; the second row's second clip is speaker 2, of throat 0 again.
    speakers, throats = torch.tensor([0, 1, 0, 2]), torch.tensor([0, 1, 0, 0])
    by_hand = {(0, 0): (1.0, 1.0), (1, 0): (0.0, 0.0), (1, 1): (0.8, 0.0)}  # (first, second): cosine, same
    losses = {
        pair: F.binary_cross_entropy_with_logits(torch.tensor(10 * (cosine - 0.5)), torch.tensor(same))
        for pair, (cosine, same) in by_hand.items()
    }
    expected = (losses[0, 0] + losses[1, 1] + 0.5 * losses[1, 0]) / 2.5
    torch.testing.assert_close(_same([firsts, seconds], speakers, throats, line), expected)


def test_frames_of_the_second_clip_ask_whether_the_voice_is_still_the_first() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0, 3.0], [1.0, 5.0, 4.0, 0.5]])
    spans = torch.tensor([[[0, 1], [2, 4]], [[0, 1], [3, 4]]])
    told = _still(logits, spans, torch.tensor([0.0, 1.0]))
    wanted = [(2.0, 1.0, 0.3), (-1.0, 0.0, 1.0), (3.0, 0.0, 1.0), (1.0, 1.0, 0.3), (0.5, 1.0, 1.0)]
    by_hand = sum(w * math.log1p(math.exp(-x if y else x)) for x, y, w in wanted) / 3.6
    assert float(told) == pytest.approx(by_hand, rel=1e-5)


def test_the_total_is_the_weighted_sum_of_its_parts_and_every_weight_learns(student: VoiceStudent) -> None:
    config = VoiceLossConfig(speaker=0.5, manner=2.0)
    loss = VoiceLoss(TRUTHS, spec=student.encoder.feature_spec, config=config)
    out = loss(student, batch_of([120, 60, 33, 150]))
    assert out.weight == 2
    expected = sum(getattr(config, name) * value for name, (value, _) in out.parts.items())
    torch.testing.assert_close(out.total.detach(), torch.as_tensor(expected))
    assert set(out.parts) == {"speaker", "throat", "same", "manner", "alone", "still"}
    out.total.backward()
    assert not [name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_chance_comes_from_torchs_seed_alone(student: VoiceStudent) -> None:
    loss, batch = VoiceLoss(TRUTHS, spec=speaker_features(), config=VoiceLossConfig()), batch_of([80, 70, 60, 50])
    totals = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        totals.append(float(loss(student, batch).total.detach()))
    assert totals[0] == totals[1] != totals[2]
