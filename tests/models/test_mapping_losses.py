from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonant.audio.features import FeatureSpec
from sonant.batch import Batch
from sonant.errors import ModelError, TrainingError
from sonant.models.adapters.base import AdapterConfig, build_adapter
from sonant.models.adapters.conv_transformer import ConvTransformerConfig
from sonant.models.adapters.ctc_pooling import CTCPoolingConfig
from sonant.models.alignment import forced_alignment
from sonant.models.conv_transformer import ConvBlockConfig
from sonant.models.embedding_table import pad_vector
from sonant.models.mapping_losses import (
    AlignedMappingConfig,
    LeftJustified,
    MappingLoss,
    PublishedMappingConfig,
    left_justified,
)
from sonant.models.projector import Head, Projector
from tests.models.small_speech_lm import SPEC as MELS
from tests.models.small_speech_lm import make_batch

SPEC = FeatureSpec.encoded("ear", 32, 25.0)
VOCABULARY, WIDTH = 50, 64
PUBLISHED = ConvTransformerConfig(
    blocks=(
        ConvBlockConfig(num_layers=1, num_heads=4, ffn_dim=64, out_dim=64),
        ConvBlockConfig(num_layers=1, num_heads=4, ffn_dim=64, out_dim=64),
    ),
    dropout=0.0,
)
POOLING = CTCPoolingConfig()


def table() -> Tensor:
    return 0.05 + 0.1 * torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(7))


def projector(config: AdapterConfig = POOLING, *, heads: int = 1) -> Projector:
    torch.manual_seed(0)
    names = ("llm", "other", "third")[:heads]
    adapters = [build_adapter(config, in_dims=[SPEC.dim], out_dim=WIDTH, vocab_size=VOCABULARY) for _ in names]
    return Projector({n: Head(a, table()) for n, a in zip(names, adapters, strict=True)}, spec=SPEC).eval()


def heard(clips: list[tuple[list[int], int]], *, seed: int = 0) -> Batch:
    """A batch of clips given as (what is said, number of frames); the same clip is the same in any batch."""
    batch = make_batch([(4, [(2, frames)]) for _, frames in clips])
    frames = [torch.randn(n, SPEC.dim, generator=torch.Generator().manual_seed(seed + n)) for _, n in clips]
    return replace(
        batch,
        features={SPEC: nn.utils.rnn.pad_sequence(frames, batch_first=True)},
        feature_lengths={SPEC: batch.feature_lengths[MELS]},
        transcript_ids=nn.utils.rnn.pad_sequence([torch.tensor(said).long() for said, _ in clips], batch_first=True),
        transcript_lengths=torch.tensor([len(said) for said, _ in clips]),
    )


CLIPS = heard([([3, 4, 4, 9], 40), ([7], 21), ([5, 6], 64)])


def slots(counts: list[int], lengths: list[int]) -> LeftJustified:
    ids = torch.arange(1, 1 + max(counts)).expand(len(counts), -1)
    return left_justified(ids, torch.tensor(counts), torch.tensor(lengths), table=table(), pad=pad_vector(table()))


def test_target_rows_are_the_tokens_embeddings_then_the_pad() -> None:
    found = slots([2, 3], [6, 4])
    assert torch.equal(found.targets[0, :2], table()[1:3])
    assert torch.equal(found.targets[0, 2:], pad_vector(table()).expand(4, -1))
    assert torch.equal(found.targets[1, :4], torch.cat([table()[1:4], pad_vector(table())[None]]))
    assert not found.targets[1, 4:].any()
    assert found.is_word.tolist() == [[True] * 3 + [False] * 3, [True] * 4 + [False] * 2]
    assert found.is_pad.tolist() == [[False] * 3 + [True] * 3, [False] * 6]


def test_the_pad_is_well_apart_from_every_token() -> None:
    pad, rows = pad_vector(table()), table()
    apart = torch.cosine_similarity(rows, pad[None])
    among = torch.cosine_similarity(rows[:, None], rows[None], dim=-1).fill_diagonal_(-1).amax(1)
    assert bool((apart < 0).all())
    assert float(apart.max()) < float(among.min())
    assert float(pad.norm()) == pytest.approx(float(rows.norm(dim=1).mean()), rel=1e-5)
    assert torch.equal(pad_vector(rows, 4), rows[4])


def test_a_text_that_leaves_no_slot_for_a_pad_is_refused_never_cut() -> None:
    slots([3], [4])
    with pytest.raises(ModelError, match="4 tokens and a pad do not fit into 4 vectors"):
        slots([3, 4], [4, 4])


class Says(nn.Module):
    """An adapter that says what it is told to."""

    in_dim, out_dim = SPEC.dim, WIDTH

    def __init__(self, vectors: Tensor, lengths: Tensor) -> None:
        super().__init__()
        self.vectors, self.lengths = nn.Parameter(vectors), lengths

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return self.lengths[:1]

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.vectors, self.lengths


