"""The voice vector: a part is a part of the clip, cosines are cosines, nothing is said at first."""

import math

import torch
from small_adapters import build
from torch import Tensor, nn

from sonant.models.adapters.base import build_adapter
from sonant.models.adapters.ctc_pooling import CTCPoolingAdapter, CTCPoolingConfig
from sonant.models.adapters.voice import VoiceVector


def by_hand(voice: VoiceVector, clip: Tensor, num_tokens: int) -> Tensor:
    """The vector (D,) of one clip (T, dim), part by part."""
    size = len(clip)
    parts = [[t for t in range(size) if t * voice.num_parts // size == part] for part in range(voice.num_parts)]
    means = [clip[part].mean(0) for part in parts]
    pairs = [(i, j) for i in range(voice.num_parts) for j in range(i + 1, voice.num_parts)]
    cosines = torch.stack([torch.cosine_similarity(means[i], means[j], dim=0) for i, j in pairs])
    tempo = torch.tensor([math.log(size / num_tokens)])
    return voice.mlp(torch.cat([voice.norm(clip.mean(0)), cosines, tempo]))


def test_the_voice_vector_is_what_it_is_by_hand_in_any_company() -> None:
    torch.manual_seed(0)
    voice = VoiceVector(dim=5, out_dim=4, num_parts=3)
    nn.init.normal_(voice.mlp[-1].weight)
    frames, lengths = torch.randn(3, 11, 5), torch.tensor([11, 7, 3])
    counts = torch.tensor([4, 7, 1])
    vectors = voice(frames, lengths, counts)
    for row, (length, count) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
        torch.testing.assert_close(vectors[row, 0], by_hand(voice, frames[row, :length], count))


def test_a_clip_of_fewer_frames_than_parts_still_has_a_vector() -> None:
    voice = VoiceVector(dim=5, out_dim=4, num_parts=4)
    assert torch.isfinite(voice(torch.randn(2, 3, 5), torch.tensor([2, 0]), torch.tensor([1, 1]))).all()


def test_the_voice_comes_before_the_tokens() -> None:
    torch.manual_seed(0)
    plain = build(CTCPoolingConfig(vocab_size=3))
    torch.manual_seed(0)
    adapter = build(CTCPoolingConfig(vocab_size=3, voice_parts=2))
    adapter.load_state_dict(plain.state_dict(), strict=False)
    adapter.table = plain.table
    frames, lengths = torch.randn(2, 9, 8), torch.tensor([9, 4])
    vectors, sizes = adapter(frames, lengths)
    expected, expected_sizes = plain(frames, lengths)
    assert torch.equal(sizes, expected_sizes + 1)
    assert torch.equal(adapter.output_lengths(lengths), plain.output_lengths(lengths) + 1)
    torch.testing.assert_close(vectors[:, 1:], expected)


def test_at_first_the_voice_says_nothing() -> None:
    voice = VoiceVector(dim=5, out_dim=4, num_parts=4)
    assert not voice(torch.randn(2, 9, 5), torch.tensor([9, 4]), torch.tensor([2, 2])).any()


def test_the_voice_is_heard_by_the_last_encoder() -> None:
    torch.manual_seed(0)
    adapter = build_adapter(
        CTCPoolingConfig(vocab_size=3, voice_parts=2, soft_embedding=False), in_dims=[4, 2], out_dim=6
    )
    assert isinstance(adapter, CTCPoolingAdapter)
    assert adapter.voice is not None
    nn.init.normal_(adapter.voice.mlp[-1].weight)
    nn.init.zeros_(adapter.ctc_head.weight)  # hears as many tokens in anything: the tempo is the first encoder's
    frames, lengths = torch.randn(1, 8, 6), torch.tensor([8])
    other = torch.cat([torch.randn(1, 8, 4), frames[..., 4:]], dim=-1)
    torch.testing.assert_close(adapter(frames, lengths)[0][:, 0], adapter(other, lengths)[0][:, 0])
