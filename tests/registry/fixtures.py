"""A repository in memory, and versions to put into it."""

from __future__ import annotations

import hashlib

from skyhold.consensus.memory import MemoryRegisters
from skyhold.consensus.register import Registers
from skyhold.registry.change import RefUpdate, RepositoryChange
from skyhold.registry.names import Ref, RefKind
from skyhold.registry.repository_register import RepositoryRegister
from skyhold.registry.snapshot import NewVersion
from skyhold.storage.blobs import MemoryBlobs
from skyhold.store.event import Origin
from skyhold.store.record import ANY

REPOSITORY_ID = "5c" * 16
TIME = "2026-11-23T20:05:02Z"
MAIN = Ref(RefKind.BRANCH, "main")
ORIGIN = Origin("ann", TIME)
CHAMPION = Ref(RefKind.ALIAS, "champion")
V1 = Ref(RefKind.TAG, "v1")


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def entry(name: str, *parents: str, time: str = TIME) -> NewVersion:
    return NewVersion(
        digest(name), digest(name + "/document"), digest(name + "/layout"), tuple(map(digest, parents)), time
    )


def change(
    *refs: RefUpdate,
    versions: tuple[NewVersion, ...] = (),
    gc_epoch: int = 0,
    author: str = "ann",
    reason: str = "",
    **fields: object,
) -> RepositoryChange:
    origin = Origin(author, TIME, reason)
    return RepositoryChange(origin, refs=refs, versions=versions, gc_epoch=gc_epoch, **fields)  # type: ignore[arg-type]


def move(ref: Ref, name: str | None, expected: str | None = ANY, *, force: bool = False) -> RefUpdate:
    """`name` and `expected` are names of versions."""
    expects = expected if expected in {ANY, None} else digest(str(expected))
    return RefUpdate(ref, digest(name) if name else None, expects, force)


def new_repository(registers: Registers | None = None, blobs: MemoryBlobs | None = None) -> RepositoryRegister:
    repository = RepositoryRegister(registers or MemoryRegisters(), blobs or MemoryBlobs(), REPOSITORY_ID)
    repository.create(policy={}, gc_epoch=0, origin=ORIGIN, operation_id="create")
    return repository
