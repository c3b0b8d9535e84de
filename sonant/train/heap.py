"""What the C library does with memory that tensors give back, on Linux with glibc.

By default it hands blocks of more than a few megabytes back to the kernel, which fills them with zeros, page by page,
when the next step asks for them again: 5 % of the CPU time of a small model's step.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_MOST = 2**31 - 1
_LARGEST = 32 << 20  # glibc takes no larger threshold; larger blocks come from the kernel and go back to it


def keep_freed_memory() -> bool:
    """Makes this process keep what it frees, to use it again; returns whether the C library can be told to."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another system, or another C library
        return False
    mallopt(_M_ARENA_MAX, 1)  # what one thread frees serves the others
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST) and mallopt(_M_TRIM_THRESHOLD, _MOST))
