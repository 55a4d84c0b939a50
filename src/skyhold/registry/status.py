"""The state of a store: what each bucket lacks, and whether the versions of each repository are durable to its
policy."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from skyhold.consensus.acceptor_object import parse_object_key
from skyhold.errors import SkyholdError
from skyhold.registry.inventory import RepositoryInventory, take_inventory
from skyhold.registry.reached_file import ReachedFile
from skyhold.registry.verification import doubt
from skyhold.storage.policy import Policy, durability
from skyhold.storage.progress import Silence
from skyhold.storage.survey import Survey, survey
from skyhold.store.connection import Connection
from skyhold.store.engine_status import EngineStatus, engine_of
from skyhold.store.membership import Membership, examine
from skyhold.store.register_copies import RegisterCopies, examine_registers
from skyhold.store.unreadable_repositories import UnreadableRepository

OUTDATED: Final = "Its store.json is of a past epoch: skyhold sync"


@dataclass(frozen=True, slots=True)
class BucketStatus:
    """One bucket. `missing` counts objects that it lacks; `registers` are its copies of registers, by their keys, that
    are damaged or missing; `error` is why it cannot be read, or is not a member, and `hint` what to do."""

    name: str
    url: str
    provider: str
    region: str | None
    role: str
    reachable: bool
    objects: int
    missing: int
    held_bytes: int
    error: str | None
    hint: str | None
    registers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RepositoryStatus:
    """One repository: in how many buckets it is complete, and whether that meets its policy."""

    name: str
    versions: int
    complete_in: tuple[str, ...]
    durable: bool
    detail: str


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """`damage` are sentences on what is lost or damaged; `unread` are the repositories among it that cannot be read at
    all."""

    store: str
    engine: EngineStatus
    sealed: bool
    buckets: tuple[BucketStatus, ...]
    repositories: tuple[RepositoryStatus, ...]
    damage: tuple[str, ...]
    unread: tuple[UnreadableRepository, ...]


def status_of(connection: Connection) -> StoreStatus:
    """Presence and sizes of everything, by listings, and each copy of each register."""
    members = examine(connection)
    with connection.session(Policy(), fresh=True) as session:
        inventory = take_inventory(connection, session, known=ReachedFile(connection.state.reached))
    buckets_asked = {name: bucket for name, bucket in connection.buckets().items() if members[name].error is None}
    found = survey(buckets_asked, inventory.expected, connection.checker, Silence(), deep=False)
    doubt(connection, found.findings)
    answering = [name for name in buckets_asked if found.buckets[name].error is None]
    copies = examine_registers(connection, answering, looks=1)
    document = connection.document
    missing = Counter(finding.bucket for finding in found.findings)
    buckets = []
    for configured in connection.configuration.buckets:
        location = configured.location
        state = found.buckets.get(location.name)
        error = members[location.name].error or (state.error if state is not None else None)
        buckets.append(
            BucketStatus(
                name=location.name,
                url=location.url,
                provider=location.provider,
                region=location.region,
                role=configured.role,
                reachable=members[location.name].reachable,
                objects=0 if state is None else state.held,
                missing=missing[location.name],
                held_bytes=0 if state is None else state.held_bytes,
                error=None if error is None else error.message,
                hint=_hint(members[location.name], error, copies, location.name),
                registers=tuple(finding.key for finding in copies.findings if finding.bucket == location.name),
            )
        )
    repositories = tuple(_repository_status(connection, item, found, members) for item in inventory.repositories)
    return StoreStatus(
        document.store, engine_of(connection), document.sealed, tuple(buckets), repositories, inventory.damage,
        inventory.unread,
    )  # fmt: skip


def _hint(member: Membership, error: SkyholdError | None, copies: RegisterCopies, name: str) -> str | None:
    if error is not None:
        return error.hint
    if member.outdated:
        return OUTDATED
    waiting = copies.unsettled.keys() | copies.scarce  # for a recovery, which no repair replaces
    problems = {
        finding.problem
        for finding in copies.findings
        if finding.bucket == name and (place := parse_object_key(finding.key)) and place[1] not in waiting
    }
    return "skyhold repair" if "damaged" in problems else "skyhold sync" if problems else None


def _repository_status(
    connection: Connection, item: RepositoryInventory, found: Survey, members: dict[str, Membership]
) -> RepositoryStatus:
    keys = item.blobs | item.packs
    lacking = {finding.bucket for finding in found.findings if finding.key in keys}
    complete = [
        name
        for name, bucket in found.buckets.items()
        if bucket.error is None and members[name].error is None and name not in lacking
    ]
    durable = durability(item.policy, connection.configuration.locations, complete)
    return RepositoryStatus(item.name, item.versions, tuple(complete), durable.met, durable.describe())
