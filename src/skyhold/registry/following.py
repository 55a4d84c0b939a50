"""Following a ref, and pinning a version: what else uses a version of a repository (format.md, 10).

What runs a version records in the repository itself which ref it follows. So a move of the ref moves the target in the
same compare-and-set, whichever client makes the move.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from skyhold import error_codes
from skyhold.errors import Conflict, InvalidInput, NotFound
from skyhold.registry.names import Ref, check_digest
from skyhold.storage.canonical import Json, malformed
from skyhold.store.map import Map
from skyhold.store.record import Entries, RecordKind, RecordUpdate, overlay, record_at, records_of, set_record

FOLLOW_MODES: Final = ("follow", "hold")
"""`follow`: the target is the version of the ref, always. `hold`: it stays until the record is changed."""


@dataclass(frozen=True, slots=True)
class Follow:
    """What follows a ref: `target` is the version that it should have now, None where the ref never existed."""

    id: str
    ref: Ref
    mode: str
    target: str | None

    def to_json(self) -> Json:
        return {"ref": str(self.ref), "mode": self.mode, "target": self.target}


@dataclass(frozen=True, slots=True)
class Pin:
    """An external use of a version: the version must be kept while the holder has it pinned."""

    version: str
    holder: str


def _check_follow(id_: str, value: Json) -> None:
    ref, mode, target = value.get("ref"), value.get("mode"), value.get("target")
    if value.keys() != {"ref", "mode", "target"} or not isinstance(ref, str) or not isinstance(target, str | None):
        raise InvalidInput(
            f"Expected ref, mode and target of follow/{id_} but got {value}", code=error_codes.INVALID_RECORD
        )
    Ref.parse(ref)
    if mode not in FOLLOW_MODES:
        raise InvalidInput(
            f"Expected a mode of follow/{id_} ({', '.join(FOLLOW_MODES)}) but got {mode!r}",
            code=error_codes.INVALID_RECORD,
        )
    if target is not None:
        check_digest(target)


def _admit_follow(entries: Entries, id_: str, _before: Json | None, after: Json | None) -> None:
    target = None if after is None else after["target"]
    if target is not None and entries(f"version/{target}") is None:
        raise _absent(str(target), f"follow/{id_}")


def _check_pin(id_: str, value: Json) -> None:
    if value:
        raise InvalidInput(f"Expected an empty record pin/{id_} but got {value}", code=error_codes.INVALID_RECORD)


def _admit_pin(entries: Entries, id_: str, _before: Json | None, after: Json | None) -> None:
    digest = id_.partition("/")[0]
    if after is not None and entries(f"version/{digest}") is None:
        raise _absent(digest, f"pin/{id_}")


FOLLOW: Final = RecordKind("follow", re.compile(r"[0-9a-f]{32}"), _check_follow, _admit_follow)
PIN: Final = RecordKind("pin", re.compile(r"[0-9a-f]{64}/[A-Za-z0-9_][A-Za-z0-9_.:@+-]{0,127}"), _check_pin, _admit_pin)


def follows(map_: Map) -> Iterator[Follow]:
    """What follows the refs of a repository, by id."""
    for id_, value in records_of(map_, FOLLOW):
        yield parse_follow(id_, value)


def parse_follow(id_: str, value: Json) -> Follow:
    """Raises `Corrupt`. An unknown mode is kept: its target stays."""
    ref, mode, target = value.get("ref"), value.get("mode"), value.get("target")
    if not isinstance(ref, str) or not isinstance(mode, str) or not isinstance(target, str | None):
        malformed(f"record follow/{id_}", "a field is missing")
    try:
        return Follow(id_, Ref.parse(ref), mode, target)
    except InvalidInput as error:
        malformed(f"record follow/{id_}", error.message)


def pins(map_: Map, digest: str | None = None) -> Iterator[Pin]:
    """The pins of a version, or of all."""
    prefix = "pin/" if digest is None else f"pin/{digest}/"
    for key, _ in map_.scan(prefix):
        version, _, holder = key.removeprefix("pin/").partition("/")
        yield Pin(version, holder)


def targeted(map_: Map, entries: Mapping[str, object | None], update: RecordUpdate) -> RecordUpdate:
    """The update, with the target that a record which follows a ref has after the moves in `entries`."""
    if update.kind is not FOLLOW or update.value is None or update.value["mode"] != "follow":
        return update
    target = _version_of(map_, entries, Ref.parse(str(update.value["ref"])))
    return update if target is None else replace(update, value={**update.value, "target": target})


def advance(
    map_: Map, entries: dict[str, object | None], moved: Collection[Ref], forced: Collection[Ref]
) -> list[Json]:
    """Enter the targets of what follows the refs that moved; returns the parts of the event.

    Raises `Conflict` code `ref_followed` where a ref that something follows is deleted without force. With force it
    is deleted, and the target stays.
    """
    if not moved:
        return []
    parts = []
    for follow in list(follows(map_)):
        key = f"follow/{follow.id}"
        if key in entries or follow.mode != "follow" or follow.ref not in moved:
            continue  # what the change itself sets has its target already
        target = _version_of(map_, entries, follow.ref)
        if target is None and follow.ref not in forced:
            raise _followed(follow)
        if target is not None and target != follow.target:
            value = Follow(follow.id, follow.ref, follow.mode, target).to_json()
            parts.append(set_record(entries, key, value, old=follow.target, new=target))
    return parts


def left_behind(map_: Map) -> Iterator[Follow]:
    """What follows a ref but does not have its version as the target: a client that moved the ref violated the rule."""
    for follow in follows(map_):
        version = _version_of(map_, {}, follow.ref)
        if follow.mode == "follow" and version is not None and follow.target != version:
            yield follow


def wanted(map_: Map) -> list[str]:
    """What still uses a version of the repository, as text: what a deletion would break."""
    found = [f"{follow.id} follows {follow.ref}" for follow in follows(map_) if follow.target is not None]
    return found + [f"{pin.holder} has pinned version {pin.version[:10]}" for pin in pins(map_)]


def _version_of(map_: Map, entries: Mapping[str, object | None], ref: Ref) -> str | None:
    value = record_at(overlay(map_, entries), f"ref/{ref}")
    version = None if value is None else value.get("version")
    return None if version is None else str(version)


def _followed(follow: Follow) -> Conflict:
    return Conflict(
        f"{follow.ref} cannot be deleted: {follow.id} follows it; nothing was changed",
        code=error_codes.REF_FOLLOWED,
        hint="Remove the followers first, or use --force: their targets then stay unchanged",
        ref=str(follow.ref),
        follow=follow.id,
    )


def _absent(digest: str, record: str) -> NotFound:
    return NotFound(
        f"Version {digest[:10]}, which {record} names, is not in the repository", code=error_codes.VERSION_NOT_FOUND,
        version=digest,
    )  # fmt: skip
