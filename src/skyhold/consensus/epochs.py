"""The registers of a store from one epoch to the next: other voters, or another engine.

An epoch is one engine with one membership. It ends by seals, which are decided values like any other:

    1. `config` is sealed with the configuration that follows: of several proposed changes one is decided
    2. `names` is sealed: the keys of all registers of this epoch are known from then on
    3. every register that it lists is sealed, and restored in the next epoch with all of its kept changes
    4. `names` is restored, and at last `config`, with the new configuration: the next epoch begins

Any client that meets a seal while step 4 is not done does what is left, so a change that died half-way blocks no
client. No change is lost: a seal is the last change of its register, decided by a majority of the old voters, and no
client works in the next epoch before all of them are there. (The same idea, for one log: L. Lamport, D. Malkhi, L.
Zhou, "Reconfiguring a state machine", 2010, with the wedge as a command of the log.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from typing import Final, TypeVar

from skyhold import error_codes
from skyhold.consensus.migration import CONFIG, NAMES, SEAL_ATTEMPTS_MAX, Succession, carry_over, contended_seal
from skyhold.consensus.no_majority import NOT_TO_BE_HAD
from skyhold.consensus.register import (
    EngineRegisters,
    Known,
    RegisterChange,
    Registers,
    Resync,
    Versioned,
    register_sealed,
)
from skyhold.errors import Conflict, Corrupt, OutcomeUnknown, PermissionDenied, SkyholdError, Unavailable

EPOCHS_MAX: Final = 1_000
"""How many epochs one call follows: more is a chain of seals that leads nowhere."""
OPEN_MAX: Final = 4
"""How many epochs stay open: that of now, and the last ones, in which a thread may still wait for a voter."""
WATCH_SLICE_S_MAX: Final = 5.0

T = TypeVar("T")


class StoreRegisters(Registers):
    """The registers of a store in whichever epoch it is: callers see neither seals nor moves. Thread-safe: of the
    threads that meet a seal one follows, under the lock `following`, and the others find it done.

    A move counts as a change of every register, which leaves its data as it was: so a change that was planned before it
    is refused, and planned again. Raises, beside the errors of the port, `Unavailable` where the voters of the next
    epoch do not answer, and `PermissionDenied` where a move is half done and these credentials cannot finish it:
    reading still answers then.
    """

    def __init__(
        self,
        first: EngineRegisters,
        succession: Succession,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        following: AbstractContextManager[object] | None = None,
        lent: bool = False,
    ) -> None:
        """`lent`: the first epoch belongs to the caller, which closes it."""
        self._current = first
        self._succession = succession
        self._monotonic = monotonic
        self._opened = [] if lent else [first]
        self._following = following or threading.Lock()

    @property
    def current(self) -> EngineRegisters:
        """The registers of the present epoch, as far as it is known."""
        return self._current

    def read(self, key: str) -> Versioned | None:
        for _ in range(EPOCHS_MAX):
            epoch = self._current
            try:
                value = epoch.read(key)
            except Corrupt as error:
                self._follow_damaged(epoch, key, error)
                continue
            seal = self._seal_of(epoch, value)
            if seal is None:
                return value
            if not self._could_follow(epoch, seal):
                return _standing(value)
        raise _endless(key)

    def read_known(self, key: str, *, max_age_s: float = 0.0) -> Known:
        for _ in range(EPOCHS_MAX):
            epoch = self._current
            try:
                found = epoch.read_known(key, max_age_s=max_age_s)
            except Corrupt as error:
                self._follow_damaged(epoch, key, error)
                continue
            newest = found.undecided or found.value
            if newest is None and found.age_s is not None:
                # A client in an old epoch finds nothing either. (A reader that may be stale overrides `read` by this.)
                return Known(StoreRegisters.read(self, key))
            seen = replace(found, value=_standing(found.value), undecided=_standing(found.undecided))
            if newest is None or newest.next_configuration is None:
                return seen
            if key == CONFIG and newest is found.undecided:
                return seen  # other registers are sealed once that of `config` is decided; it may yet be another
            try:
                self._follow(epoch, newest.next_configuration)
            except (Unavailable, PermissionDenied):
                return replace(seen, age_s=None)
        raise _endless(key)

    def compare_and_set(self, key: str, expected_version: int, data: bytes, operation_id: str) -> Versioned:
        for _ in range(EPOCHS_MAX):
            epoch = self._current
            self.check_writable()
            try:
                return epoch.compare_and_set(key, expected_version, data, operation_id)
            except Conflict as conflict:
                if conflict.code != error_codes.REGISTER_SEALED:
                    raise
            except Corrupt as error:
                self._follow_damaged(epoch, key, error)
                continue
            self._follow_from(epoch, key)
        raise _endless(key)

    def outcome(self, key: str, operation_id: str) -> Versioned | None:
        return self._settled(key, lambda epoch: epoch.outcome(key, operation_id))

    def changes(self, key: str) -> Sequence[RegisterChange]:
        for _ in range(EPOCHS_MAX):
            epoch = self._current
            try:
                changes = epoch.changes(key)
            except Corrupt as error:
                self._follow_damaged(epoch, key, error)
                continue
            seal = self._seal_of(epoch, changes[-1].value if changes else None)
            if seal is None:
                return changes
            self._follow(epoch, seal)
        raise _endless(key)

    def list(self, prefix: str = "") -> list[str]:
        for _ in range(EPOCHS_MAX):
            epoch = self._current
            keys = epoch.list(prefix)
            seal = self._seal_of(epoch, None)
            if seal is None:
                return keys
            self._follow(epoch, seal)
        raise _endless(prefix)

    def watch(self, key: str, after_version: int, *, timeout_s: float) -> Sequence[Versioned] | Resync:
        deadline_s = self._monotonic() + timeout_s
        while True:
            epoch = self._current
            slice_s = min(max(deadline_s - self._monotonic(), 0), WATCH_SLICE_S_MAX)
            try:
                changes = epoch.watch(key, after_version, timeout_s=slice_s)
            except Corrupt as error:
                self._follow_damaged(epoch, key, error)
                continue
            newest = changes.current if isinstance(changes, Resync) else changes[-1] if changes else None
            if newest is None or newest.sealed:
                seal = self._seal_of(epoch, newest)
                if seal is not None:
                    if self._could_follow(epoch, seal):
                        continue  # it has all of these changes, with the seal as one like any other, and those since
                    if isinstance(changes, Resync):
                        return Resync(_unsealed(changes.current))
                    return [_unsealed(value) for value in changes if value.data]
            elif changes:
                return changes
            if self._monotonic() >= deadline_s:
                return []

    def advance(self, decide: Callable[[Versioned], bytes]) -> bytes:
        """End the present epoch. `decide` makes the configuration that follows from the register `config`, and is
        called again where another client was faster; what it raises ends the attempt. Returns the configuration.

        Nothing is changed where the voters of the next epoch do not answer.
        """
        for _ in range(SEAL_ATTEMPTS_MAX):
            epoch = self._current
            self.check_writable()
            value = epoch.read(CONFIG)
            if value is None:
                raise Corrupt("The store has no configuration", code=error_codes.REGISTERS_MISSING)
            if value.next_configuration is not None:
                self._follow(epoch, value.next_configuration)
                continue
            following = decide(value)
            self._refuse_used(following)
            try:
                epoch.seal(CONFIG, value.version, following)
            except Conflict as conflict:
                if conflict.code not in {error_codes.REGISTER_CHANGED, error_codes.REGISTER_SEALED}:
                    raise
                continue
            self._follow(epoch, following)
            return following
        raise contended_seal(CONFIG)

    def resume(self, decide: Callable[[Versioned], bytes]) -> bytes:
        """As `advance`, from an epoch whose register `config` was damaged and then retired: the next one begins from
        what was salvaged of it. Of two that want different ones the first to seal `names` wins.

        Raises `Corrupt` where `config` was not retired.
        """
        epoch = self._current
        salvaged = epoch.salvaged(CONFIG)
        if not salvaged:
            raise Corrupt("The register `config` is not retired", code=error_codes.REGISTER_DAMAGED, key=CONFIG)
        value = salvaged[-1].value
        following = value.next_configuration
        if following is None:
            following = decide(value)
            self._refuse_used(following)
        self._follow(epoch, following)
        return following

    def check_writable(self) -> None:
        """As `Succession.check_writable`."""
        self._succession.check_writable()

    def close(self) -> None:
        with ExitStack() as closing:  # one that raises keeps none open; of several errors the first epoch's is raised
            for epoch in self._opened:
                closing.callback(epoch.close)

    # ---- following

    def _settled(self, key: str, ask: Callable[[EngineRegisters], T | None]) -> T | None:
        """An answer of the present epoch; one that finds nothing counts only where the register had not moved on."""
        for _ in range(EPOCHS_MAX):
            epoch = self._current
            try:
                answer = ask(epoch)
            except Corrupt as error:
                self._follow_damaged(epoch, key, error)
                continue
            if answer is not None:
                return answer
            seal = self._seal_of(epoch, epoch.read(key))
            if seal is None:
                return None
            self._follow(epoch, seal)
        raise _endless(key)

    def _seal_of(self, epoch: EngineRegisters, value: Versioned | None) -> bytes | None:
        """The configuration that follows on an epoch, where a register with this value has moved on. One that does not
        exist may have been created since in another epoch, which `config` shows."""
        if value is None:
            value = epoch.read(CONFIG)
        return None if value is None else value.next_configuration

    def _follow_from(self, epoch: EngineRegisters, key: str) -> None:
        value = epoch.read(key)
        if value is None or value.next_configuration is None:
            raise register_sealed(key, value or Versioned(0, b""))
        self._follow(epoch, value.next_configuration)

    def _follow_damaged(self, epoch: EngineRegisters, key: str, error: Corrupt) -> None:
        """A register that is damaged has no seal to show. Follow that of another one, as it may continue in the next
        epoch; where there is none, or it cannot be read, raise the error."""
        seal = None
        if error.code in NOT_TO_BE_HAD:
            with suppress(Corrupt):
                value = epoch.read(NAMES if key == CONFIG else CONFIG)
                seal = None if value is None else value.next_configuration
        if seal is None:
            raise error
        self._follow(epoch, seal)

    def _follow(self, epoch: EngineRegisters, next_configuration: bytes) -> None:
        """Work in the next epoch from now on; where it has not begun, finish what begins it."""
        with self._following:
            if self._current is not epoch:
                return
            following = self._succession.open(next_configuration)
            try:
                if following.read(CONFIG) is None:
                    self._begin(epoch, following, next_configuration)
                self._succession.entered(next_configuration)
            except BaseException:
                following.close()
                raise
            self._opened.append(following)
            self._current = following
            while len(self._opened) > OPEN_MAX:
                with suppress(SkyholdError):
                    self._opened.pop(0).close()

    def _could_follow(self, epoch: EngineRegisters, next_configuration: bytes) -> bool:
        """Follow for a reader: False where a move is half done, and these credentials cannot finish it. The next epoch
        had not begun when this was seen, so this one contains the newest."""
        try:
            self._follow(epoch, next_configuration)
        except PermissionDenied as error:
            if error.code != error_codes.EPOCH_UNFINISHED:
                raise
            return False
        return True

    def _begin(self, epoch: EngineRegisters, following: EngineRegisters, next_configuration: bytes) -> None:
        try:
            carry_over(epoch, following, next_configuration, self._succession)
        except PermissionDenied as error:
            raise PermissionDenied(
                f"The store is moving to another configuration, which these credentials cannot finish: {error.message}",
                code=error_codes.EPOCH_UNFINISHED,
                hint="Run any command, such as `skyhold status`, with credentials that may write",
            ) from error
        except Corrupt as error:
            if error.code not in NOT_TO_BE_HAD:
                raise
            raise Corrupt(
                f"The store is moving all registers to another configuration and cannot continue: {error.message}",
                code=error.code,
                hint=error.hint,
                **error.fields,
            ) from error
        except (OutcomeUnknown, Unavailable) as error:  # of the move: what is asked of the next epoch was not sent yet
            raise Unavailable(
                f"The store is moving to another configuration, which is not complete: {error.message}",
                code=error_codes.EPOCH_UNFINISHED,
                hint="Run the command again: it continues where it stopped",
                **error.fields,
            ) from error

    def _refuse_used(self, next_configuration: bytes) -> None:
        """The voters of the next epoch answer, and have nothing of it yet: a seal would else leave the store stuck.

        They are only looked at. An epoch of this number may have begun with other voters: a value that these here
        settled among themselves would, at the voters that both have, override what that one has decided.
        """
        following = self._succession.open(next_configuration)
        try:
            if not following.is_new():
                raise Conflict(
                    "An epoch of this number has begun already", code=error_codes.EPOCH_USED, hint="Try again"
                )
        finally:
            following.close()


def _unsealed(value: Versioned) -> Versioned:
    """A value as the next epoch contains it, where a seal is a change like any other."""
    return replace(value, next_configuration=None)


def _standing(value: Versioned | None) -> Versioned | None:
    """What callers get of a value of an epoch that may have ended: nothing of one that is a seal only."""
    return _unsealed(value) if value is not None and value.data else None


def _endless(key: str) -> Corrupt:
    return Corrupt(
        f"Register {key} was sealed in {EPOCHS_MAX} epochs, one after the other", code=error_codes.EPOCHS_ENDLESS
    )
