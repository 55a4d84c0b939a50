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
    """A version that is loaded; `load` loads it again after an unload."""

    model: Model
    metrics: ModelMetrics
    load: Callable[[], Model]


@dataclass(slots=True)
class _Slot:
    """One name. `loaded` are versions, the one that answers last; empty after an unload, whose `reason` is given, and
    after which `load` loads the version that answered. The mapping is never changed, only replaced: who looks up takes
    no lock."""

    load: Callable[[], Model]
    loaded: dict[str, Served] = field(default_factory=dict)
    reason: str = ""

    @property
    def answering(self) -> Served | None:
        loaded = self.loaded
        return loaded[next(reversed(loaded))] if loaded else None


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

    def put(self, served: Served) -> None:
        """Let this version answer under its name from now on. The version before it stays warm; older ones are closed,
        after they have answered what waits for them."""
        name, version = served.model.origin.name, served.model.origin.version
        with self._lock:
            slot = self._slots.setdefault(name, _Slot(served.load))
            slot.load = served.load
            before = dict(slot.loaded)
            replaced = before.pop(version, None)
            kept = dict(list(before.items())[-WARM_MAX:])
            slot.loaded, slot.reason = {**kept, version: served}, ""
        for warm in kept.values():
            warm.metrics.ready.set(0)
        served.metrics.ready.set(1)
        for old in before.keys() - kept.keys():
            before[old].model.close()
            before[old].metrics.remove()
        if replaced is not None and replaced.model is not served.model:
            replaced.model.close()

    def warm(self, name: str, version: str) -> Served | None:
        """A version that is loaded, whether it answers or not."""
        slot = self._slots.get(name)
        return None if slot is None else slot.loaded.get(version)

    def answering(self, name: str) -> str | None:
        """The version that answers under this name."""
        slot = self._slots.get(name)
        served = None if slot is None else slot.answering
        return None if served is None else served.model.origin.version

    def find(self, name: str, version: str | None = None) -> Served:
        """The version that answers, or the loaded one that is named. Raises `NotFound` or `Unavailable`."""
        slot = self._slots.get(name)
        if slot is None:
            raise NotFound(f"There is no model {name!r}", code=error_codes.MODEL_NOT_FOUND)
        served = slot.answering if version is None else slot.loaded.get(version)
        if served is not None:
            return served
        if version is not None:
            message = f"The model {name!r} has no version {version!r} that is loaded"
            raise NotFound(message, code=error_codes.MODEL_NOT_FOUND)
        raise Unavailable(f"The model {name!r} is not ready: {slot.reason}", code=error_codes.MODEL_NOT_READY)

    def index(self, *, ready_only: bool = False) -> list[IndexEntry]:
        entries = []
        for name, slot in sorted(self._slots.copy().items()):
            served = slot.answering
            if served is not None:
                entries.append(IndexEntry(name, served.model.origin.version, "READY", ""))
            elif not ready_only:
                entries.append(IndexEntry(name, "", "UNAVAILABLE", slot.reason))
        return entries

    @property
    def is_ready(self) -> bool:
        """Whether every model answers; False where there is none."""
        slots = list(self._slots.values())
        return bool(slots) and all(slot.loaded for slot in slots)

    def unload(self, name: str) -> None:
        """Close all versions of a model, after they have answered what waits. Raises `NotFound`."""
        with self._lock:
            slot = self._slots.get(name)
            if slot is None:
                raise NotFound(f"There is no model {name!r}", code=error_codes.MODEL_NOT_FOUND)
            slot.reason = "it was unloaded"
            loaded, slot.loaded = slot.loaded, {}
        for served in loaded.values():
            served.model.close()
            served.metrics.remove()

    def load(self, name: str) -> None:
        """Load a model again that was unloaded; one that is loaded is left alone. Raises `NotFound`, and what loading
        raises."""
        slot = self._slots.get(name)
        if slot is None:
            raise NotFound(f"There is no model {name!r} to load", code=error_codes.MODEL_NOT_FOUND)
        if slot.loaded:
            return
        try:
            model = slot.load()
        except SkyholdError as error:
            slot.reason = error.message
            raise
        self.put(Served(model, ModelMetrics(self.metrics, name, model.origin.version), slot.load))

    def close(self) -> None:
        for name in list(self._slots):
            self.unload(name)
