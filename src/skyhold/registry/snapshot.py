"""One state of a repository, as its register contained it at one time: refs, versions, and what was attached to
them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Final, TypeGuard

from skyhold import error_codes
from skyhold.errors import Corrupt, InvalidInput, NotFound
from skyhold.registry.deleted_version import version_not_found
from skyhold.registry.graph import first_parents
from skyhold.registry.names import Ref, RefKind, is_version_prefix, refs_called
from skyhold.registry.root import Root
from skyhold.storage.blobs import Blobs
from skyhold.storage.canonical import Json, is_counter, malformed
from skyhold.storage.object_keys import PUBLIC_ID_CHARACTERS
from skyhold.store.event import Event
from skyhold.store.logged_state import LoggedState
from skyhold.store.map import Map
from skyhold.store.node import Entry

_NAME: Final = re.compile(r"[0-9a-f]{64}")
_SEQUENCE: Final = re.compile(r"[0-9a-f]{16}")
EVENTS_KEPT = 64
"""The number of events whose versions a snapshot keeps: a walk along a branch, or an import of many versions at once,
reads the same ones again."""


@dataclass(frozen=True, slots=True)
class RefState:
    """Where a ref points. `version` is None for one that was deleted; `event` is the sequence of its last move."""

    ref: Ref
    version: str | None
    event: int


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version as it is entered into a repository: digest, names of its blobs, parents in order, time."""

    digest: str
    document: str
    layout: str
    parents: tuple[str, ...]
    time: str

    @property
    def public_id(self) -> str:
        return self.digest[:PUBLIC_ID_CHARACTERS]

    @property
    def key(self) -> str:
        """Its key in the map."""
        return f"version/{self.digest}"

    def placed(self, generation: int, parent_events: tuple[int, ...]) -> VersionEntry:
        """The version as it is entered by an event."""
        return VersionEntry(self.digest, self.document, self.layout, self.parents, self.time, generation, parent_events)


@dataclass(frozen=True, slots=True)
class VersionEntry(NewVersion):
    """A version of the repository. Its generation is one more than the greatest of its parents', and 1 without parents;
    `parent_events` are the events that entered these."""

    generation: int
    parent_events: tuple[int, ...]

    def to_json(self) -> Json:
        """The part of the event that enters it."""
        return {
            "kind": "version",
            "version": self.digest,
            "document": self.document,
            "layout": self.layout,
            "parents": [list(parent) for parent in zip(self.parents, self.parent_events, strict=True)],
            "time": self.time,
            "generation": self.generation,
        }


@dataclass(frozen=True, slots=True)
class Attached:
    """A metric, note or signature of a version. `blob` names the attachment where it was too large for the map."""

    version: str
    sequence: int
    kind: str
    name: str
    value: object
    author: str
    time: str
    blob: str | None = None


