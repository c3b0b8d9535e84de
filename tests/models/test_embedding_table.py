"""The embedding table against the language model it belongs to."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from small_speech_lm import VOCABULARY, small_llm

from sonant.errors import ModelError
from sonant.models import embedding_table
from sonant.models.embedding_table import read_embedding_table
from sonant.models.llm import LLMConfig, load_llm, token_embeddings
from sonant.models.parts import quiet_transformers

EVERY_TOKEN = torch.arange(VOCABULARY)[None]


@pytest.fixture
def many_shards(tmp_path: Path) -> Path:
    """A folder of a shard a tensor or two."""
    with quiet_transformers():
        small_llm().save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 5
    return tmp_path


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "gemma2", "gemma3_text"])
def test_it_is_what_the_llm_reads_for_its_token_ids(family: str, tied: bool, tmp_path: Path) -> None:
    llm = small_llm(family, tie_word_embeddings=tied)
    with quiet_transformers():
        llm.save_pretrained(tmp_path)
    torch.testing.assert_close(read_embedding_table(str(tmp_path)), token_embeddings(llm, EVERY_TOKEN)[0])


def test_the_shipped_llm_has_one() -> None:
    llm = load_llm(LLMConfig(path="tiny/llm"))
    assert torch.equal(read_embedding_table("tiny/llm"), llm.get_input_embeddings().weight)


def test_of_many_shards_no_other_tensor_is_touched(many_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other file is rubbish, and of its own file one tensor is asked for."""
    expected = token_embeddings(small_llm(), EVERY_TOKEN)[0]
    holder = json.loads((many_shards / "model.safetensors.index.json").read_text())["weight_map"]
    for shard in many_shards.glob("*.safetensors"):
        if shard.name != holder["model.embed_tokens.weight"]:
            shard.write_bytes(b"rubbish")
    touched = count_reads(monkeypatch)
    assert torch.equal(read_embedding_table(str(many_shards)), expected)
    assert touched == [(holder["model.embed_tokens.weight"], "model.embed_tokens.weight")]


def test_of_one_whole_file_no_other_tensor_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with quiet_transformers():
        small_llm().save_pretrained(tmp_path)
    touched = count_reads(monkeypatch)
    read_embedding_table(str(tmp_path))
    assert touched == [("model.safetensors", "model.embed_tokens.weight")]


def test_of_a_hub_id_one_shard_is_fetched(many_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def download(repository: str, name: str) -> str:
        fetched.append(name)
        if not (many_shards / name).is_file():
            raise LocalEntryNotFoundError(f"{repository} has no {name}")
        return str(many_shards / name)

    monkeypatch.setattr(embedding_table, "read_part_config", lambda path: {"model_type": "llama"})
    monkeypatch.setattr(embedding_table.huggingface_hub, "hf_hub_download", download)
    expected = read_embedding_table(str(many_shards))
    assert torch.equal(read_embedding_table("owner/llm"), expected)
    assert [name for name in fetched if name.endswith(".safetensors")] == fetched[1:]
    assert len(fetched) == 2
    (many_shards / "model.safetensors.index.json").unlink()
    with pytest.raises(ModelError, match=r"neither model\.safetensors\.index\.json nor model\.safetensors"):
        read_embedding_table("owner/llm")


def test_a_tied_table_may_be_stored_as_the_head(tmp_path: Path) -> None:
    llm = small_llm(tie_word_embeddings=True)
    with quiet_transformers():
        llm.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(read_embedding_table(str(tmp_path)), llm.get_input_embeddings().weight)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(ModelError, match=r"no embedding table; looked for \*embed_tokens\.weight, \*wte\.weight"):
        read_embedding_table(str(tmp_path))


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    llm = small_llm().to(torch.bfloat16)
    with quiet_transformers():
        llm.save_pretrained(tmp_path)
    table = read_embedding_table(str(tmp_path))
    assert table.dtype == torch.float32
    assert torch.equal(table, llm.get_input_embeddings().weight.float())


def test_what_cannot_be_read_is_named(many_shards: Path) -> None:
    config = json.loads((many_shards / "config.json").read_text())
    shutil.copy(many_shards / "model.safetensors.index.json", many_shards / "index.json")
    for shard in many_shards.glob("*.safetensors"):
        shard.write_bytes(b"rubbish")
    with pytest.raises(ModelError, match=r"cannot read 'model\.embed_tokens\.weight'.*fetch the file again"):
        read_embedding_table(str(many_shards))
    (many_shards / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match=r"index\.json cannot be read"):
        read_embedding_table(str(many_shards))
    (many_shards / "model.safetensors.index.json").unlink()
    with pytest.raises(ModelError, match="has neither"):
        read_embedding_table(str(many_shards))
    (many_shards / "config.json").write_text(json.dumps(config | {"model_type": "xglm"}))
    with pytest.raises(ModelError, match="how xglm scales its embeddings"):
        read_embedding_table(str(many_shards))


def test_two_tables_in_one_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    tables = {f"{part}.embed_tokens.weight": torch.zeros(2, 2) for part in ("text", "speech")}
    save_file(tables, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"several tensors.*speech\.embed_tokens\.weight, text\.embed_tokens\.weight"):
        read_embedding_table(str(tmp_path))


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Returns a list to which every read of a tensor adds (file, name)."""
    touched: list[tuple[str, str]] = []
    open_file = embedding_table.safe_open

    class Watched:
        def __init__(self, path: str, **options: Any) -> None:
            self.path, self.file = Path(path), open_file(path, **options)

        def __enter__(self) -> Any:
            self.file.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.file.__exit__(*error)

        def keys(self) -> Any:
            return self.file.keys()

        def get_tensor(self, name: str) -> Any:
            touched.append((self.path.name, name))
            return self.file.get_tensor(name)

    monkeypatch.setattr(embedding_table, "safe_open", Watched)
    return touched
