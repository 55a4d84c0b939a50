"""From a reference to a model that answers: the version is pulled into a folder of its own, loaded, and swapped when
the reference moves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from skyhold.errors import InvalidInput, SkyholdError
from skyhold.serving.metrics import ModelMetrics
from skyhold.serving.model import Model, Origin, open_model
from skyhold.serving.models import Models, Served
from skyhold.serving.runtimes.runtime import Permissions
from skyhold.store.state import cache_folder

if TYPE_CHECKING:
    from skyhold.registry.repository import Repository
    from skyhold.registry.views import EventView
    from skyhold.storage.progress import Progress
    from skyhold.store.settings import Settings

RETRY_S: Final = 30.0
"""After the store could not be read or a version not be loaded, until the next try."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is served: a reference of a repository, under a name. Each version has a folder below `folder`."""

    repository: Repository
    reference: str
    name: str
    folder: Path
    permissions: Permissions


@dataclass(frozen=True, slots=True)
class Swapped:
    """The version that answers now. `was_warm`: it was still loaded from before."""

    version: str
    digest: str
    runtime: str
    why: str
    was_warm: bool
    fetched_bytes: int


def wanted_version(
    repository: Repository, reference: str | None, settings: Settings, permissions: Permissions, name: str | None = None
) -> Wanted:
    """Below the cache folder of these settings; without a name under the last part of the repository's. Raises
    `InvalidInput` for a name that cannot be in a path of the protocol."""
    if name is not None and (not name or "/" in name):
        raise InvalidInput(f"{name!r} cannot be the name of a model: it would be two parts of a path, or none")
    folder = (settings.cache_folder or cache_folder()) / "serving"
    return Wanted(repository, reference or "main", name or repository.name.rpartition("/")[2], folder, permissions)


def update(wanted: Wanted, models: Models, *, progress: Progress | None = None) -> Swapped | None:
    """Let the version answer that the reference points to now; None where it does already. A version that cannot be
    pulled, loaded or warmed up changes nothing. Raises `SkyholdError`."""
    shown = wanted.repository.show(wanted.reference)
    if shown.id == models.answering(wanted.name):
        return None
    warm = models.warm(wanted.name, shown.id)
    if warm is not None:
        models.put(warm)
        return Swapped(shown.id, shown.digest, warm.model.runtime, warm.model.why, True, 0)
    folder, fetched_bytes = _pulled(wanted, shown.digest, progress)
    metrics = ModelMetrics(models.metrics, wanted.name, shown.id)
    origin = Origin(wanted.name, shown.id)

    def load() -> Model:
        return open_model(folder, origin, wanted.permissions, metrics.batch)

    model = load()
    models.put(Served(model, metrics, load))
    return Swapped(shown.id, shown.digest, model.runtime, model.why, False, fetched_bytes)


def open_version(wanted: Wanted, *, progress: Progress | None = None) -> Model:
    """The model of the version that the reference points to now, pulled and loaded, without a server. Close it. Raises
    `SkyholdError`."""
    shown = wanted.repository.show(wanted.reference)
    folder, _ = _pulled(wanted, shown.digest, progress)
    return open_model(folder, Origin(wanted.name, shown.id), wanted.permissions)


def _pulled(wanted: Wanted, digest: str, progress: Progress | None) -> tuple[Path, int]:
    """The folder of a version, every file of it checked, and the bytes that were fetched for it."""
    folder = wanted.folder / digest
    # What is there is checked, too; only Skyhold writes there, so a file that differs is a damaged one.
    return folder, wanted.repository.pull(digest, folder, force=True, progress=progress).fetched_bytes


def last_event(repository: Repository) -> EventView | None:
    """Where a `follow` begins that is to miss nothing from now on."""
    return next(iter(repository.events(limit=1)), None)


def follow(
    wanted: Wanted,
    models: Models,
    after: EventView | None,
    stop: threading.Event,
    *,
    swapped: Callable[[Swapped], None],
    failed: Callable[[SkyholdError], None],
    retry_s: float = RETRY_S,
) -> None:
    """Call `update` now and after each change of the repository since `after`, until `stop`. What fails is reported and
    tried again; until then the version before it answers."""
    place: EventView | tuple[int, str] | None = after
    while not stop.is_set():
        try:
            if (done := update(wanted, models)) is not None:
                swapped(done)
            for event in wanted.repository.watch(place, stop=stop):
                place = (event.sequence, event.chain)
                if (done := update(wanted, models)) is not None:
                    swapped(done)
        except SkyholdError as error:
            failed(error)
            stop.wait(retry_s)
