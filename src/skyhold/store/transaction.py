"""Changing a register whose data has structure: planned on its current value, written by one compare-and-set, and
planned again if another process has changed it in the meantime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from skyhold import error_codes
from skyhold.consensus.register import Registers
from skyhold.errors import AlreadyExists, Conflict, NotFound, Unavailable

ATTEMPTS_MAX: Final = 16

Pause = Callable[[int], None]
"""Called before attempt number 2, 3, … of a change: where the caller waits, with jitter."""


def no_pause(_attempt: int) -> None:
    """Try again at once."""


class State(Protocol):
    """What a register held at one moment."""

    @property
    def register_version(self) -> int:
        """0 where it does not exist."""

    def encode(self) -> bytes:
        """The data of the register in this state."""


S = TypeVar("S", bound=State)


@dataclass(frozen=True, slots=True)
class Transactions(Generic[S]):
    """The changes of one register. `what` names it in errors; `read` gives its newest state, `decode` the state of a
    version and its data.

    Every change takes an `operation_id`. A change whose outcome is unknown (`OutcomeUnknown`) may be repeated
    under the same id: if it had taken effect it is not made twice.
    """

    registers: Registers
    key: str
    what: str
    read: Callable[[], S]
    decode: Callable[[int, bytes], S]

    def create(self, first: S, operation_id: str, exists: AlreadyExists) -> S:
        """Create the register in the state `first`. Raises `exists` where another operation has."""
        try:
            value = self.registers.compare_and_set(self.key, 0, first.encode(), operation_id)
        except Conflict as conflict:
            if conflict.code != error_codes.REGISTER_CHANGED:
                raise
            raise exists from conflict
        return self.decode(value.version, value.data)

    def change(
        self, decide: Callable[[S], S | None], operation_id: str, pause: Pause = no_pause, *, before: S | None = None
    ) -> S:
        """Change the register from the state that it has to the one that `decide` returns (None: it is that already).
        Returns the state after it. `before` is the state that this operation has read already; it need not be read
        again then, unless another operation has changed it since.

        The loop of one compare-and-set: the intent stays, and is planned again on what others have written.

        Raises what `decide` raises, and `Unavailable` code `register_contended` after `ATTEMPTS_MAX` changes of others.
        """
        for attempt in range(1, ATTEMPTS_MAX + 1):
            if attempt > 1:
                pause(attempt)
            if before is None or attempt > 1:
                before = self.read()
            try:
                after = decide(before)
            except (AlreadyExists, Conflict, NotFound):
                # It may be our own change, made by an attempt whose reply was lost, that is in the way now.
                done = self.registers.outcome(self.key, operation_id)
                if done is None:
                    raise
                return self.decode(done.version, done.data)
            if after is None:
                # Nothing is left to do, but is what was found acknowledged? An engine settles it, or raises.
                self.registers.outcome(self.key, operation_id)
                return before
            try:
                value = self.registers.compare_and_set(self.key, before.register_version, after.encode(), operation_id)
            except Conflict as conflict:
                if conflict.code != error_codes.REGISTER_CHANGED:
                    raise
            else:
                return self.decode(value.version, value.data)
        raise Unavailable(
            f"{self.what} was changed by others during each of {ATTEMPTS_MAX} attempts; nothing of this change took "
            "effect",
            code=error_codes.REGISTER_CONTENDED,
            hint="Try again",
        )