def published_terms(change: dict[int, float], *, length: int = 8) -> dict[str, float]:
    """The terms of one clip of two tokens, whose targets are met but in the slots of `change`, off by so much."""
    targets = slots([2], [length]).targets.clone()
    for slot, error in change.items():
        targets[0, slot] += error
    said = Projector({"llm": Head(Says(targets, torch.tensor([length])), table())}, spec=SPEC)
    out = MappingLoss(PublishedMappingConfig())(said, heard([([1, 2], length)]))
    return {name: float(total) for name, (total, _) in out.parts.items()} | {"loss": float(out.total.detach())}


def test_when_the_prediction_is_the_target_the_loss_is_minus_gamma() -> None:
    found = published_terms({})
    assert found == pytest.approx({"word": 0, "pad": 0, "cosine": 1, "loss": -100}, abs=1e-4)


def test_the_first_pad_counts_as_a_word_and_the_next_as_a_pad() -> None:
    first, second = published_terms({2: 0.3}), published_terms({3: 0.3})
    assert first["word"] == pytest.approx(0.3**2 / 3, rel=1e-4)
    assert first["pad"] == pytest.approx(0, abs=1e-9)
    assert second["word"] == pytest.approx(0, abs=1e-9)
    assert second["pad"] == pytest.approx(0.3**2 / 5, rel=1e-4)
    assert second["loss"] == pytest.approx(-100 + 5 * second["pad"], rel=1e-5)


def test_twice_as_many_pads_change_nothing_at_equal_errors() -> None:
    few = published_terms(dict.fromkeys(range(3, 8), 0.2))
    many = published_terms(dict.fromkeys(range(3, 13), 0.2), length=13)
    assert few["loss"] == pytest.approx(many["loss"], rel=1e-6)


def test_in_the_tables_scale_doubling_table_and_output_changes_nothing() -> None:
    mse = {}
    for scale in (1.0, 2.0):
        targets = scale * slots([2], [5]).targets + scale * 0.1
        head = Head(Says(targets, torch.tensor([5])), scale * table())
        loss = MappingLoss(PublishedMappingConfig(divide_by_rms=True, gamma=0))
        mse[scale] = float(loss(Projector({"llm": head}, spec=SPEC), heard([([1, 2], 5)])).total.detach())
    assert mse[1.0] == pytest.approx(mse[2.0], rel=1e-4)
    assert mse[1.0] == pytest.approx(10 * 0.1**2 / float(table().square().mean()), rel=1e-4)


CASES: list[tuple[AdapterConfig, PublishedMappingConfig | AlignedMappingConfig]] = [
    (PUBLISHED, PublishedMappingConfig()),
    (POOLING, AlignedMappingConfig(negatives=None)),
]


@pytest.mark.parametrize(("adapter", "loss"), CASES)
def test_the_loss_of_a_batch_is_the_sum_over_its_clips(adapter: AdapterConfig, loss: Any) -> None:
    model = projector(adapter)
    batch = heard([([3, 4, 4, 9], 40), ([7], 21), ([5, 6], 64)])
    alone = [heard([([3, 4, 4, 9], 40)]), heard([([7], 21)]), heard([([5, 6], 64)])]
    whole, parts = MappingLoss(loss)(model, batch), [MappingLoss(loss)(model, each) for each in alone]
    assert float(whole.total.detach()) == pytest.approx(sum(float(part.total.detach()) for part in parts), rel=1e-4)
    assert whole.weight == sum(part.weight for part in parts)


@pytest.mark.parametrize(("adapter", "loss"), CASES)
def test_gradients_reach_the_projector_and_never_the_table(adapter: AdapterConfig, loss: Any) -> None:
    model = projector(adapter)
    for parameter in model.parameters():  # the last layer of a pooling adapter starts as zeros: nothing passes it
        nn.init.normal_(parameter, std=0.1)
    MappingLoss(loss)(model, CLIPS).total.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    assert not any(name.endswith("table") for name, _ in model.named_parameters())
    assert not any(buffer.requires_grad for buffer in model.buffers())
    assert not any("table" in name for name in model.state_dict())


