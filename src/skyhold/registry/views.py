"""What the façade returns: plain frozen records, each with `to_json()` for programs and `--json`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from skyhold.errors import Corrupt
from skyhold.registry.history import Move
from skyhold.registry.names import Ref, RefKind
from skyhold.registry.snapshot import Attached, Snapshot
from skyhold.registry.version import VersionDocument, VersionFile
from skyhold.storage.object_keys import PUBLIC_ID_CHARACTERS
from skyhold.storage.policy import Policy
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
        """What is told of a repository in this state."""
        refs = list(snapshot.refs())
        updated = None
        with suppress(Corrupt):  # `verify` names what cannot be read
            updated = snapshot.last_entered()
        return cls(
            name=name,
            id=snapshot.root.repository_id,
            branches=sum(state.ref.kind is RefKind.BRANCH for state in refs),
            tags=sum(state.ref.kind is RefKind.TAG for state in refs),
            aliases={state.ref.name: str(state.version) for state in refs if state.ref.kind is RefKind.ALIAS},
            versions=snapshot.version_count(),
            updated=updated,
        )

    def to_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A version that matched a query."""

    repository: str
    version: str
    time: str
    refs: tuple[str, ...]
    metrics: dict[str, float]

    @property
    def id(self) -> str:
        return self.version[:PUBLIC_ID_CHARACTERS]

    @classmethod
    def of(cls, hit: Candidate) -> SearchHit:
        return cls(hit.repository, hit.digest, hit.time, tuple(map(str, hit.refs)), dict(hit.metrics))

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"id": self.id, "refs": list(self.refs)}


@dataclass(frozen=True, slots=True)
class RefView:
    """A ref with the version at which it stands; `name` is like `branch/main`."""

    name: str
    version: str
    time: str
    message: str
    unread: str = ""
    """Why the version's document cannot be read, which has its message."""

    @property
    def id(self) -> str:
        """Public id of the version."""
        return self.version[:PUBLIC_ID_CHARACTERS]

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"id": self.id}


@dataclass(frozen=True, slots=True)
class Version:
    """A version with all that is attached to it. `digest` has 64 hex characters, `id` the first 40 of them. `found_by`
    is as of `PullResult`. `tensor_count` is None where it could not be read."""

    repository: str
    digest: str
    document: VersionDocument
    attached: tuple[Attached, ...]
    refs: tuple[str, ...]
    model_card: str | None
    size_bytes: int
    tensor_count: int | None
    found_by: str = "majority"

    @property
    def id(self) -> str:
        return self.digest[:PUBLIC_ID_CHARACTERS]

    @property
    def files(self) -> tuple[VersionFile, ...]:
        return self.document.files

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics by name; of several values the one attached last."""
        return {
            item.name: item.value
            for item in self.attached
            if item.kind == "metric" and isinstance(item.value, int | float)
        }

    def to_json(self) -> dict[str, object]:
        document = self.document
        return {
            "repository": self.repository,
            "id": self.id,
            "digest": self.digest,
            "found_by": self.found_by,
            "message": document.message,
            "author": document.author,
            "time": document.time,
            "parents": list(document.parents),
            "files": [file.to_json() for file in document.files],
            "size_bytes": self.size_bytes,
            "tensor_count": self.tensor_count,
            "parameters": document.parameters,
            "metadata": document.metadata,
            "lineage": document.lineage.to_json(),
            "metrics": self.metrics,
            "attached": [attached_json(item) for item in self.attached],
            "refs": list(self.refs),
            "model_card": self.model_card,
        }


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One version in a log, newest first, with the refs that stand at it."""

    digest: str
    parents: tuple[str, ...]
    author: str
    time: str
    message: str
    refs: tuple[str, ...]
    metrics: dict[str, float]
    unread: str = ""
    """Why the version's document cannot be read, which has its author and message."""

    @property
    def id(self) -> str:
        return self.digest[:PUBLIC_ID_CHARACTERS]

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"id": self.id, "parents": list(self.parents), "refs": list(self.refs)}


@dataclass(frozen=True, slots=True)
class MoveView:
    """A move of a ref; `old` and `new` are digests, None where it was created or deleted. Moves that were made together
    have one `sequence`, that of their event."""

    sequence: int
    ref: Ref
    old: str | None
    new: str | None
    author: str
    time: str
    reason: str

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"ref": str(self.ref)}


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

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"changes": list(self.changes)}


@dataclass(frozen=True, slots=True)
class PushResult:
    """What a push did. `unchanged`: the branch stood at this very content already. `stored_bytes` is what new packs
    hold; `sent_bytes` what that makes for each bucket; `lagging` names buckets that follow later, with the reason.
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
    unchanged: bool = False
    dry_run: bool = False
    ignored: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.version[:PUBLIC_ID_CHARACTERS]

    def to_json(self) -> dict[str, object]:
        named: dict[str, object] = {"version": None, "id": None} if self.dry_run else {"id": self.id}
        return asdict(self) | named | {"ignored": list(self.ignored)}


@dataclass(frozen=True, slots=True)
class PullResult:
    """What a pull did, or in a dry run would do. `kept_bytes` were in the target folder already, `fetched_bytes` came
    from cache or buckets; a dry run gives in `sources` from which. `found_by` is what named the version: the refs of a
    `majority`, those in one `bucket`, or this machine's `cache`. `left_out` are the files that were not written
    because their names steer other programs, or the tensors that safetensors cannot hold, each with the reason."""

    repository: str
    version: str
    destination: str
    files: int
    total_bytes: int
    kept_bytes: int
    fetched_bytes: int
    tensors: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    dry_run: bool = False
    sources: PullSources | None = None
    found_by: str = "majority"

    @property
    def id(self) -> str:
        return self.version[:PUBLIC_ID_CHARACTERS]

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"id": self.id, "tensors": list(self.tensors)}


@dataclass(frozen=True, slots=True)
class RepositoryPolicy:
    """A policy beside what a loss of buckets would cost under it."""

    policy: Policy
    sentences: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return {"policy": self.policy.to_json(), "loss": list(self.sentences)}


def attached_json(item: Attached) -> dict[str, object]:
    """An attachment for programs."""
    return {"kind": item.kind, "name": item.name, "value": item.value, "author": item.author, "time": item.time}


def move_view(move: Move) -> MoveView:
    """A move for programs."""
    origin = move.event.origin
    return MoveView(move.event.sequence, move.ref, move.old, move.new, origin.author, origin.time, origin.reason)
