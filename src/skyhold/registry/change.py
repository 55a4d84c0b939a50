"""A change of a repository: refs, versions and attachments that take effect together, and the rules that it obeys.

`plan` is the whole decision: it takes the state that the register holds and gives the state that it should hold, or
refuses. It is run again on the newer state where somebody else changed the register meanwhile.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from skyhold.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from skyhold.registry.graph import is_ancestor
from skyhold.registry.names import Ref, RefKind, check_digest, check_new_ref
from skyhold.registry.root import Root, next_chain
from skyhold.registry.snapshot import RefState, Snapshot, VersionEntry
from skyhold.registry.time import check_time
from skyhold.storage.canonical import Json, canonical, check_text

ANY: Final = "any"
AUTHOR_BYTES_MAX: Final = 256
REASON_BYTES_MAX: Final = 1024
ATTACHMENT_BYTES_MAX: Final = 1024 * 1024
_INLINE_BYTES_MAX: Final = 1024
_ATTACHMENT_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./@-]){0,95}")

AttachmentKind = Literal["metric", "note", "signature"]


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """Set a ref to a version, or delete it (None).

    `expected` is the version where it must stand now: a digest, None (it must not exist) or `ANY`. `force` lets a
    branch move to a version that does not descend from the one before; no force moves a tag.
    """

    ref: Ref
    version: str | None
    expected: str | None = ANY
    force: bool = False


@dataclass(frozen=True, slots=True)
class Attachment:
    """A metric (a number), note or signature (texts of at most 1 MiB) to attach to a version."""

    version: str
    kind: AttachmentKind
    name: str
    value: str | float

    def __post_init__(self) -> None:
        check_digest(self.version)
        if _ATTACHMENT_NAME.fullmatch(self.name) is None:
            raise InvalidInput(f"Expected the name of a {self.kind} but got {self.name!r}", code="invalid_name")
        if self.kind == "metric":
            if isinstance(self.value, str | bool) or not math.isfinite(self.value):
                raise InvalidInput(
                    f"Expected a finite number for metric `{self.name}` but got {self.value!r}", code="invalid_metric"
                )
        elif not isinstance(self.value, str):
            raise InvalidInput(
                f"Expected text for {self.kind} `{self.name}` but got {self.value!r}", code="invalid_text"
            )
        else:
            _check_length(self.value, f"{self.kind} `{self.name}`", ATTACHMENT_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class Change:
    """What takes effect together, by whom, when (RFC 3339, UTC) and why.

    `gc_epoch` is the epoch that was noted before the first look-up of what the versions are made of (format.md, 12);
    a change that adds versions must give it. `policy` is that under which they are durable (None: whatever it is).
    `relaid` are digests of `versions` that get the layout given, also where they are there with another one.
    """

    author: str
    time: str
    reason: str = ""
    refs: tuple[RefUpdate, ...] = ()
    versions: tuple[VersionEntry, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    gc_epoch: int | None = None
    policy: Json | None = None
    relaid: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        check_time(self.time)
        _check_length(self.author, "the author", AUTHOR_BYTES_MAX)
        _check_length(self.reason, "the reason of a move", REASON_BYTES_MAX)
        if len({update.ref for update in self.refs}) != len(self.refs):
            raise InvalidInput("A change names one ref twice", code="ref_named_twice")
        if self.versions and self.gc_epoch is None:
            raise InvalidInput(
                "A change that adds versions must carry the gc epoch it began in", code="gc_epoch_needed"
            )


def plan(snapshot: Snapshot, change: Change) -> Snapshot | None:
    """The state after the change; its new map nodes and attachments are durable. None where nothing would change.

    Raises `Conflict` (`gc_epoch_risen`, `policy_changed`, `ref_moved`, `not_fast_forward`), `AlreadyExists`
    (`tag_exists`, `ref_name_taken`), `NotFound` (`repository_deleted`, `version_not_found`, `ref_not_found`),
    `InvalidInput`. Nothing has taken effect then.
    """
    root = snapshot.root
    _check_begun(root, change)
    entries: dict[str, object | None] = {}
    added = _add_versions(snapshot, change, entries)
    moves, chain = root.moves, root.chain
    for update in change.refs:
        state = _checked(snapshot, change, update, added)
        if update.version == (state.version if state else None):
            continue
        moves += 1
        move: Json = {
            "ref": str(update.ref),
            "old": state.version if state else None,
            "new": update.version,
            "author": change.author,
            "time": change.time,
            "reason": change.reason,
            "previous": state.move if state else None,
        }
        chain = next_chain(chain, move)
        entries[f"move/{moves:016x}"] = {**move, "chain": chain}
        entries[f"ref/{update.ref}"] = {"version": update.version, "move": moves}
    _attach(snapshot, change, added, entries)
    if not entries:
        return None
    map_ = snapshot.map.update(entries)
    root = replace(root, moves=moves, chain=chain, map=map_.to_json())
    return Snapshot(root, snapshot.register_version + 1, snapshot.blobs, map_)


def check(snapshot: Snapshot, change: Change) -> None:
    """Raise what `plan` raises, and write nothing: for a change whose versions are not made yet."""
    _check_begun(snapshot.root, change)
    added = _add_versions(snapshot, change, {})
    for update in change.refs:
        _checked(snapshot, change, update, added)


def _check_begun(root: Root, change: Change) -> None:
    """Raise where the repository is not any more what the change began with."""
    if root.deleted is not None:
        raise NotFound(
            f"Repository {root.repository_id} was deleted at {root.deleted}",
            code="repository_deleted",
            hint="Bring it back with `skyhold repository undelete`",
        )
    if change.gc_epoch is not None and change.gc_epoch != root.gc_epoch:
        raise Conflict(
            f"Garbage was collected (epoch {root.gc_epoch}) since this change began in epoch {change.gc_epoch}: "
            "objects that it relies on may be gone",
            code="gc_epoch_risen",
            hint="Push again; what is still there is not sent twice",
            gc_epoch=root.gc_epoch,
        )
    if change.policy is not None and change.policy != root.policy:
        raise Conflict(
            f"The policy of repository {root.repository_id} was changed since this change began; nothing was changed",
            code="policy_changed",
            hint="Run the command again: it then follows the new policy, and sends nothing twice",
        )


def _add_versions(snapshot: Snapshot, change: Change, entries: dict[str, object | None]) -> dict[str, VersionEntry]:
    """Enter the versions that are not there yet; a version that is there keeps its layout, unless it is relaid."""
    added: dict[str, VersionEntry] = {}
    for version in change.versions:
        for parent in version.parents:
            if parent not in added and not snapshot.has_version(parent):
                raise NotFound(
                    f"Parent {parent[:12]} of version {version.public_id} is not in the repository",
                    code="version_not_found",
                    hint="Push the parent first",
                )
        added[version.digest] = version
        if version.digest in change.relaid or not snapshot.has_version(version.digest):
            entries[f"version/{version.digest}"] = {
                "document": version.document,
                "layout": version.layout,
                "parents": list(version.parents),
                "time": version.time,
            }
    return added


def _checked(snapshot: Snapshot, change: Change, update: RefUpdate, added: dict[str, VersionEntry]) -> RefState | None:
    """The state of the ref before the update, or the error that refuses it."""
    state = snapshot.ref_state(update.ref)
    old, new = (state.version if state else None), update.version
    if new is not None and new not in added:
        snapshot.version(new)
    if update.expected not in {ANY, old}:
        raise _moved(update, old)
    if new is None and old is None:
        raise NotFound(f"There is no {update.ref.kind} `{update.ref.name}`", code="ref_not_found", ref=str(update.ref))
    if new is not None and old is None:
        if state is None:
            check_new_ref(update.ref)
        _check_name_free(snapshot, change, update.ref)
    if new == old or new is None:
        return state
    if update.ref.kind is RefKind.TAG:
        _check_tag(snapshot, update, state)
    elif update.ref.kind is RefKind.BRANCH and old is not None and not update.force:

        def parents(digest: str) -> tuple[str, ...]:
            return (added.get(digest) or snapshot.version(digest)).parents

        if not is_ancestor(old, new, parents):
            raise Conflict(
                f"Branch `{update.ref.name}` stands at {old[:12]}, which does not come before {new[:12]}; "
                "nothing was changed",
                code="not_fast_forward",
                hint=f"Take {old[:12]} as a parent, or move the branch with --force",
                ref=str(update.ref),
                current=old,
            )
    return state


def _check_tag(snapshot: Snapshot, update: RefUpdate, state: RefState | None) -> None:
    """A tag never moves, also not by way of a deletion."""
    if state is None:
        return
    stood = state.version
    if stood is None:
        deletion = snapshot.map.get(f"move/{state.move:016x}")
        stood = deletion.get("old") if isinstance(deletion, dict) else None
    if stood != update.version:
        raise AlreadyExists(
            f"Tag `{update.ref.name}` names version {str(stood)[:12]}, and a tag never moves; nothing was changed",
            code="tag_exists",
            hint="Choose another tag, or use an alias, which may move",
            ref=str(update.ref),
            current=stood,
        )


def _check_name_free(snapshot: Snapshot, change: Change, ref: Ref) -> None:
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
                code="ref_name_taken",
                hint="Choose another name",
                ref=str(ref),
            )


def _attach(
    snapshot: Snapshot, change: Change, added: dict[str, VersionEntry], entries: dict[str, object | None]
) -> None:
    next_sequence: dict[str, int] = {}
    for attachment in change.attachments:
        digest = attachment.version
        if digest not in next_sequence:
            if digest not in added:
                snapshot.version(digest)
            last = snapshot.map.last(f"attached/{digest}/")
            next_sequence[digest] = int(last[0].rpartition("/")[2], 16) + 1 if last else 1
        value: object = attachment.value
        if len(canonical(value)) > _INLINE_BYTES_MAX:
            value = {"blob": snapshot.blobs.write("attachments", str(value).encode())}
        entries[f"attached/{digest}/{next_sequence[digest]:016x}"] = {
            "kind": attachment.kind,
            "name": attachment.name,
            "value": value,
            "author": change.author,
            "time": change.time,
        }
        next_sequence[digest] += 1


def _moved(update: RefUpdate, old: str | None) -> Conflict:
    kind, name = update.ref.kind, update.ref.name
    stands = f"stands at {old[:12]}" if old else "does not exist"
    expected = f"at {update.expected[:12]}" if update.expected else "not to exist"
    return Conflict(
        f"{kind.capitalize()} `{name}` {stands} but was expected {expected}: somebody else moved it; "
        "nothing was changed",
        code="ref_moved",
        hint="See who with `skyhold ref history`, then decide again",
        ref=str(update.ref),
        expected=update.expected,
        current=old,
    )


def _check_length(text: str, what: str, bytes_max: int) -> None:
    check_text(text, what)
    if len(text.encode()) > bytes_max:
        raise InvalidInput(
            f"Expected {what} of at most {bytes_max} bytes but got {len(text.encode())}", code="too_long"
        )


def attachments(digest: str, metrics: Mapping[str, float], notes: Sequence[str]) -> list[Attachment]:
    """Metrics and notes as they are attached to a version."""
    return [
        *(Attachment(digest, "metric", name, value) for name, value in metrics.items()),
        *(Attachment(digest, "note", "note", text) for text in notes),
    ]
