"""The models of a server: which version of each answers, and which is kept warm beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from skyhold import error_codes
from skyhold.errors import NotFound, SkyholdError, Unavailable
from skyhold.serving.metrics import ModelMetrics, ServerMetrics
from skyhold.serving.model import Model

WARM_MAX: Final = 1
"""Versions that stay loaded after another took their place, so that a return to them needs no loading."""


@dataclass(slots=True)
class Served:
    """A version that is loaded."""

    model: Model
    metrics: ModelMetrics


@dataclass(slots=True)
class _Slot:
    """One name. `loaded` are versions, the one that answers last; empty after an unload, whose `reason` is given."""

    load: Callable[[], Model] | None
    loaded: dict[str, Served] = field(default_factory=dict)
    is_ready: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """An entry of the repository index."""

    name: str
    version: str
    state: str
    reason: str


class Models:
    """Threads may swap models while others look them up; who looked one up before a swap still gets its answer."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self.metrics = metrics
        self._slots: dict[str, _Slot] = {}
        self._lock = threading.Lock()

    def put(self, model: Model, metrics: ModelMetrics, load: Callable[[], Model] | None = None) -> None:
        """Let `model` answer under its name from now on. The version before it stays warm; older ones are closed, after
        they have answered what waits for them. `load` loads it again after an unload."""
        name, version = model.origin.name, model.origin.version
        with self._lock:
            slot = self._slots.setdefault(name, _Slot(load))
            slot.load = load or slot.load
            replaced = slot.loaded.pop(version, None)
            for served in slot.loaded.values():
                served.metrics.ready.set(0)
            slot.loaded = {**slot.loaded, version: Served(model, metrics)}
            slot.is_ready, slot.reason = True, ""
            retired = [slot.loaded.pop(old) for old in list(slot.loaded)[: -1 - WARM_MAX]]
        metrics.ready.set(1)
        for served in (*retired, *([replaced] if replaced and replaced.model is not model else [])):
            _close(served)

    def warm(self, name: str, version: str) -> Served | None:
        """A version that is loaded, whether it answers or not."""
        slot = self._slots.get(name)
        return None if slot is None else slot.loaded.get(version)

    def answering(self, name: str) -> str | None:
        """The version that answers under this name."""
        slot = self._slots.get(name)
        return next(reversed(slot.loaded)) if slot is not None and slot.is_ready else None

    def find(self, name: str, version: str | None = None) -> Served:
        """The version that answers, or the loaded one that is named. Raises `NotFound` or `Unavailable`."""
        slot = self._slots.get(name)
        if slot is None:
            raise NotFound(f"There is no model {name!r}", code=error_codes.MODEL_NOT_FOUND)
        loaded = slot.loaded
        if version is not None:
            if version not in loaded:
                raise NotFound(
                    f"There is no version {version!r} of the model {name!r}", code=error_codes.MODEL_NOT_FOUND
                )
            return loaded[version]
        if not slot.is_ready:
            raise Unavailable(f"The model {name!r} is not ready: {slot.reason}", code=error_codes.MODEL_NOT_READY)
        return loaded[next(reversed(loaded))]

    def index(self, *, ready_only: bool = False) -> list[IndexEntry]:
        entries = []
        for name, slot in sorted(self._slots.items()):
            if slot.is_ready:
                entries.append(IndexEntry(name, next(reversed(slot.loaded)), "READY", ""))
            elif not ready_only:
                entries.append(IndexEntry(name, "", "UNAVAILABLE", slot.reason))
        return entries

    @property
    def is_ready(self) -> bool:
        """Whether every model answers; False where there is none."""
        return bool(self._slots) and all(slot.is_ready for slot in self._slots.values())

    def unload(self, name: str) -> None:
        """Close all versions of a model, after they have answered what waits. Raises `NotFound`."""
        with self._lock:
            slot = self._slots.get(name)
            if slot is None:
                raise NotFound(f"There is no model {name!r}", code=error_codes.MODEL_NOT_FOUND)
            slot.is_ready, slot.reason = False, "it was unloaded"
            loaded, slot.loaded = slot.loaded, {}
        for served in loaded.values():
            _close(served)

    def load(self, name: str) -> None:
        """Load a model again that was unloaded; one that is loaded is left alone. Raises `NotFound`, and what loading
        raises."""
        slot = self._slots.get(name)
        if slot is None or slot.load is None:
            raise NotFound(f"There is no model {name!r} to load", code=error_codes.MODEL_NOT_FOUND)
        if slot.is_ready:
            return
        try:
            model = slot.load()
        except SkyholdError as error:
            slot.reason = error.message
            raise
        self.put(model, ModelMetrics(self.metrics, name, model.origin.version))

    def close(self) -> None:
        for name in list(self._slots):
            self.unload(name)


def _close(served: Served) -> None:
    served.model.close()
    served.metrics.remove()
