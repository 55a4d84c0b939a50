"""What is lost where no bucket has an object intact: the versions that need it, and what can bring them back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from skyhold.errors import SkyholdError
from skyhold.registry.inventory import Inventory
from skyhold.registry.names import RefKind
from skyhold.registry.reading import open_version
from skyhold.registry.snapshot import Snapshot, VersionEntry
from skyhold.storage.object_keys import blob_key, pack_key
from skyhold.storage.version_files import VersionFiles
from skyhold.store.session import Session

What = Literal["files", "layout", "tensors", "document", "attachment"]

PATHS_NAMED_MAX: Final = 3
MAIN: Final = "main"
RESTORED: Final = "restored"
"""The branch to which the files of a version are pushed that no branch points to."""
SCARRED: Final = (
    "No command can recover what is named above. Restore a bucket that has it, or its objects from a backup"
)


@dataclass(frozen=True, slots=True)
class Loss:
    """A version that no bucket can restore completely. `files` are the lost ones, if known; without a `layout` no file
    can be restored, and without a `document` the list of files is lost. With `tensors` the names of tensors are lost,
    with `attachment` metrics and notes; the files are intact. `branch` is one that points to the version, if any
    does."""

    repository: str
    version: str
    what: What
    files: tuple[str, ...] = ()
    branch: str | None = None

    @property
    def restorable(self) -> bool:
        """Whether it is complete again after a push of its files and a repair. Packs are, with any push of the same
        content; a layout is rewritten for the version that a branch points to, by a push to that branch."""
        return self.what == "files" or (self.what in {"layout", "tensors"} and self.branch is not None)

    @property
    def sentence(self) -> str:
        version = f"version {self.version[:10]} of {self.repository}"
        if self.what != "files":
            return f"{version}: {_SENTENCES[self.what]}"
        rest = len(self.files) - PATHS_NAMED_MAX
        return f"{version}: {', '.join(self.files[:PATHS_NAMED_MAX])}" + (f" and {rest} more" if rest > 0 else "")


_SENTENCES: Final[Mapping[What, str]] = {
    "layout": "its layout, which locates its files in the packs",
    "tensors": "the names of its tensors",
    "document": "its document, which names its files, author and metadata",
    "attachment": "attachments, such as metrics and notes",
}


def find_losses(session: Session, inventory: Inventory, lost: Collection[str]) -> tuple[Loss, ...]:
    """The versions of an inventory that need one of the `lost` objects, by their keys."""
    if not lost:
        return ()
    keys = frozenset(lost)
    return tuple(
        loss
        for repository in inventory.repositories
        if not keys.isdisjoint(repository.blobs | repository.packs)
        for loss in _losses(session, repository.name, repository.snapshot, keys)
    )


def _losses(session: Session, name: str, snapshot: Snapshot, keys: frozenset[str]) -> Iterator[Loss]:
    try:
        tips = {state.version: state.ref.name for state in snapshot.refs() if state.ref.kind is RefKind.BRANCH}
        for entry in snapshot.versions():
            loss = _loss(session, name, snapshot, entry, keys)
            if loss is not None:
                yield replace(loss, branch=tips.get(entry.digest))
    except SkyholdError:
        return  # the inventory names what of the map cannot be read


def _loss(session: Session, name: str, snapshot: Snapshot, entry: VersionEntry, keys: frozenset[str]) -> Loss | None:
    if blob_key("versions", entry.document) in keys:
        return Loss(name, entry.digest, "document")
    if blob_key("layouts", entry.layout) in keys:
        return Loss(name, entry.digest, "layout")
    try:
        _, version = open_version(session, snapshot, entry.digest)
        blobs = {folder for folder, blob in version.blobs() if blob_key(folder, blob) in keys}
        if blobs:
            return Loss(name, entry.digest, "tensors" if blobs == {"tensors"} else "layout")
        if not keys.isdisjoint(map(pack_key, version.pack_ids())):
            files = tuple(file.path for index, file in enumerate(version.files) if _needs(version, index, keys))
            return Loss(name, entry.digest, "files", files)
        if any(blob_key("attachments", blob) in keys for blob in snapshot.attachment_blobs(entry.digest)):
            return Loss(name, entry.digest, "attachment")
    except SkyholdError:
        pass  # the inventory names a version that cannot be read
    return None


def _needs(version: VersionFiles, index: int, keys: frozenset[str]) -> bool:
    return any(
        place is not None and pack_key(place.pack.pack_id) in keys
        for chunk in version.chunks(index)
        for place in (chunk.place, chunk.base)
    )


def remedy_of_losses(losses: Sequence[Loss]) -> str:
    """What to do about these, one after the other. A push of the same files stores everything that derives from them.
    It goes to the branch that points to the version, or to a separate one, so that it moves no other branch. A document
    and attachments cannot be derived."""
    loss = min(
        (loss for loss in losses if loss.restorable),
        key=lambda loss: (loss.branch is None, loss.repository, loss.version),
        default=None,
    )
    if loss is None:
        return SCARRED
    branch = "" if loss.branch == MAIN else f" --branch {loss.branch or RESTORED}"
    return (
        f"Where the files of version {loss.version[:10]} of {loss.repository} still are, push them again; this stores "
        f"what the buckets have lost: skyhold push {loss.repository} PATH{branch}"
    )


def remedy_of_unreachable(errors: Mapping[str, SkyholdError]) -> str | None:
    """What to do about the first of the buckets that could not be examined."""
    for name, error in sorted(errors.items()):
        return error.hint or f"Restore bucket `{name}`, or see why it does not answer: skyhold bucket check {name}"
    return None
