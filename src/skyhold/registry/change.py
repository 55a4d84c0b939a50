"""A change of a repository: refs, versions, attachments and records that take effect together, and the rules that it
obeys.

`plan` is the whole decision: it takes the state that the register holds and returns the state that it should hold,
or refuses. It is run again on the newer state where another process changed the register in the meantime.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from skyhold import error_codes
from skyhold.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from skyhold.registry.following import advance, targeted
from skyhold.registry.graph import generation_after, is_ancestor
from skyhold.registry.history import move_in
from skyhold.registry.names import Ref, RefKind, check_digest, check_new_ref
from skyhold.registry.root import Root
from skyhold.registry.snapshot import NewVersion, RefState, Snapshot, VersionEntry, sequence_in
from skyhold.storage.canonical import Json, canonical
from skyhold.store.event import Origin, check_length
from skyhold.store.record import ANY, RecordUpdate, plan_records
from skyhold.store.register_root import check_gc_epoch

ATTACHMENT_BYTES_MAX: Final = 1024 * 1024
_INLINE_BYTES_MAX: Final = 1024
_ATTACHMENT_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./@-]){0,95}")
_ATTACHMENT_KIND: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """Set a ref to a version, or delete it (None).

    `expected` is the version that it must point to now: a digest, None (it must not exist) or `ANY`. `force` lets a
    branch move to a version that does not descend from the one before, and a ref be deleted that something follows;
    `force` never moves a tag.
    """

    ref: Ref
    version: str | None
    expected: str | None = ANY
    force: bool = False


@dataclass(frozen=True, slots=True)
class Attachment:
    """Something to attach to a version: a `metric` is a number; a `note`, or any other kind (`signature`,
    `attestation`, `profile`, `evaluation`, …), is a text of at most 1 MiB."""

    version: str
    kind: str
    name: str
    value: str | float

    def __post_init__(self) -> None:
        check_digest(self.version)
        if _ATTACHMENT_KIND.fullmatch(self.kind) is None:
            raise InvalidInput(f"Expected a kind of attachment but got {self.kind!r}", code=error_codes.INVALID_NAME)
        if _ATTACHMENT_NAME.fullmatch(self.name) is None:
            raise InvalidInput(
                f"Expected the name of a {self.kind} but got {self.name!r}", code=error_codes.INVALID_NAME
            )
        if self.kind == "metric":
            if isinstance(self.value, str | bool) or not math.isfinite(self.value):
                raise InvalidInput(
                    f"Expected a finite number for metric `{self.name}` but got {self.value!r}",
                    code=error_codes.INVALID_METRIC,
                )
        elif not isinstance(self.value, str):
            raise InvalidInput(
                f"Expected text for {self.kind} `{self.name}` but got {self.value!r}", code=error_codes.INVALID_TEXT
            )
        else:
            check_length(self.value, f"{self.kind} `{self.name}`", ATTACHMENT_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class RepositoryChange:
    """What takes effect together, as one event of this origin.

    `gc_epoch` is the epoch that was noted before the first look-up of what the versions are made of (format.md, 12);
    a change that adds versions, or records with blobs, must give it. `policy` is that under which they are durable
    (None: any). `relaid` are the digests of those `versions` that get the given layout even where the repository has
    them with another one.
    """

    origin: Origin
    refs: tuple[RefUpdate, ...] = ()
    versions: tuple[NewVersion, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    records: tuple[RecordUpdate, ...] = ()
    gc_epoch: int | None = None
    policy: Json | None = None
    relaid: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if len({update.ref for update in self.refs}) != len(self.refs):
            raise InvalidInput("A change names one ref twice", code=error_codes.REF_NAMED_TWICE)
        if len({update.key for update in self.records}) != len(self.records):
            raise InvalidInput("A change names one record twice", code=error_codes.RECORD_NAMED_TWICE)
        blobs = any(update.value and update.value.get("blobs") for update in self.records)
        if (self.versions or blobs) and self.gc_epoch is None:
            raise InvalidInput(
                "A change that adds versions or blobs must carry the gc epoch it began in",
                code=error_codes.GC_EPOCH_NEEDED,
            )


def plan(snapshot: Snapshot, change: RepositoryChange) -> Snapshot | None:
    """The state after the change; its new map nodes and attachments are durable. None where nothing would change.

    Raises `Conflict` (`gc_epoch_risen`, `policy_changed`, `ref_moved`, `not_fast_forward`), `AlreadyExists`
    (`tag_exists`, `ref_name_taken`), `NotFound` (`repository_deleted`, `version_not_found`, `ref_not_found`),
    `InvalidInput`. Nothing has taken effect then.
    """
    _check_begun(snapshot.root, change)
    entries: dict[str, object | None] = {}
    added = _add_versions(snapshot, change, entries)
    what = [version.to_json() for version in added.values() if version.key in entries]
    moves = _move_refs(snapshot, change, added, entries)
    records = [targeted(snapshot.map, entries, update) for update in change.records]
    what += moves + plan_records(snapshot.map, records, entries)
    moved = {update.ref: update.force for update in change.refs if f"ref/{update.ref}" in entries}
    what += advance(snapshot.map, entries, moved, {ref for ref, force in moved.items() if force})
    what += _attach(snapshot, change, added, entries)
    return snapshot.after(change.origin, what, entries) if what else None


def check(snapshot: Snapshot, change: RepositoryChange) -> None:
    """Raise what `plan` raises, and write nothing: for a change whose versions are not made yet."""
    _check_begun(snapshot.root, change)
    added = _add_versions(snapshot, change, {})
    for update in change.refs:
        _checked(snapshot, change, update, added)


def _move_refs(
    snapshot: Snapshot, change: RepositoryChange, added: Mapping[str, VersionEntry], entries: dict[str, object | None]
) -> list[Json]:
    """Enter the refs that move; returns the parts of the event. `previous` is the event of the ref's move before."""
    moves: list[Json] = []
    for update in change.refs:
        state = _checked(snapshot, change, update, added)
        old = state.version if state else None
        if update.version == old:
            continue
        previous = state.event if state else None
        moves.append({"kind": "ref", "ref": str(update.ref), "old": old, "new": update.version, "previous": previous})
        entries[f"ref/{update.ref}"] = {"version": update.version, "event": snapshot.root.events + 1}
    return moves


