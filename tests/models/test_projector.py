import json
from pathlib import Path

import pytest
import torch
from torch import nn

from sonant.audio.features import FeatureSpec
from sonant.errors import CheckpointError, ModelError
from sonant.models.adapters.base import build_adapter
from sonant.models.adapters.conv_transformer import ConvTransformerConfig
from sonant.models.adapters.ctc_pooling import CTCPoolingConfig
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.conv_transformer import ConvBlockConfig, ConvTrunkConfig
from sonant.models.encoders.base import EncoderConfig
from sonant.models.llm import LLMConfig, load_llm
from sonant.models.projector import Head, Projector, build_projector, load_projector
from tests.models.small_speech_lm import architecture
from tests.models.test_mapping_losses import SPEC, VOCABULARY, WIDTH, heard, table

BLOCK = ConvBlockConfig(num_layers=1, num_heads=4, ffn_dim=64, stride=1, kernel=3)
TRUNK = CTCPoolingConfig(trunk=ConvTrunkConfig(blocks=(BLOCK,), dropout=0.0))
TINY = EncoderConfig(kind="tiny", architecture={"dim": SPEC.dim, "num_layers": 1, "letter_layer": 1, "num_heads": 4})


def llm_folder(folder: Path, *, seed: int = 0, **changes: object) -> str:
    torch.manual_seed(seed)
    load_llm(LLMConfig(architecture=architecture(**changes))).save_pretrained(folder)
    return str(folder)


def test_it_is_built_of_tables_alone_and_no_llm_layer_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = llm_folder(tmp_path / "one"), llm_folder(tmp_path / "other", seed=1, hidden_size=32, vocab_size=40)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("an LLM was loaded")

    monkeypatch.setattr("sonant.models.build.load_llm", refuse)
    monkeypatch.setattr("sonant.models.llm.AutoModelForCausalLM.from_pretrained", refuse)
    config = SpeechLMConfig(encoders=(TINY,), adapter=TRUNK, llm=LLMConfig(path=one))
    projector = build_projector(config, spec=SPEC, others={"other": other})
    assert [projector.head(name).table.shape for name in ("llm", "other")] == [(VOCABULARY, WIDTH), (40, 32)]
    assert all("table" not in name for name in projector.state_dict())


def test_several_heads_share_one_trunk_and_a_batch_trains_its_own(tmp_path: Path) -> None:
    adapters = {n: build_adapter(TRUNK, in_dims=[SPEC.dim], out_dim=WIDTH, vocab_size=VOCABULARY) for n in "ab"}
    projector = Projector({name: Head(adapter, table()) for name, adapter in adapters.items()}, spec=SPEC)
    assert adapters["a"].trunk is adapters["b"].trunk  # type: ignore[attr-defined]
    batch = heard([([1, 2], 30)])
    for name in "ab":
        named = type(batch)(**{**vars(batch), "tasks": (name,)})
        assert projector.head_for(named) is projector.head(name)
    projector.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "b.safetensors"}


def test_heads_without_a_trunk_have_nothing_to_share() -> None:
    heads = {
        n: Head(build_adapter(CTCPoolingConfig(), in_dims=[SPEC.dim], out_dim=WIDTH, vocab_size=VOCABULARY), table())
        for n in "ab"
    }
    with pytest.raises(ModelError, match="has no trunk to share"):
        Projector(heads, spec=SPEC)


def test_what_is_saved_says_the_same_inside_the_whole_model(tmp_path: Path) -> None:
    config = SpeechLMConfig(encoders=(TINY,), adapter=TRUNK, llm=LLMConfig(path=llm_folder(tmp_path / "llm")))
    torch.manual_seed(1)
    projector = build_projector(config, spec=SPEC, others={}).eval()
    projector.save(tmp_path / "projector")
    model = build_speech_lm(config)
    load_projector(model, tmp_path / "projector")
    frames, lengths = torch.randn(2, 30, SPEC.dim), torch.tensor([30, 17])
    alone, inside = projector.head("llm").adapter(frames, lengths), model.adapter(frames, lengths)
    assert torch.equal(alone[0], inside[0])
    assert torch.equal(alone[1], inside[1])
    with pytest.raises(CheckpointError, match=r"other\.safetensors"):
        load_projector(model, tmp_path / "projector", name="other")


def test_an_output_of_embeddings_is_read_as_its_own_tokens_up_to_the_first_pad() -> None:
    config = ConvTransformerConfig(blocks=(BLOCK,), dropout=0.0)
    head = Head(build_adapter(config, in_dims=[SPEC.dim], out_dim=WIDTH), table())
    rows = torch.stack([table()[4], 0.5 * table()[9], head.pad, table()[2]])
    head.adapter.forward = lambda frames, lengths: (rows[None], torch.tensor([4]))  # type: ignore[method-assign]
    (found,) = head.read(torch.zeros(1, 8, SPEC.dim), torch.tensor([8]), torch.tensor([[4, 9, 7]]), torch.tensor([3]))
    assert (found.said, found.token_ids) == ((4, 9, 7), (4, 9))
    assert found.cosines == pytest.approx((1, 1))
    assert found.norm_ratios == pytest.approx((1, 0.5))  # what a cosine does not see


def test_an_encoders_own_ctc_head_can_be_borrowed(tmp_path: Path) -> None:
    config = SpeechLMConfig(
        encoders=(TINY,), adapter=CTCPoolingConfig(), llm=LLMConfig(path=llm_folder(tmp_path / "llm"))
    )
    projector = build_projector(config, spec=SPEC, others={})
    encoder = nn.Module()
    encoder.ctc_head = nn.Linear(SPEC.dim, VOCABULARY + 1)
    projector.borrow_ctc_head(encoder)  # type: ignore[arg-type]
    assert torch.equal(projector.head("llm").adapter.ctc_head.weight, encoder.ctc_head.weight)  # type: ignore
    with pytest.raises(ModelError, match="no CTC head of this projector's size"):
        projector.borrow_ctc_head(nn.Module())  # type: ignore[arg-type]


def test_without_weights_of_the_llm_there_is_no_table() -> None:
    config = SpeechLMConfig(encoders=(TINY,), adapter=TRUNK, llm=LLMConfig(architecture=architecture()))
    with pytest.raises(ModelError, match="no embedding table; give its path"):
        build_projector(config, spec=FeatureSpec.encoded("ear", 32, 25.0), others={})


def test_the_index_of_shards_is_all_that_is_read_of_a_large_llm(tmp_path: Path) -> None:
    """Only the table's shard is opened: the others do not even exist."""
    folder = Path(llm_folder(tmp_path / "llm"))
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    name = "model.embed_tokens.weight"
    save_file({name: tensors[name]}, folder / "one.safetensors")
    places = {key: "one.safetensors" if key == name else "gone.safetensors" for key in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    config = SpeechLMConfig(encoders=(TINY,), adapter=TRUNK, llm=LLMConfig(path=str(folder)))
    assert torch.equal(build_projector(config, spec=SPEC, others={}).head("llm").table, tensors[name])
