"""Memory that is done with goes back to the system: a server that is busy for hours holds what it held at first.

Two would keep it. Objects that refer to each other in a circle stay until Python looks for such; when it does, it
decides by their number, and the keys and values of a batch are a few objects of many megabytes. And glibc keeps what is
freed between things that stay.
"""

import asyncio
import ctypes
import gc
import sys
from collections.abc import Callable
from typing import NoReturn

EVERY_S = 2.0  # a few milliseconds each time
_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE = 1 << 17


def settle() -> None:
    """Leaves all that there is now, which is what was loaded, out of what is looked through for garbage.

    From now on large blocks come from the system, and go back as soon as they are freed; else glibc learns, from those
    that are freed, to cut ever larger ones out of its own memory, where the next that is larger still finds no room.
    """
    gc.collect()
    gc.freeze()
    if (mallopt := _of_glibc("mallopt")) is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Gives back what nobody can reach any more, and what was freed. Takes a second unless things have settled."""
    gc.collect()
    if (trim := _of_glibc("malloc_trim")) is not None:
        trim(0)  # with the thread's lock on Python released


def _of_glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


async def keep_giving_back() -> NoReturn:
    """Gives back every few seconds, beside whatever else happens, until it is cancelled."""
    while True:
        await asyncio.sleep(EVERY_S)
        await asyncio.to_thread(give_back)