def _check_begun(root: Root, change: RepositoryChange) -> None:
    """Raise where the repository has changed in a way that invalidates the change."""
    if root.deleted is not None:
        raise NotFound(
            f"Repository {root.repository_id} was deleted at {root.deleted}",
            code=error_codes.REPOSITORY_DELETED,
            hint="Bring it back with `skyhold repository undelete`",
        )
    check_gc_epoch(change.gc_epoch, root.gc_epoch, "Push again; what is still stored is not sent twice")
    if change.policy is not None and change.policy != root.policy:
        raise Conflict(
            f"The policy of repository {root.repository_id} was changed since this change began; nothing was changed",
            code=error_codes.POLICY_CHANGED,
            hint="Run the command again: it then follows the new policy, and sends nothing twice",
        )


def _add_versions(
    snapshot: Snapshot, change: RepositoryChange, entries: dict[str, object | None]
) -> dict[str, VersionEntry]:
    """Enter the versions that are not there yet; a version that is there keeps its layout, unless it is relaid."""
    added: dict[str, VersionEntry] = {}
    sequence = snapshot.root.events + 1
    for version in change.versions:
        parents, events = [], []
        for parent in version.parents:
            event = sequence if f"version/{parent}" in entries else snapshot.version_event(parent)
            if event is None:
                raise NotFound(
                    f"Parent {parent[:12]} of version {version.public_id} is not in the repository",
                    code=error_codes.VERSION_NOT_FOUND,
                    hint="Push the parent first",
                )
            parents.append(added.get(parent) or snapshot.version(parent))
            events.append(event)
        entry = version.placed(generation_after(parents), tuple(events))
        added[version.digest] = entry
        if version.digest in change.relaid or not snapshot.has_version(version.digest):
            entries[entry.key] = {"event": sequence}
    return added


def _checked(
    snapshot: Snapshot, change: RepositoryChange, update: RefUpdate, added: Mapping[str, VersionEntry]
) -> RefState | None:
    """The state of the ref before the update, or the error that refuses it."""
    state = snapshot.ref_state(update.ref)
    old, new = (state.version if state else None), update.version
    if new is not None and new not in added:
        snapshot.version(new)
    if update.expected not in {ANY, old}:
        raise _moved(update, old)
    if new is None and old is None:
        raise NotFound(
            f"There is no {update.ref.kind} `{update.ref.name}`", code=error_codes.REF_NOT_FOUND, ref=str(update.ref)
        )
    if new is not None and old is None:
        if state is None:
            check_new_ref(update.ref)
        _check_name_free(snapshot, change, update.ref)
    if new == old or new is None:
        return state
    if update.ref.kind is RefKind.TAG:
        _check_tag(snapshot, update, state)
    elif update.ref.kind is RefKind.BRANCH and old is not None and not update.force:
        _check_forward(snapshot, update.ref, old, new, added)
    return state


