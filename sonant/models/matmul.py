"""Which kernels multiply fp32 matrices: the faster ones wherever they keep the accuracy of fp32.

torch's "medium" lets a backend round what is multiplied to bfloat16, and on CPUs it changes the library, MKL to oneDNN:

    processor                                  highest              medium
    AMD with AVX-512 (MKL stays with AVX2)     fp32, half speed     fp32
    with AMX (Intel)                           fp32                 bfloat16 inputs: 1e-3 wrong, faster
    NVIDIA                                     fp32                 TF32 inputs: 1e-4 wrong, faster

Convolutions on NVIDIA, which torch lets round to TF32 by itself, go the way of products.

The choice rests on accuracy alone, never on a clock: a run that goes on later makes the same one.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Literal

import torch

Matmul = Literal["auto", "highest", "medium"]
_TOLERANCE = 1e-5  # of the largest number: fp32 sums err by 1e-6, TF32 by 1e-4, bfloat16 by 1e-3


@contextlib.contextmanager
def fast_matmul(kind: Matmul = "auto", *, device: torch.device | str = "cpu") -> Iterator[Literal["highest", "medium"]]:
    """Yields how fp32 matrices are multiplied inside the block; "auto" is "medium" where that is as exact as fp32.

    It is a setting of the whole process: enter it where a program begins its work, not in threads that overlap.
    """
    before, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("medium" if kind == "auto" else kind)
        chosen: Literal["highest", "medium"] = "highest" if kind == "highest" else "medium"
        if kind == "auto" and _error_of_medium(torch.device(device)) > _TOLERANCE:
            chosen = "highest"
            torch.set_float32_matmul_precision(chosen)
        torch.backends.cudnn.allow_tf32 = chosen == "medium"
        yield chosen
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(before)


@functools.cache
def _error_of_medium(device: torch.device) -> float:
    """Returns the largest error of a product, relative to its largest number; call it while "medium" is set."""
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=random) for _ in range(2))
    exact = a.double() @ b.double()
    found = (a.to(device) @ b.to(device)).cpu().double()
    return float((found - exact).abs().max() / exact.abs().max())
