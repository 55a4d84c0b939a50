"""Skyhold keeps every version of every model, in every cloud, provably the same.

>>> import skyhold
>>> with skyhold.open() as store:                                        # doctest: +SKIP
...     pulled = store.repository("team/model").pull("champion", "./model")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skyhold.buckets.telemetry import RequestCount, request_counts
    from skyhold.errors import SkyholdError
    from skyhold.registry.lifecycle import connect, init, open, recover
    from skyhold.registry.repository import Repository
    from skyhold.registry.store import Store
    from skyhold.registry.views import EventView, Version
    from skyhold.storage.cancel import Cancel
    from skyhold.storage.policy import Policy
    from skyhold.storage.progress import Progress
    from skyhold.store.watching import ResyncNeeded

__all__ = [
    "Cancel",
    "EventView",
    "Policy",
    "Progress",
    "Repository",
    "RequestCount",
    "ResyncNeeded",
    "SkyholdError",
    "Store",
    "Version",
    "connect",
    "init",
    "open",
    "recover",
    "request_counts",
]

_HOMES = {
    "Cancel": "skyhold.storage.cancel",
    "EventView": "skyhold.registry.views",
    "Policy": "skyhold.storage.policy",
    "Progress": "skyhold.storage.progress",
    "Repository": "skyhold.registry.repository",
    "RequestCount": "skyhold.buckets.telemetry",
    "ResyncNeeded": "skyhold.store.watching",
    "SkyholdError": "skyhold.errors",
    "Store": "skyhold.registry.store",
    "Version": "skyhold.registry.views",
    "connect": "skyhold.registry.lifecycle",
    "init": "skyhold.registry.lifecycle",
    "open": "skyhold.registry.lifecycle",
    "recover": "skyhold.registry.lifecycle",
    "request_counts": "skyhold.buckets.telemetry",
}


def __getattr__(name: str) -> object:
    """The public names, imported when they are first used: `import skyhold` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'skyhold' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
