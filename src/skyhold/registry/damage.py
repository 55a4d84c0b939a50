"""One repository that cannot be read harms none of the others: what looks at all of them goes on, and reports it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TypeVar

from skyhold.consensus.carrying import NAMES
from skyhold.consensus.no_majority import register_lost
from skyhold.consensus.parallel import at_once
from skyhold.errors import Corrupt, NotFound, SkyholdError, Unavailable
from skyhold.registry.catalogue import Catalogue
from skyhold.registry.connection import Connection
from skyhold.storage.policy import Policy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UnreadRepository:
    """A repository that could not be read, or another register, whose `id` is its key then: `code`, `message` and
    `hint` are those of the error."""

    name: str
    id: str
    code: str
    message: str
    hint: str | None

    @classmethod
    def of(cls, name: str, repository_id: str, error: SkyholdError) -> UnreadRepository:
        return cls(name, repository_id, error.code, error.message, error.hint)

    @property
    def sentence(self) -> str:
        what = "Repository" if "/" in self.name else "Register"
        sentence = f"{what} {self.name} cannot be read: {self.message}"
        return f"{sentence}. {self.hint}" if self.hint else sentence

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def read_each(
    repositories: Iterable[tuple[str, str]], read: Callable[[str, str], T], thread_name: str
) -> tuple[list[T], tuple[UnreadRepository, ...]]:
    """What `read` returns of each repository, given its name and id, in their order; and those that it cannot read."""

    def attempt(item: tuple[str, str]) -> T | UnreadRepository:
        try:
            return read(*item)
        except (Corrupt, NotFound, Unavailable) as error:
            return UnreadRepository.of(*item, error)

    found = at_once(attempt, repositories, thread_name)
    unread = tuple(item for item in found if isinstance(item, UnreadRepository))
    return [item for item in found if not isinstance(item, UnreadRepository)], unread


def created_registers(connection: Connection) -> dict[str, bool]:
    """The keys of all registers but `config`, each with whether it is known to have been created."""
    with connection.session(Policy()) as session:
        names = Catalogue(session.registers, session.blobs).read()
        return {NAMES: names.register_version > 0, **names.created()}


def first_unreadable(connection: Connection) -> Corrupt | None:
    """Why a register cannot be read that is damaged or lost, of those beside `config`."""

    def check(key: str) -> None:
        if connection.registers.read(key) is None and created[key]:
            raise register_lost(key)

    try:
        created = created_registers(connection)
        at_once(check, created, "check")
    except Corrupt as error:
        return error
    return None


def refuse_unreadable(connection: Connection) -> None:
    """Raise `Corrupt` where a register is damaged or lost, before other voters, buckets or another engine are to carry
    on with all of them: half-way it would hold up everybody. Nothing is changed then."""
    error = first_unreadable(connection) if connection.shared else None
    if error is not None:
        raise Corrupt(
            f"The buckets, voters and engine of the store can change only with all registers at hand: {error.message}",
            code=error.code,
            hint=error.hint,
            **error.fields,
        ) from error
