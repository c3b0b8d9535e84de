"""What the C library does with memory that tensors give back, on Linux with glibc, and what oneDNN keeps beside them.

By default the C library hands blocks of more than a few megabytes back to the kernel, which fills them with zeros, page
by page, when the next step asks for them again: 5 % of the CPU time of a small model's step. Kept, they leave gaps, as
no two steps are of the same sizes, and gaps add up to a fifth of what a process holds. So it keeps what it gets back,
and gives all of it back every few steps. oneDNN keeps a thousand kernels, as much again; those of a step are sixty.
"""

import ctypes
import functools
import os
import sys
from typing import Any

EVERY_STEPS = 6
_KERNELS = 64
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_MOST = 2**31 - 1
_LARGEST = 32 << 20  # glibc takes no larger threshold; larger blocks come from the kernel and go back to it


def keep_few_kernels() -> None:
    """Has oneDNN keep few kernels, unless the environment says how many; it asks once, before the first it makes."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS))


def keep_freed_memory() -> bool:
    """Makes this process keep what it frees, to use it again; returns whether the C library can be told to."""
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return False
    mallopt(_M_ARENA_MAX, 1)  # what one thread frees serves the others
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST) and mallopt(_M_TRIM_THRESHOLD, _MOST))


def give_back(step: int) -> None:
    """Gives back what is kept and free, at every `EVERY_STEPS`th step: call it when gradients are gone."""
    if step % EVERY_STEPS == 0 and (trim := _of_glibc("malloc_trim")) is not None:
        trim(0)


@functools.cache
def _of_glibc(name: str) -> Any:
    """A function of the C library; None where it has none of that name, or is another."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
