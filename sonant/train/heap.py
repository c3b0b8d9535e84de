"""What the C library does with memory that tensors give back, on Linux with glibc.

By default it hands blocks of more than a few megabytes back to the kernel, which fills them with zeros, page by page,
when the next step asks for them again: 5 % of the CPU time of a small model's step.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_MOST = 2**31 - 1
_LARGEST = 32 << 20  # glibc takes no larger threshold; larger blocks come from the kernel and go back to it


def keep_freed_memory() -> bool:
    """Makes this process keep what it frees, to use it again; returns whether the C library can be told to."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another system, or another C library
        return False
    wishes = ((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, _MOST), (_M_TOP_PAD, 2 * _LARGEST))
    done = [bool(mallopt(name, value)) for name, value in wishes]  # each is tried
    return all(done)
