"""The freeze plan: which parameters train, with which learning rate, decided by name and shown as a table."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import pydantic
from torch import nn

from sonant.config import Config
from sonant.errors import ModelError
from sonant.models.quantized import refuse_quantized
from sonant.models.speech_lm import SpeechLM, part_of

FROZEN = "frozen"


class GroupConfig(Config):
    """Parameters whose names match one of `patterns` (shell style: `encoders.*`, `*lora_*`), trained alike."""

    patterns: tuple[str, ...] = pydantic.Field(min_length=1)
    lr: float = pydantic.Field(ge=0)  # 0 freezes: an exception to a later, wider pattern
    weight_decay: float | None = pydantic.Field(default=None, ge=0)  # None: as the run has it
    start_step: int = pydantic.Field(default=0, ge=0)  # it rests until then: first the adapter alone, say


@dataclass(frozen=True)
class FreezeRow:
    """One line of the table: a group, its tensors and numbers, its learning rate (0: frozen) and its start."""

    group: str
    tensors: int
    parameters: int
    lr: float
    start_step: int = 0


class FreezePlan:
    """Groups in order: the first pattern that matches a parameter's name decides; what none matches is frozen."""

    def __init__(self, groups: Mapping[str, GroupConfig]) -> None:
        self.groups = dict(groups)

    def apply(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns optimiser groups ({name, params, lr, start_step}) of rates above 0; sets requires_grad.

        A group that says so has its "weight_decay", too. What modules list as `never_trained` no pattern matches.

        Raises: ModelError for a pattern that decides nothing, since a plan that does not act is a mistake, and for one
        that would train a quantised LLM.
        """
        assigned = self._assign(model)
        named = dict(model.named_parameters())
        for name, group in assigned.items():
            if isinstance(model, SpeechLM) and part_of(name) == "llm" and group and self.groups[group].lr > 0:
                refuse_quantized(model.llm, f"freeze plan: group {group!r} cannot train {name!r}")
        for name, parameter in named.items():
            group = assigned[name]
            parameter.requires_grad_(group is not None and self.groups[group].lr > 0)
        if isinstance(model, SpeechLM):
            model.mark_trained()
        return [
            {
                "name": group,
                "params": [named[name] for name in named if assigned[name] == group],
                "lr": config.lr,
                "start_step": config.start_step,
                **({} if config.weight_decay is None else {"weight_decay": config.weight_decay}),
            }
            for group, config in self.groups.items()
            if config.lr > 0
        ]

    def table(self, model: nn.Module) -> list[FreezeRow]:
        """Returns a row per group in plan order, then one for all that is frozen because nothing matched it."""
        assigned = self._assign(model)
        rows = []
        for group in [*self.groups, None]:
            members = [parameter for name, parameter in model.named_parameters() if assigned[name] == group]
            lr, start = (self.groups[group].lr, self.groups[group].start_step) if group is not None else (0.0, 0)
            rows.append(FreezeRow(group or FROZEN, len(members), sum(p.numel() for p in members), lr, start))
        return rows

    def _assign(self, model: nn.Module) -> dict[str, str | None]:
        """Name of every parameter -> its group, or None. A shared parameter goes by its first name."""
        assigned: dict[str, str | None] = {name: None for name, _ in model.named_parameters()}
        fixed = _never_trained(model)
        names = [name for name in assigned if name not in fixed]
        for group, config in self.groups.items():
            for pattern in config.patterns:
                matched = [name for name in names if fnmatchcase(name, pattern)]
                taken = [name for name in matched if assigned[name] is None]
                if not taken:
                    raise ModelError(
                        f"freeze plan: pattern {pattern!r} of group {group!r} " + _why(pattern, names, matched)
                    )
                assigned.update(dict.fromkeys(taken, group))
        return assigned


def _never_trained(model: nn.Module) -> set[str]:
    """The names of parameters that their modules list as `never_trained`."""
    return {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, module in model.named_modules()
        for name in getattr(module, "never_trained", ())
    }


def _why(pattern: str, names: list[str], matched: list[str]) -> str:
    if matched:
        return f"matches only parameters that earlier patterns took, such as {matched[0]!r}; remove it or move it up"
    prefixes = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
    close = difflib.get_close_matches(pattern.replace("*", "").strip("."), sorted(prefixes), n=3, cutoff=0.4)
    parts = ", ".join(sorted({name.split(".")[0] for name in names}))
    return f"matches no parameter; close names: {', '.join(close) or 'none'}; the model's parts are {parts}"
