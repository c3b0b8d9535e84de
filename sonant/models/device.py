"""Where a model runs, by the name that a user gives."""

import torch

from sonant.errors import ModelError


def device_named(name: str) -> torch.device:
    """Returns the device: cpu, cuda, cuda:1, ...; "auto" is a GPU where torch sees one, else the CPU.

    Raises: ModelError for a device that torch does not know, or does not see here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"device {name!r} cannot be used ({reason}); give auto, cpu, or cuda with a GPU") from None
    return device
