"""A stranger's model folder: what would run code is refused or never looked at, whatever loads the folder."""

import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
from serving import scripted_service
from starlette.testclient import TestClient

from sonant.chat.messages import Conversation, user
from sonant.errors import SonantError
from sonant.generate.assistant import Assistant
from sonant.generate.sampling import GenerationConfig
from sonant.serve.app import create_app


class Bomb:
    """Its unpickling leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def folder(cascade_folder: Path, tmp_path: Path) -> Path:
    """A copy of a good model's folder, to be spoilt."""
    return Path(shutil.copytree(cascade_folder, tmp_path / "model"))


def loads(folder: Path) -> bool:
    """Whether the folder loads and answers, or is refused in our own words."""
    try:
        assistant = Assistant.from_folder(folder)
        assistant.reply(Conversation((user("hi"),)), config=GenerationConfig(max_new_tokens=1))
    except SonantError:
        return False
    return True


def plant(folder: Path, ran: Path) -> None:
    for name in ("tokenization_evil", "configuration_evil", "modeling_evil", "processing_evil", "conftest", "av"):
        (folder / f"{name}.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Evil: pass\n")


CODE_IN = {
    "tokenizer_config.json": {"AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]},
    "config.json": {"AutoConfig": "configuration_evil.Evil", "AutoModel": "modeling_evil.Evil"},
    "processor_config.json": {"AutoProcessor": "processing_evil.Evil"},
    "preprocessor_config.json": {"AutoFeatureExtractor": "processing_evil.Evil"},
    "generation_config.json": {"AutoConfig": "configuration_evil.Evil"},
}


@pytest.mark.parametrize("name", CODE_IN)
def test_code_that_a_model_brings_is_never_run(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    plant(folder, ran)
    places = {folder / name, *(path.parent / name for path in folder.rglob("*.json"))}
    for path in places:
        values = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**values, "auto_map": CODE_IN[name], "trust_remote_code": True}))
    monkeypatch.chdir(folder)  # `cd` into the model and `sonant serve .`
    loads(folder)
    assert not ran.exists()


PICKLES = (
    "pytorch_model.bin",
    "model.pt",
    "model.ckpt",
    "training_args.bin",
    "rng_state.pth",
    "optimizer.pkl",
    ".metadata",
)


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_in_a_model_is_never_opened(folder: Path, tmp_path: Path, name: str) -> None:
    ran = tmp_path / "ran"
    for place in {folder, *(path.parent for path in folder.rglob("*"))}:
        (place / name).write_bytes(pickle.dumps(Bomb(ran)))
    loads(folder)
    assert not ran.exists()


def test_a_pickle_in_the_place_of_the_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for path in folder.rglob("*.safetensors"):
        path.write_bytes(pickle.dumps(Bomb(ran)))
    assert not loads(folder)
    assert not ran.exists()


def test_a_template_that_reaches_for_python_is_stopped(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    evil = (
        "{% for c in ''.__class__.__mro__[1].__subclasses__() %}{% if c.__name__ == 'Popen' %}"
        f"{{{{ c(['touch', '{ran}']) }}}}{{% endif %}}{{% endfor %}}"
    )
    original = next(folder.rglob("chat_template.jinja"), None)
    if original is not None:
        original.write_text(evil + original.read_text())
    else:
        path = folder / "tokenizer_config.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "chat_template": evil + values["chat_template"]}))
    assert not loads(folder)
    assert not ran.exists()


def test_loading_and_answering_unpickle_nothing(folder: Path) -> None:
    seen: list[str] = []
    watching = [True]
    sys.addaudithook(lambda event, _: seen.append(event) if watching[0] and event == "pickle.find_class" else None)
    assert loads(folder)
    with TestClient(create_app(scripted_service()), base_url="http://localhost") as client:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    watching[0] = False
    assert not seen
