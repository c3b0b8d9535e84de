"""Memory that is done with goes back to the system: a server that is busy for hours holds what it held at first.

Two would keep it. Objects that refer to each other in a circle stay until Python looks for such; when it does, it
decides by their number, and the keys and values of a batch are a few objects of many megabytes. And glibc keeps what is
freed between things that stay.
"""

import asyncio
import ctypes
import gc
import sys
from typing import NoReturn

EVERY_S = 2.0  # a few milliseconds each time


def settle() -> None:
    """Leaves all that there is now, which is what was loaded, out of what is looked through for garbage."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Gives back what nobody can reach any more, and what was freed. Takes a second unless things have settled."""
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)  # glibc's: with the thread's lock on Python released


async def keep_giving_back() -> NoReturn:
    """Gives back every few seconds, beside whatever else happens, until it is cancelled."""
    while True:
        await asyncio.sleep(EVERY_S)
        await asyncio.to_thread(give_back)
