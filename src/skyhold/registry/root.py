"""The root of a repository: what its register holds (format.md, 10)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from skyhold import error_codes
from skyhold.errors import QuotaExceeded
from skyhold.storage.canonical import Json, canonical, decode, is_counter, malformed
from skyhold.store.event import first_chain, is_chain
from skyhold.store.ids import check_id
from skyhold.store.register_root import ROOT_BYTES_MAX, check_counters
from skyhold.units import KIB

POLICY_BYTES_MAX: Final = 4 * KIB
_FORMAT: Final = 1
_EMPTY_MAP: Final[Json] = {"level": 0, "entries": []}


@dataclass(frozen=True, slots=True)
class Root:
    """Everything of one repository, small enough for a register. `events` counts its events, and
    `chain` covers them."""

    repository_id: str
    gc_epoch: int
    policy: Json
    chain: str
    deleted: str | None = None
    events: int = 0
    map: Json = field(default_factory=lambda: dict(_EMPTY_MAP))

    @classmethod
    def first(cls, repository_id: str, *, gc_epoch: int, policy: Json) -> Root:
        """The root of a new repository, before its first event. `gc_epoch` is that of the register `names`."""
        return cls(repository_id, gc_epoch, policy, first_chain(register_key(repository_id)))

    @property
    def key(self) -> str:
        """That of its register."""
        return register_key(self.repository_id)

    def encode(self) -> bytes:
        """Canonical JSON. Raises `QuotaExceeded` code `root_too_large` for more than 16 KiB, and `InvalidInput` for a
        counter that readers refuse."""
        check_counters(self.gc_epoch, self.events)
        body = canonical(
            {
                "root": _FORMAT,
                "repository": self.repository_id,
                "gc_epoch": self.gc_epoch,
                "policy": self.policy,
                "deleted": self.deleted,
                "events": self.events,
                "chain": self.chain,
                "map": self.map,
            }
        )
        policy_bytes = len(canonical(self.policy))
        if len(body) > ROOT_BYTES_MAX or policy_bytes > POLICY_BYTES_MAX:
            raise QuotaExceeded(
                f"The root of repository {self.repository_id} has {len(body)} bytes of at most {ROOT_BYTES_MAX}, "
                f"its policy {policy_bytes} of {POLICY_BYTES_MAX}",
                code=error_codes.ROOT_TOO_LARGE,
                hint="Make the repository's policy shorter",
            )
        return body

    @classmethod
    def decode(cls, data: bytes, repository_id: str) -> Root:
        """The root in a register's data. Raises `Corrupt` unless it is one, and that of this repository."""
        what = f"root of repository {repository_id}"
        value = decode(data, what)
        if value.get("root") != _FORMAT:
            malformed(what, f"its format is {value.get('root')!r}")
        if value.get("repository") != repository_id:
            malformed(what, f"it belongs to repository {value.get('repository')!r}")
        gc_epoch, events, chain = value.get("gc_epoch"), value.get("events"), value.get("chain")
        policy, deleted, map_ = value.get("policy"), value.get("deleted"), value.get("map")
        if not is_counter(gc_epoch) or not is_counter(events):
            malformed(what, "a counter is not one")
        if len(data) > ROOT_BYTES_MAX:
            malformed(what, f"it has {len(data)} bytes")
        if not is_chain(chain):
            malformed(what, "its chain is not a hash")
        if not isinstance(policy, dict) or not isinstance(map_, dict) or not isinstance(deleted, str | None):
            malformed(what, "a field has another type")
        if len(canonical(policy)) > POLICY_BYTES_MAX:
            malformed(what, "its policy is too long")
        return cls(repository_id, gc_epoch, policy, chain, deleted, events, map_)


def register_key(repository_id: str) -> str:
    """Key of the register of a repository."""
    return f"repository/{check_id(repository_id)}"
