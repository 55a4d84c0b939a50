"""What the methods of repositories and stores return: plain frozen dataclasses. `skyhold.results` lists them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from skyhold.errors import Corrupt
from skyhold.registry.history import Move
from skyhold.registry.names import RefKind
from skyhold.registry.snapshot import Attached, Snapshot
from skyhold.registry.version import Lineage, VersionFile
from skyhold.storage.object_keys import PUBLIC_ID_CHARACTERS
from skyhold.store.event import Event

if TYPE_CHECKING:
    from skyhold.registry.search import Candidate
    from skyhold.storage.pull_plan import PullSources


@dataclass(frozen=True, slots=True)
class RepositoryInfo:
    """A repository in a list. `deleted` is the time of its deletion, or None."""

    name: str
    id: str
    branches: int = 0
    tags: int = 0
    aliases: dict[str, str] = field(default_factory=dict)
    versions: int = 0
    updated: str | None = None
    deleted: str | None = None

    @classmethod
    def of(cls, name: str, snapshot: Snapshot) -> RepositoryInfo:
        """The entry of a repository in this state."""
        refs = list(snapshot.refs())
        entries = snapshot.version_entries()
        updated = None
        with suppress(Corrupt):  # `verify` names what cannot be read
            updated = snapshot.last_entered(entries)
        return cls(
            name=name,
            id=snapshot.root.repository_id,
            branches=sum(state.ref.kind is RefKind.BRANCH for state in refs),
            tags=sum(state.ref.kind is RefKind.TAG for state in refs),
            aliases={state.ref.name: str(state.version) for state in refs if state.ref.kind is RefKind.ALIAS},
            versions=len(entries),
            updated=updated,
        )


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A version that matched a query."""

    repository: str
    version: str
    time: str
    refs: tuple[str, ...]
    metrics: dict[str, float]
    in_json: ClassVar = ("id",)

    @property
    def id(self) -> str:
        return self.version[:PUBLIC_ID_CHARACTERS]

    @classmethod
    def of(cls, hit: Candidate) -> SearchHit:
        return cls(hit.repository, hit.digest, hit.time, tuple(map(str, hit.refs)), dict(hit.metrics))


@dataclass(frozen=True, slots=True)
class RefView:
    """A ref with the version that it points to; `name` is like `branch/main`."""

    name: str
    version: str
    time: str
    message: str
    unread: str = ""
    """Why the version's document cannot be read, which has its message."""
    in_json: ClassVar = ("id",)

    @property
    def id(self) -> str:
        """Public id of the version."""
        return self.version[:PUBLIC_ID_CHARACTERS]


@dataclass(frozen=True, slots=True)
class AttachedView:
    """A metric, note or signature of a version, with its author and time."""

    kind: str
    name: str
    value: object
    author: str
    time: str

    @classmethod
    def of(cls, item: Attached) -> AttachedView:
        return cls(item.kind, item.name, item.value, item.author, item.time)


@dataclass(frozen=True, slots=True)
class Version:
    """A version with all that is attached to it. `digest` has 64 hex characters, `id` the first 40 of them; `parents`
    are digests. `found_by` is as of `PullResult`. `tensor_count` is None
    where it could not be read."""

    repository: str
    digest: str
    found_by: str
    message: str
    author: str
    time: str
    parents: tuple[str, ...]
    files: tuple[VersionFile, ...]
    size_bytes: int
    tensor_count: int | None
    parameters: dict[str, object]
    metadata: dict[str, object]
    lineage: Lineage
    attached: tuple[AttachedView, ...]
    refs: tuple[str, ...]
    model_card: str | None
    in_json: ClassVar = ("id", "metrics")

    @property
    def id(self) -> str:
        return self.digest[:PUBLIC_ID_CHARACTERS]

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics by name; of several values the one attached last."""
        return {
            item.name: item.value
            for item in self.attached
            if item.kind == "metric" and isinstance(item.value, int | float)
        }


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One version in a log, newest first, with the refs that point to it."""

    digest: str
    parents: tuple[str, ...]
    author: str
    time: str
    message: str
    refs: tuple[str, ...]
    metrics: dict[str, float]
    unread: str = ""
    """Why the version's document cannot be read, which has its author and message."""
    in_json: ClassVar = ("id",)

    @property
    def id(self) -> str:
        return self.digest[:PUBLIC_ID_CHARACTERS]


