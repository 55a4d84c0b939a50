"""One repository that cannot be read harms none of the others: what looks at all of them goes on, and reports it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from skyhold.consensus.parallel import at_once
from skyhold.errors import Corrupt, NotFound, SkyholdError, Unavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UnreadableRepository:
    """A repository that could not be read, or another register, whose `id` is its key then: `code`, `message` and
    `hint` are those of the error."""

    name: str
    id: str
    code: str
    message: str
    hint: str | None

    @classmethod
    def of(cls, name: str, repository_id: str, error: SkyholdError) -> UnreadableRepository:
        return cls(name, repository_id, error.code, error.message, error.hint)

    @property
    def sentence(self) -> str:
        what = "Repository" if "/" in self.name else "Register"
        sentence = f"{what} {self.name} cannot be read: {self.message}"
        return f"{sentence}. {self.hint}" if self.hint else sentence


def read_each(
    repositories: Iterable[tuple[str, str]], read: Callable[[str, str], T], thread_name: str
) -> tuple[list[T], tuple[UnreadableRepository, ...]]:
    """What `read` returns of each repository, given its name and id, in their order; and those that it cannot read."""

    def attempt(item: tuple[str, str]) -> T | UnreadableRepository:
        try:
            return read(*item)
        except (Corrupt, NotFound, Unavailable) as error:
            return UnreadableRepository.of(*item, error)

    found = at_once(attempt, repositories, thread_name)
    unread = tuple(item for item in found if isinstance(item, UnreadableRepository))
    return [item for item in found if not isinstance(item, UnreadableRepository)], unread