class Snapshot(LoggedState[Root]):
    """An immutable view of a repository. Reads fetch map nodes from the blobs as they need them."""

    def __init__(self, root: Root, register_version: int, blobs: Blobs, map_: Map | None = None) -> None:
        super().__init__(root, register_version, blobs, map_)
        self._versions_in = lru_cache(EVENTS_KEPT)(lambda sequence: versions_in(self.log.read(sequence)))

    def ref_state(self, ref: Ref) -> RefState | None:
        """The state of a ref, also of a deleted one; None where it never was."""
        value = self.map.get(f"ref/{ref}")
        return None if value is None else _ref_state(ref, value)

    def version_of(self, ref: Ref) -> str | None:
        """Digest of the version that a ref points to; None where there is no such ref."""
        state = self.ref_state(ref)
        return None if state is None else state.version

    def refs(self, kind: RefKind | None = None) -> Iterator[RefState]:
        """The refs that exist, by kind and name."""
        prefix = f"ref/{kind}/" if kind else "ref/"
        for key, value in self.map.scan(prefix):
            state = _ref_state(_ref_at(key), value)
            if state.version is not None:
                yield state

    def version(self, digest: str) -> VersionEntry:
        """Raises `NotFound` code `version_not_found`, or `version_deleted` for one that was there."""
        sequence = self.version_event(digest)
        if sequence is None:
            raise version_not_found(digest, self.map.get(f"deleted/{digest}"))
        return self._entered_by(sequence, digest)

    def has_version(self, digest: str) -> bool:
        return self.version_event(digest) is not None

    def version_event(self, digest: str) -> int | None:
        """The event that entered a version, or its new layout; None where it is not in the repository."""
        value = self.map.get(f"version/{digest}")
        return None if value is None else _version_event(digest, value)

    def versions(self, entries: Iterable[Entry] | None = None) -> Iterator[VersionEntry]:
        """All versions, also those that no ref reaches, as they were entered, or those of these entries of the map.
        Raises `Corrupt` after those that can be read where others cannot."""
        entered: dict[int, set[str]] = {}
        for key, value in self.map.scan("version/") if entries is None else entries:
            digest = key.removeprefix("version/")
            entered.setdefault(_version_event(digest, value), set()).add(digest)
        fault: Corrupt | None = None
        for sequence, read in self.log.at(entered.keys()):
            try:
                found = versions_in(read())
            except Corrupt as error:
                fault = fault or error
                entered.pop(sequence)
                continue
            for digest in sorted(found.keys() & entered[sequence]):
                entered[sequence].discard(digest)
                yield found[digest]
        if fault is not None:
            raise fault
        for sequence, digests in sorted(entered.items()):
            for digest in sorted(digests):
                self._entered_by(sequence, digest)  # which raises the error

    def version_entries(self) -> list[Entry]:
        """The entries of the map for all versions; no version is read."""
        return list(self.map.scan("version/"))

    def last_entered(self, entries: Iterable[Entry]) -> str | None:
        """The time of the version that was entered last of these entries, or None where there is none. Reads the event
        that entered it: the events after it are as many as refs were moved since."""
        sequences = [_version_event(key.removeprefix("version/"), value) for key, value in entries]
        return max(entry.time for entry in self._versions_in(max(sequences)).values()) if sequences else None

    def walk(self) -> Callable[[str], VersionEntry]:
        """As `version`, for a walk from versions to their parents: a parent is found by the event that entered it,
        which is near those of versions entered about that time."""
        events: dict[str, int] = {}

        def version(digest: str) -> VersionEntry:
            sequence = events.get(digest)
            found = self.version(digest) if sequence is None else self._entered_by(sequence, digest)
            events.update(zip(found.parents, found.parent_events, strict=True))
            return found

        return version

    def _entered_by(self, sequence: int, digest: str) -> VersionEntry:
        found = self._versions_in(sequence).get(digest)
        if found is None:
            malformed(f"event {sequence}", f"it does not enter version {digest}, although the map points to it")
        return found

    def attached(self, digest: str) -> Iterator[Attached]:
        """What was attached to a version, oldest first; the values of large ones are read."""
        for key, value in self.map.scan(f"attached/{digest}/"):
            yield self.attached_at(key, value)

    def attachment_blobs(self, digest: str) -> Iterator[str]:
        """The names of the blobs of what was attached to a version and is too large for the map; reads none of them."""
        for _, value in self.map.scan(f"attached/{digest}/"):
            blob = attachment_blob(value)
            if blob is not None:
                yield blob

    def metrics(self, digest: str) -> dict[str, float]:
        """The metrics of a version, by name; of several values the one attached last. Notes are not read for them."""
        metrics: dict[str, float] = {}
        for key, value in self.map.scan(f"attached/{digest}/"):
            if isinstance(value, dict) and value.get("kind") == "metric":
                attached = self.attached_at(key, value)
                if isinstance(attached.value, int | float):
                    metrics[attached.name] = attached.value
        return metrics

    def resolve(self, name: str, ancestor: int = 0) -> str:
        """Digest of the version that `name` means: a branch, tag or alias of this name, which may have its kind before
        it (`alias/champion`), else a version's id or the beginning of one (at least 4 hex characters); then `ancestor`
        first parents back.

        Raises `NotFound` code `ref_not_found` or `ancestor_not_found`, `InvalidInput` code `ambiguous_version` or
        `ambiguous_name`, and `Corrupt` code `history_cycle`.
        """
        digest = self._named(name) or self._by_prefix(name)
        step = 0
        for step, (found, _) in enumerate(first_parents(digest, self.walk())):
            if step == ancestor:
                return found
        raise NotFound(
            f"`{name}~{ancestor}` goes back beyond the first version: there are {step} before `{name}`",
            code=error_codes.ANCESTOR_NOT_FOUND,
        )

    def _named(self, name: str) -> str | None:
        """The version of the ref that `name` means, or None. Raises `InvalidInput` code `ambiguous_name` where it also
        means another version: older stores may contain such names, and an ambiguous name must not be guessed."""
        found: dict[Ref, str] = {}
        for ref in refs_called(name):
            state = self.ref_state(ref)
            if state is not None and state.version is not None:
                found[ref] = state.version
        meant = {str(ref): version for ref, version in found.items()}
        if found and is_version_prefix(name):
            meant |= {f"version {digest[:12]}": digest for digest in self._digests(name)}
        if len(set(meant.values())) > 1:
            raise InvalidInput(
                f"{name!r} means several versions: {', '.join(meant)}",
                code=error_codes.AMBIGUOUS_NAME,
                hint=f"Give the ref with its kind, such as `{next(iter(found))}`, or more characters of the id",
                ref=name,
            )
        return next(iter(found.values()), None)

    def _digests(self, prefix: str) -> list[str]:
        """The digests that begin so, two at most."""
        return [key.removeprefix("version/") for key, _ in islice(self.map.scan(f"version/{prefix}"), 2)]

    def _deleted(self, prefix: str) -> tuple[str, object] | None:
        """Digest and record of the deleted version that begins so, if it is one."""
        found = list(islice(self.map.scan(f"deleted/{prefix}"), 2))
        return (found[0][0].removeprefix("deleted/"), found[0][1]) if len(found) == 1 else None

    def _by_prefix(self, prefix: str) -> str:
        found = self._digests(prefix) if is_version_prefix(prefix) else []
        if not found:
            gone = self._deleted(prefix) if is_version_prefix(prefix) else None
            if gone is not None:
                raise version_not_found(*gone)
            raise NotFound(
                f"There is no branch, tag, alias or version {prefix!r} in the repository",
                code=error_codes.REF_NOT_FOUND,
                hint="List them with `skyhold ref list` and `skyhold log`",
                ref=prefix,
            )
        if len(found) > 1:
            raise InvalidInput(
                f"Several versions begin with {prefix!r}, among them {found[0][:12]} and {found[1][:12]}",
                code=error_codes.AMBIGUOUS_VERSION,
                hint="Give more characters of the id",
                ref=prefix,
            )
        return found[0]

    def attached_at(self, key: str, value: object) -> Attached:
        """What an entry of the map attaches to a version; a large value is read. Raises `Corrupt`."""
        if not isinstance(value, dict) or not all(
            isinstance(value.get(n), str) for n in ("kind", "name", "author", "time")
        ):
            malformed(f"attachment {key}", "a field is missing")
        content, blob = value.get("value"), attachment_blob(value)
        if blob is not None:
            content = self.blobs.read("attachments", blob).decode()
        digest, sequence = key.split("/")[1], sequence_in(key)
        return Attached(
            digest, sequence, value["kind"], value["name"], content, value["author"], value["time"], blob
        )  # fmt: skip