def _check_forward(snapshot: Snapshot, ref: Ref, old: str, new: str, added: Mapping[str, VersionEntry]) -> None:
    """A branch moves only to a version that descends from the one it points to."""
    if not is_ancestor(old, new, lambda digest: added.get(digest) or snapshot.version(digest)):
        raise Conflict(
            f"Branch `{ref.name}` points to {old[:12]}, which does not come before {new[:12]}; nothing was changed",
            code=error_codes.NOT_FAST_FORWARD,
            hint=f"Take {old[:12]} as a parent, or move the branch with --force",
            ref=str(ref),
            current=old,
        )


def _check_tag(snapshot: Snapshot, update: RefUpdate, state: RefState | None) -> None:
    """A tag never moves, not even by deletion and recreation."""
    if state is None:
        return
    current = state.version
    if current is None:
        deletion = move_in(snapshot.log.read(state.event), update.ref)
        current = deletion.old if deletion else None
    if current != update.version:
        raise AlreadyExists(
            f"Tag `{update.ref.name}` names version {str(current)[:12]}, and a tag never moves; nothing was changed",
            code=error_codes.TAG_EXISTS,
            hint="Choose another tag, or use an alias, which may move",
            ref=str(update.ref),
            current=current,
        )


def _check_name_free(snapshot: Snapshot, change: RepositoryChange, ref: Ref) -> None:
    """A name means one ref: a branch, a tag and an alias never share one."""
    for kind in RefKind:
        if kind is ref.kind:
            continue
        try:
            other = Ref(kind, ref.name)
        except InvalidInput:  # a name that this kind cannot have
            continue
        state = snapshot.ref_state(other)
        update = next((update for update in change.refs if update.ref == other), None)
        if update.version if update else state is not None and state.version is not None:
            raise AlreadyExists(
                f"`{ref.name}` is the name of {other.kind.phrase} already; nothing was changed",
                code=error_codes.REF_NAME_TAKEN,
                hint="Choose another name",
                ref=str(ref),
            )


def _attach(
    snapshot: Snapshot, change: RepositoryChange, added: Mapping[str, VersionEntry], entries: dict[str, object | None]
) -> list[Json]:
    """Enter what is attached; returns the parts of the event."""
    next_sequence: dict[str, int] = {}
    first: dict[str, int] = {}
    for attachment in change.attachments:
        digest = attachment.version
        if digest not in next_sequence:
            if digest not in added:
                snapshot.version(digest)
            last = snapshot.map.last(f"attached/{digest}/")
            first[digest] = next_sequence[digest] = sequence_in(last[0]) + 1 if last else 1
        value: object = attachment.value
        if len(canonical(value)) > _INLINE_BYTES_MAX:
            value = {"blob": snapshot.blobs.write("attachments", str(value).encode())}
        entries[f"attached/{digest}/{next_sequence[digest]:016x}"] = {
            "kind": attachment.kind,
            "name": attachment.name,
            "value": value,
            "author": change.origin.author,
            "time": change.origin.time,
        }
        next_sequence[digest] += 1
    return [
        {"kind": "attached", "version": digest, "first": begin, "count": next_sequence[digest] - begin}
        for digest, begin in first.items()
    ]


def _moved(update: RefUpdate, old: str | None) -> Conflict:
    kind, name = update.ref.kind, update.ref.name
    points = f"points to {old[:12]}" if old else "does not exist"
    expected = f"to point to {update.expected[:12]}" if update.expected else "not to exist"
    return Conflict(
        f"{kind.capitalize()} `{name}` {points} but was expected {expected}: it was moved meanwhile; "
        "nothing was changed",
        code=error_codes.REF_MOVED,
        hint="See the move with `skyhold ref history`, then decide again",
        ref=str(update.ref),
        expected=update.expected,
        current=old,
    )


def attachments(digest: str, metrics: Mapping[str, float], notes: Sequence[str]) -> list[Attachment]:
    """Metrics and notes as they are attached to a version."""
    return [
        *(Attachment(digest, "metric", name, value) for name, value in metrics.items()),
        *(Attachment(digest, "note", "note", text) for text in notes),
    ]
