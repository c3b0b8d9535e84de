from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import OwnDecoder, Scripted, scripted_service, serving
from starlette.testclient import TestClient

from sonant.generate.assistant import Assistant
from sonant.serve.answering.answerer import Answerer
from sonant.serve.app import create_app
from sonant.serve.service import Service
from sonant.serve.settings import ServeConfig
from sonant.testing import save_cascade


@pytest.fixture(scope="session")
def cascade_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that answers spoken questions of the tiny world, untrained."""
    return save_cascade(tmp_path_factory.mktemp("serve") / "cascade")


@pytest.fixture(scope="session")
def cascade(cascade_folder: Path) -> Assistant:
    """That model, loaded."""
    return Assistant.from_folder(cascade_folder)


@pytest.fixture
def service(cascade: Assistant) -> Service:
    """A server's insides around that model."""
    return Service(
        answerer=Answerer(cascade, max_rows=4, max_waiting=16),
        decoder=OwnDecoder(),  # type: ignore[arg-type]
        settings=ServeConfig(),
        model_name="cascade",
        has_voice=False,
    )


@pytest.fixture
def scripted() -> Scripted:
    """An answerer that says "an answer", or what its `told` is set to."""
    return Scripted()


@pytest.fixture
def client(scripted: Scripted) -> Iterator[TestClient]:
    """A client of a server without a network, whose answers are `scripted`."""
    with TestClient(create_app(scripted_service(scripted)), base_url="http://localhost") as client:
        yield client


@pytest.fixture
def speaking_client(scripted: Scripted) -> Iterator[TestClient]:
    """The same, of a model with a voice."""
    app = create_app(scripted_service(scripted, has_voice=True))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.fixture
def url(scripted: Scripted) -> Iterator[str]:
    """The address of a real server on loopback, of a model with a voice, whose answers are `scripted`."""
    with serving(scripted_service(scripted, has_voice=True)) as url:
        yield url
