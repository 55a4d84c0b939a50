"""The state of a register whose data is a root with an event log and a map, as those of repositories and documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Generic, Protocol, Self, TypeVar

from skyhold.errors import Conflict
from skyhold.storage.blobs import Blobs
from skyhold.storage.canonical import Json
from skyhold.store.event import EventLog, Origin
from skyhold.store.map import Map


class LoggedRoot(Protocol):
    """What such a register contains: a frozen dataclass. `key` is that of the register."""

    @property
    def key(self) -> str: ...
    @property
    def events(self) -> int: ...
    @property
    def chain(self) -> str: ...
    @property
    def map(self) -> Json: ...
    def encode(self) -> bytes: ...


R = TypeVar("R", bound=LoggedRoot)


class LoggedState(Generic[R]):
    """An immutable view. Reads fetch map nodes from the blobs as they need them."""

    def __init__(self, root: R, register_version: int, blobs: Blobs, map_: Map | None = None) -> None:
        self.root = root
        self.register_version = register_version
        self.blobs = blobs
        self.map = map_ if map_ is not None else Map.from_json(blobs, root.map)

    @property
    def log(self) -> EventLog:
        """The events of the register."""
        return EventLog(self.root.key, self.root.events, self.root.chain, self.map, self.blobs)

    def encode(self) -> bytes:
        """The data of the register in this state. Raises as the root's `encode`."""
        return self.root.encode()

    def after(
        self, origin: Origin, what: Sequence[Json], entries: Mapping[str, object | None], **fields: object
    ) -> Self:
        """The state after one event with these parts, which sets `entries` of the map (None: deletes) and `fields` of
        the root. Its new map nodes are durable."""
        log = self.log.append(origin, what, entries)
        moved: dict[str, object] = {"events": log.count, "chain": log.chain, "map": log.map.to_json(), **fields}
        root = replace(self.root, **moved)  # type: ignore[type-var]
        return type(self)(root, self.register_version + 1, self.blobs, log.map)


def refuse_wanted(what: str, wants: Sequence[str], code: str) -> None:
    """Raise `Conflict` where something still wants what is to be deleted: `wants` in words."""
    if wants:
        more = f"; and {len(wants) - 5} more" if len(wants) > 5 else ""
        raise Conflict(
            f"{what} is still wanted: {'; '.join(wants[:5])}{more}; nothing was changed",
            code=code,
            hint="End what wants it first, or use --force, which breaks it",
            wanted=list(wants),
        )