def attachment_blob(value: object) -> str | None:
    """The name of the blob of what is attached, where it is too large for the map."""
    content = value.get("value") if isinstance(value, dict) else None
    return str(content.get("blob")) if isinstance(content, dict) else None


def _ref_at(key: str) -> Ref:
    try:
        return Ref.parse(key.removeprefix("ref/"))
    except InvalidInput as error:
        malformed(f"map entry {key}", error.message)


def _ref_state(ref: Ref, value: object) -> RefState:
    version, event = (value.get("version"), value.get("event")) if isinstance(value, dict) else (None, None)
    if not isinstance(version, str | None) or not is_counter(event):
        malformed(f"ref {ref}", "a field is missing")
    return RefState(ref, version, event)


def sequence_in(key: str) -> int:
    """The sequence at the end of the key of an attachment. Raises `Corrupt`."""
    digits = key.rpartition("/")[2]
    if _SEQUENCE.fullmatch(digits) is None or not is_counter(int(digits, 16)):
        malformed(f"map entry {key}", "it is not the key of an attachment")
    return int(digits, 16)


def _is_name(value: object) -> TypeGuard[str]:
    """Whether it is a digest, or the name of a blob."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _version_event(digest: str, value: object) -> int:
    event = value.get("event") if isinstance(value, dict) else None
    if not is_counter(event):
        malformed(f"entry of version {digest}", "it names no event")
    return event


def versions_in(event: Event) -> dict[str, VersionEntry]:
    """The versions that an event enters, by digest. Raises `Corrupt`."""
    found = {}
    for part in event.what:
        if part["kind"] == "version":
            entry = _version_entry(event.sequence, part)
            found[entry.digest] = entry
    return found


def _version_entry(sequence: int, part: Json) -> VersionEntry:
    what = f"version in event {sequence}"
    digest, document, layout, time = (part.get(name) for name in ("version", "document", "layout", "time"))
    parents, generation = part.get("parents"), part.get("generation")
    if not (_is_name(digest) and _is_name(document) and _is_name(layout) and isinstance(time, str)):
        malformed(what, "a field is missing, or is not a name")
    if not is_counter(generation) or generation < 1:
        malformed(what, "its generation is not a positive number")
    if not isinstance(parents, list) or not all(
        isinstance(parent, list) and len(parent) == 2 and _is_name(parent[0]) and is_counter(parent[1])
        for parent in parents
    ):
        malformed(what, "its parents are not a list of digests and events")
    names, events = tuple(parent[0] for parent in parents), tuple(parent[1] for parent in parents)
    return VersionEntry(digest, document, layout, names, time, generation, events)
