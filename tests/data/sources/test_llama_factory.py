import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sonant.data.sources import llama_factory
from sonant.data.sources.base import AudioStore
from sonant.errors import ManifestError

SHAREGPT = [
    {
        "conversations": [{"from": "human", "value": "<audio>What?"}, {"from": "gpt", "value": "That."}],
        "audios": ["clips/a.wav"],
        "system": "Be short.",
    },
    {"conversations": [{"from": "human", "value": "<audio>"}], "audios": []},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "b"}]},
]
OPENAI = [{"messages": [{"role": "user", "content": "<audio>"}], "audios": ["clips/a.wav"], "label": 1}]
ALPACA = [
    {"instruction": "<audio>", "input": "What?", "output": "That.", "history": [["a", "b"]], "audios": ["clips/a.wav"]},
    {"instruction": "a", "chosen": "b", "rejected": "c"},
]
OWN = [{"talk": [{"who": "me", "what": "<audio>"}, {"who": "you", "what": "hm"}], "sounds": ["clips/a.wav"]}]
INFO = {
    "calls": {"file_name": "sharegpt.json", "formatting": "sharegpt", "columns": {"audios": "audios"}},
    "own": {
        "file_name": "own.json",
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "audios": "sounds"},
        "tags": {"role_tag": "who", "content_tag": "what", "user_tag": "me", "assistant_tag": "you"},
    },
    "far": {"hf_hub_url": "somebody/something"},
}


@pytest.fixture
def folder(tmp_path: Path, tone: Callable[..., Path]) -> Path:
    tone(tmp_path / "data" / "clips" / "a.wav")
    for name, rows in {"sharegpt": SHAREGPT, "openai": OPENAI, "alpaca": ALPACA, "own": OWN}.items():
        (tmp_path / "data" / f"{name}.json").write_text(json.dumps(rows))
    return tmp_path / "data"


def spoken(row: Any) -> list[tuple[str, str]]:
    return [(m.role, "".join(getattr(part, "text", "|") for part in m.parts)) for m in row.messages]


def test_files_without_a_description_are_read_by_their_usual_columns(
    folder: Path, imported: Callable[..., Any]
) -> None:
    found = imported("llama-factory", folder / "sharegpt.json")
    assert [spoken(row) for row in found.rows] == [
        [("system", "Be short."), ("user", "|What?"), ("assistant", "That.")]
    ]
    assert found.reasons == [
        ("sharegpt.json[1]", "1 <audio> tags for 0 audio"),
        ("sharegpt.json[2]", "role 'function_call'"),
    ]
    (row,) = imported("llama-factory", folder / "openai.json").rows
    assert (spoken(row), row.extra, row.id) == ([("user", "|")], {"label": 1}, "openai-0")
    found = imported("llama-factory", folder / "alpaca.json")
    expected = [("user", "a"), ("assistant", "b"), ("user", "|\nWhat?"), ("assistant", "That.")]
    assert [spoken(row) for row in found.rows] == [expected]
    assert found.reasons == [("alpaca.json[1]", "a preference pair")]


def test_a_description_names_columns_and_roles(folder: Path, imported: Callable[..., Any]) -> None:
    (folder / "dataset_info.json").write_text(json.dumps(INFO))
    expected = [("user", "|"), ("assistant", "hm")]
    assert spoken(imported("llama-factory", folder / "own.json").rows[0]) == expected
    assert spoken(imported("llama-factory", folder, options={"name": "own"}).rows[0]) == expected
    empty = {"calls": {**INFO["calls"], "file_name": None, "columns": None, "tags": None}}
    (folder / "dataset_info.json").write_text(json.dumps(empty))  # a traceback once; a null is a key left out
    assert len(imported("llama-factory", folder / "sharegpt.json").rows) == 1
    ranked = {"calls": {**INFO["calls"], "ranking": True}}
    (folder / "dataset_info.json").write_text(json.dumps(ranked))
    with pytest.raises(ManifestError, match=r"of 3 rows read, none can be kept.*a preference pair"):
        imported("llama-factory", folder)


@pytest.mark.parametrize(
    ("info", "fault"),
    [
        ([], "not an object is a list"),
        ({"a": {"file_name": 5}}, "file_name is not text 5"),
        ({"a": {"file_name": "own.json", "columns": ["messages"]}}, r"columns is not an object \['messages'\]"),
    ],
)
def test_a_description_that_is_none_is_named(folder: Path, tmp_path: Path, info: object, fault: str) -> None:
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ManifestError, match=rf"dataset_info\.json: {fault}; copy or write it again"):
        list(llama_factory.read(folder, store=AudioStore(tmp_path / "store")))


def test_a_data_set_must_be_chosen_and_be_there(folder: Path, tmp_path: Path) -> None:
    store = AudioStore(tmp_path / "store")
    with pytest.raises(ManifestError, match=r"dataset_info\.json: does not exist; expected is a data file of LLaMA"):
        list(llama_factory.read(folder, store=store))
    (folder / "dataset_info.json").write_text(json.dumps(INFO))
    with pytest.raises(ManifestError, match="2 data sets fit; choose one of calls, own by -o name=NAME"):
        list(llama_factory.read(folder, store=store))
    with pytest.raises(ManifestError, match="0 data sets fit"):
        list(llama_factory.read(folder, store=store, name="far"))
