"""The features of a store: what a program must know, beyond the format, to read and to change it (format.md, 3). Pure.

A feature is switched on by a move to a new epoch, whose configuration names it. So a process that is open meets it
before its next write.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from skyhold import error_codes
from skyhold.errors import InvalidInput
from skyhold.storage.canonical import Json

FEATURES_MAX: Final = 64
READ: Final[frozenset[str]] = frozenset()
"""The features that this program knows, of those that a reader must know."""
WRITE: Final[frozenset[str]] = frozenset({"follow"})
"""The same for a writer. `follow`: a move of a ref moves the target of what follows it (format.md, 10)."""
_NAME: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Features:
    """The features of a store: `read` must be known to read it, and all of them to write to it."""

    read: frozenset[str] = frozenset()
    write: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        names = [*self.read, *self.write]
        if len(names) > FEATURES_MAX or not all(_NAME.fullmatch(name) for name in names):
            raise InvalidInput(
                f"Expected at most {FEATURES_MAX} names of features but got {sorted(names)}",
                code=error_codes.INVALID_FEATURE,
            )

    def __or__(self, other: Features) -> Features:
        return Features(self.read | other.read, self.write | other.write)

    def to_json(self) -> Json:
        return {"read": sorted(self.read), "write": sorted(self.write)}

    @classmethod
    def from_json(cls, value: object) -> Features:
        """The inverse. Raises `InvalidInput`."""
        if not isinstance(value, dict) or value.keys() != {"read", "write"}:
            raise InvalidInput(f"Expected the features of a store but got {value!r}", code=error_codes.INVALID_FEATURE)
        for names in value.values():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise InvalidInput(f"Expected names of features but got {names!r}", code=error_codes.INVALID_FEATURE)
            if names != sorted(set(names)):
                raise InvalidInput(
                    f"The features {names!r} are not sorted, each once", code=error_codes.INVALID_FEATURE
                )
        return cls(frozenset(value["read"]), frozenset(value["write"]))

    def refuse_unread(self) -> None:
        """Raise `InvalidInput` code `feature_unknown` where this program cannot read the store."""
        _refuse(sorted(self.read - READ), "read")

    def refuse_unwritten(self) -> None:
        """Raise `InvalidInput` code `feature_unknown` where this program must not change anything in the store."""
        self.refuse_unread()
        _refuse(sorted(self.write - WRITE), "changed")


FOUNDED_WITH: Final = Features(write=frozenset({"follow"}))
"""The features of a new store."""


def _refuse(unknown: list[str], what: str) -> None:
    if unknown:
        raise InvalidInput(
            f"The store uses features that this Skyhold does not know, without which it cannot be {what}: "
            f"{', '.join(unknown)}",
            code=error_codes.FEATURE_UNKNOWN,
            hint="Upgrade: pip install --upgrade skyhold",
            features=unknown,
        )