@dataclass(frozen=True, slots=True)
class MoveView:
    """A move of a ref; `old` and `new` are digests, None where it was created or deleted. Moves that were made together
    have one `sequence`, that of their event. `ref` is like `branch/main`."""

    sequence: int
    ref: str
    old: str | None
    new: str | None
    author: str
    time: str
    reason: str


@dataclass(frozen=True, slots=True)
class EventView:
    """A change of a register: `register` is `config`, `names`, the name that a repository has now, or kind and name of
    a document (`cluster/prod`); `key` is the register's key, which never changes. `changes` are its parts, each an
    object with its `kind`; `chain` covers it and all events before it (format.md, 10)."""

    register: str
    key: str
    sequence: int
    author: str
    actor: str
    time: str
    reason: str
    group: str | None
    changes: tuple[dict[str, object], ...]
    chain: str

    @classmethod
    def of(cls, register: str, key: str, event: Event) -> EventView:
        by = event.origin
        return cls(
            register, key, event.sequence, by.author, by.actor, by.time, by.reason, by.group, event.what, event.chain
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class PushResult:
    """What a push did. `unchanged`: the branch had this content already. `stored_bytes` is what new packs
    hold; `sent_bytes` what that makes for each bucket; `lagging` names lagging buckets, with the reason.
    `ignored` are paths that rules left out, `left_out` those that are no part of a model, each with the reason."""

    repository: str
    version: str
    branch: str
    files: int
    total_bytes: int
    stored_bytes: int
    reused_bytes: int
    delta_bytes: int
    sent_bytes: dict[str, int]
    lagging: dict[str, str]
    unchanged: bool
    ignored: tuple[str, ...]
    left_out: dict[str, str]
    dry_run: ClassVar[Literal[False]] = False
    in_json: ClassVar = ("id", "dry_run")

    @property
    def id(self) -> str:
        return self.version[:PUBLIC_ID_CHARACTERS]


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What a push would do; its fields are those of `PushResult`. The id of its version is unknown, since it
    includes the time. `lagging` are the buckets that lack packs which would be reused."""

    repository: str
    branch: str
    files: int
    total_bytes: int
    stored_bytes: int
    reused_bytes: int
    delta_bytes: int
    sent_bytes: dict[str, int]
    lagging: dict[str, str]
    ignored: tuple[str, ...]
    left_out: dict[str, str]
    dry_run: ClassVar[Literal[True]] = True
    in_json: ClassVar = ("dry_run",)


@dataclass(frozen=True, slots=True)
class PullResult:
    """What a pull did. `kept_bytes` were in the target folder already, `fetched_bytes` came from cache or buckets.
    `found_by` is what named the version: the refs of a `majority`, those in one `bucket`, or this machine's `cache`.
    `left_out` are the files that were not written because their names control other programs, or the tensors that
    safetensors cannot hold, each with the reason."""

    repository: str
    version: str
    destination: str
    files: int
    total_bytes: int
    kept_bytes: int
    fetched_bytes: int
    tensors: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    found_by: str = "majority"
    dry_run: ClassVar[Literal[False]] = False
    in_json: ClassVar = ("id", "dry_run")

    @property
    def id(self) -> str:
        return self.version[:PUBLIC_ID_CHARACTERS]


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What a pull would do; its fields are as those of `PullResult`. `sources` are the sources of the bytes,
    `fetched_bytes` their sum."""

    repository: str
    version: str
    destination: str
    files: int
    total_bytes: int
    kept_bytes: int
    sources: PullSources
    tensors: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    found_by: str = "majority"
    dry_run: ClassVar[Literal[True]] = True
    in_json: ClassVar = ("id", "fetched_bytes", "dry_run")

    @property
    def id(self) -> str:
        return self.version[:PUBLIC_ID_CHARACTERS]

    @property
    def fetched_bytes(self) -> int:
        return self.sources.total_bytes


def move_view(move: Move) -> MoveView:
    """A move for programs."""
    origin = move.event.origin
    return MoveView(move.event.sequence, str(move.ref), move.old, move.new, origin.author, origin.time, origin.reason)