@pytest.mark.parametrize(("adapter", "loss"), CASES)
def test_clips_whose_text_does_not_fit_are_named_and_can_be_left_out_before(adapter: AdapterConfig, loss: Any) -> None:
    model, wanted = projector(adapter), MappingLoss(loss)
    fits = 64 if loss.kind == "published" else 16
    said = list(range(1, fits // 4)) if loss.kind == "published" else [1, 2] * 4 + [3] * 4
    assert wanted.misfit(model.head("llm"), said, fits) == ""
    assert "needs" in wanted.misfit(model.head("llm"), [*said, 5, 5], fits)
    with pytest.raises(TrainingError, match="1 of 2 clips do not fit: 'row 1' needs"):
        wanted(model, heard([([1], 64), ([*said, 5, 5], fits)]))


def test_a_clip_without_a_transcript_counts_nothing() -> None:
    model, loss = projector(), MappingLoss(AlignedMappingConfig(negatives=None))
    one, both = heard([([7], 21)]), heard([([7], 21), ([], 30)])
    assert float(loss(model, one).total.detach()) == pytest.approx(float(loss(model, both).total.detach()), rel=1e-5)
    nothing = loss(model, heard([([], 30)]))
    nothing.total.backward()
    assert (float(nothing.total.detach()), nothing.weight) == (0.0, 0.0)


@pytest.mark.parametrize("left", ["l1", "cosine", "contrast"])
def test_every_term_can_be_left_out(left: str) -> None:
    out = MappingLoss(AlignedMappingConfig(**{left: 0}))(projector(), CLIPS)
    assert set(out.parts) == {"ctc", "l1", "cosine", "contrast"} - {left}


def test_aligned_terms_are_what_a_loop_over_tokens_finds() -> None:
    model, config = projector(), AlignedMappingConfig(negatives=None)
    head, said = model.head("llm"), [3, 4, 4, 9]
    out = MappingLoss(config)(model, heard([(said, 40)]))
    adapter: Any = head.adapter
    frames = heard([(said, 40)]).features[SPEC]
    log_probs = adapter.ctc_head(frames).log_softmax(-1).detach()
    ctc = F.ctc_loss(log_probs[0], torch.tensor(said), (40,), (4,), blank=VOCABULARY, reduction="sum")
    assert float(out.parts["ctc"][0]) == pytest.approx(float(ctc), rel=1e-5)

    own = forced_alignment(log_probs, torch.tensor([40]), torch.tensor([said]), torch.tensor([4]))[0]
    rows, centre, rms = table(), table().mean(0), table().square().mean().sqrt()
    expected = {"l1": 0.0, "cosine": 0.0, "contrast": 0.0}
    for place, token in enumerate(said):
        chances = log_probs[0][own == place][:, :-1].softmax(-1)
        vector = (chances @ rows).mean(0)  # the MLP starts as zeros
        expected["l1"] += float((vector - rows[token]).abs().mean() / rms)
        expected["cosine"] += 1 - float(torch.cosine_similarity(vector - centre, rows[token] - centre, dim=0))
        logits = torch.cosine_similarity((vector - centre)[None], rows - centre) / config.temperature
        expected["contrast"] -= float(logits.log_softmax(0)[token])
    assert {name: float(out.parts[name][0]) for name in expected} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("head", ["linear", "distance"])
def test_told_apart_from_drawn_tokens_the_terms_are_those_of_all_if_all_are_drawn(
    head: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = projector(CTCPoolingConfig(head=head, posterior_temperature=0.5))
    every = MappingLoss(AlignedMappingConfig(negatives=None))(model, CLIPS)
    monkeypatch.setattr(torch, "randint", lambda high, size, device: torch.arange(high, device=device))
    drawn = MappingLoss(AlignedMappingConfig(negatives=VOCABULARY - 1))(model, CLIPS)
    assert {n: float(v.detach()) for n, (v, _) in drawn.parts.items()} == pytest.approx(
        {n: float(v.detach()) for n, (v, _) in every.parts.items()}, rel=1e-5
    )


def test_few_drawn_tokens_give_about_the_ctc_of_all() -> None:
    model = projector()  # its posteriors are nearly even, the hardest to draw from
    every = MappingLoss(AlignedMappingConfig(negatives=None))(model, CLIPS).parts["ctc"][0]
    torch.manual_seed(0)
    few = [MappingLoss(AlignedMappingConfig(negatives=20))(model, CLIPS).parts["ctc"][0] for _ in range(50)]
    assert float(torch.stack(few).mean()) == pytest.approx(float(every), rel=0.01)


def spelled(said: list[int], *, frames_each: int = 5) -> Tensor:
    """Frames that tell what is said, one code for each token, and a little noise."""
    codes = torch.randn(VOCABULARY, SPEC.dim, generator=torch.Generator().manual_seed(1))
    frames = codes[said].repeat_interleave(frames_each, dim=0)
    return frames + 0.1 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(len(said)))


def test_eight_clips_can_be_learned_by_heart() -> None:
    said = [[1 + i, 20 + i, 3 * i, 1 + i] for i in range(8)]
    frames = torch.stack([spelled(tokens) for tokens in said])
    clips = replace(heard([(tokens, 20) for tokens in said]), features={SPEC: frames})
    model = projector(CTCPoolingConfig(hidden_dim=64))
    loss, optimizer = MappingLoss(AlignedMappingConfig()), torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(40):
        optimizer.zero_grad()
        out = loss(model, clips)
        (out.total / out.weight).backward()
        optimizer.step()
    readings = model.read([clips])
    assert [list(reading.token_ids) for reading in readings] == said  # every token right, every count exact
    ratios = [ratio for reading in readings for ratio in reading.norm_ratios]
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.15)
