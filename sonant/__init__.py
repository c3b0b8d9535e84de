"""Sonant gives any language model ears and a voice.

`import sonant` is light; it only sees to it that folders of `sonant export` load by transformers' Auto classes: our
classes enter transformers' tables as soon as each of these is imported, before or after Sonant, or never.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__version__ = "0.1.0"

_AUTO = "transformers.models.auto"
_TABLES = tuple(f"{_AUTO}.{name}_auto" for name in ("configuration", "modeling", "processing"))


class _AfterImport(MetaPathFinder):
    """Finds the modules of transformers' tables as Python would, and has ours entered once they have run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _TABLES else None
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_enter(module: ModuleType) -> None:
            run(module)
            _enter(module)

        spec.loader.exec_module = run_and_enter  # type: ignore[method-assign]
        return spec


def _enter(table: ModuleType) -> None:
    importlib.import_module("sonant.export.hf.tables").enter(table)


sys.meta_path.insert(0, _AfterImport())
for _name in _TABLES:
    if _name in sys.modules:
        _enter(sys.modules[_name])
