from collections.abc import Callable

import pytest
from scripted_session import Talk, counter, service_of

from sonant.serve.realtime.session import Session


@pytest.fixture
def begin() -> Callable[..., Talk]:
    """Begins a session: `begin(has_voice=True, max_messages=3)`."""
    return lambda **fields: Talk(Session(service_of(**fields), name=counter()))


@pytest.fixture
def talk(begin: Callable[..., Talk]) -> Talk:
    """A session with a model that writes; turns are the client's."""
    talk = begin()
    talk.set(audio={"input": {"turn_detection": None}})
    return talk


@pytest.fixture
def aloud(begin: Callable[..., Talk]) -> Talk:
    """A session with a model that speaks; turns are the client's."""
    talk = begin(has_voice=True)
    talk.set(audio={"input": {"turn_detection": None}})
    return talk
