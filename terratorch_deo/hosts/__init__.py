"""Glue to TerraTorch, timm and segmentation_models_pytorch; each registered when it is imported."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Host module -> our module whose ``register`` is called once the host is imported.
_HOSTS = {
    "terratorch.registry": "terratorch_deo.hosts.terratorch",
    "timm": "terratorch_deo.hosts.timm",
    "segmentation_models_pytorch": "terratorch_deo.hosts.smp",
}


def _register(host: str) -> None:
    import_module(_HOSTS[host]).register()


class _AfterImport:
    """Meta-path finder that registers our encoders right after a host module is executed."""

    def __init__(self, hosts: set[str]) -> None:
        self.waiting = hosts

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self.waiting:
            return None
        self.waiting.discard(name)  # or the next line would come back here
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.waiting.add(name)
        if spec is None or spec.loader is None:
            return spec
        execute: Callable[[ModuleType], Any] = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            self.waiting.discard(name)
            _register(name)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Register with the hosts already imported now, with the others when they are imported."""
    waiting = set()
    for host in _HOSTS:
        if host in sys.modules:
            _register(host)
        else:
            waiting.add(host)
    if waiting and not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport(waiting))  # type: ignore[arg-type]
