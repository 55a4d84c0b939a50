"""Carrying all registers from an epoch that ends into the one that follows: sealed, restored, compared."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from skyhold import error_codes
from skyhold.consensus.no_majority import NOT_TO_BE_HAD, register_lost
from skyhold.consensus.parallel import at_once
from skyhold.consensus.register import EngineRegisters, RegisterChange, Versioned
from skyhold.errors import Conflict, Corrupt, SkyholdError, Unavailable

CONFIG: Final = "config"
NAMES: Final = "names"
SEAL_ATTEMPTS_MAX: Final = 64
REGISTERS_AT_ONCE: Final = 64
"""That a move carries: each takes some five rounds of the voters, one after the other, and every change of the store
waits for the last. More than these the threads of one process do not keep busy."""


class Succession(ABC):
    """What the floors above provide of an epoch; a configuration is bytes here, as a seal carries it."""

    @abstractmethod
    def open(self, next_configuration: bytes) -> EngineRegisters:
        """The registers of the epoch that this configuration begins."""

    @abstractmethod
    def listed(self, names: Versioned, configuration: bytes) -> Mapping[str, bool]:
        """The keys that the sealed register `names` lists, itself left out, each with whether its register is known to
        have been created: not to find it is a loss then. `configuration` is what `config` held in the epoch that ends.
        Called while no epoch is entered: it must not use the registers."""

    @abstractmethod
    def configuration(self, next_configuration: bytes) -> bytes:
        """What the register `config` holds when that epoch begins."""

    @abstractmethod
    def entered(self, next_configuration: bytes) -> None:
        """That epoch has begun, and is worked in from now on. Called under a lock: it must not use the registers."""

    def check_writable(self) -> None:  # noqa: B027 - not every succession has a restriction
        """Raise where this program must not change anything in the present epoch. Called before every change."""

    def each(self, task: Callable[[str], None], keys: Sequence[str]) -> None:
        """Do a task for every key, in any order. Several processes that finish one change share the work so."""
        at_once(task, random.sample(keys, len(keys)), "epoch", calls=REGISTERS_AT_ONCE)


def carry_over(
    epoch: EngineRegisters, following: EngineRegisters, next_configuration: bytes, succession: Succession
) -> None:
    """Steps 2 to 4 of a move, as `epochs` counts them. May be repeated, also by several at once: what is done already
    is found done."""
    sealed_config = _ended(epoch, CONFIG, next_configuration)
    names = _ended(epoch, NAMES, next_configuration)
    listed = succession.listed(names[-1].value, sealed_config[-1].value.data)
    keys = sorted({*listed} - {CONFIG, NAMES})

    def carry(key: str) -> None:
        changes = _ended(epoch, key, next_configuration, created=listed[key])
        _restore(following, key, as_restored(changes))

    succession.each(carry, keys)
    _restore(following, NAMES, as_restored(names))
    config = as_restored(sealed_config)
    first = replace(config[-1].value, data=succession.configuration(next_configuration))
    _restore(following, CONFIG, [*config[:-1], replace(config[-1], value=first)])


def _ended(
    epoch: EngineRegisters, key: str, next_configuration: bytes, *, created: bool = False
) -> list[RegisterChange]:
    """The kept changes of a register with which its epoch ends, of which the last is the seal: of one that was damaged
    and then retired, what was salvaged, as if it had been sealed. Raises `Corrupt` for one that is damaged still, or
    lost: it is neither left out nor carried as one that never was."""
    try:
        return _sealed(epoch, key, next_configuration, created=created)
    except Corrupt as error:
        salvaged = epoch.salvaged(key) if error.code in NOT_TO_BE_HAD else None
        if not salvaged:
            raise
    newest = salvaged[-1].value
    if newest.sealed:  # some voter had accepted a seal
        return [*salvaged[:-1], RegisterChange(replace(newest, next_configuration=next_configuration), None)]
    return [*salvaged, RegisterChange(Versioned(newest.version + 1, newest.data, next_configuration), None)]


def _sealed(epoch: EngineRegisters, key: str, next_configuration: bytes, *, created: bool) -> list[RegisterChange]:
    """Seal a register unless it is; its kept changes, of which the last is the seal."""
    for _ in range(SEAL_ATTEMPTS_MAX):
        changes = list(epoch.changes(key))
        newest = changes[-1].value if changes else None
        if newest is None and created:
            raise register_lost(key)
        if newest is not None and newest.next_configuration is not None:
            if newest.next_configuration != next_configuration:
                raise Corrupt(
                    f"Register {key} is sealed for another configuration than register {CONFIG}",
                    code=error_codes.EPOCHS_FORK,
                    hint="Keep the buckets as they are and ask for help",
                    key=key,
                )
            return changes
        try:
            seal = epoch.seal(key, newest.version if newest else 0, next_configuration)
        except Conflict as conflict:
            if conflict.code not in {error_codes.REGISTER_CHANGED, error_codes.REGISTER_SEALED}:
                raise
            continue
        if seal.version == (newest.version if newest else 0) + 1:  # else another client's, after changes unknown here
            return [*changes, RegisterChange(seal, None)]
    raise contended_seal(key)


def as_restored(changes: Sequence[RegisterChange]) -> list[RegisterChange]:
    """The changes as they are restored: the seal is a change that leaves the data as it was. None of a register that
    had never been created."""
    seal = changes[-1].value
    return [*changes[:-1], RegisterChange(Versioned(seal.version, seal.data), None)] if seal.data else []


def _restore(following: EngineRegisters, key: str, changes: Sequence[RegisterChange]) -> None:
    if not changes:
        return
    try:
        following.restore(key, changes)
    except Conflict as conflict:
        if conflict.code != error_codes.REGISTER_CHANGED:  # another client restored it, and it has been changed since
            raise


def contended_seal(key: str) -> SkyholdError:
    return Unavailable(
        f"Other clients changed register {key} during each of {SEAL_ATTEMPTS_MAX} attempts to seal it",
        code=error_codes.REGISTER_CONTENDED,
        hint="Run the command again: it continues where it stopped",
        key=key,
    )


@dataclass(frozen=True, slots=True)
class Carried:
    """What a comparison of two epochs found: how many registers and kept changes the earlier one ended with, and which
    registers differ in the later one from what they ended with."""

    registers: int
    changes: int
    differing: tuple[str, ...]


def compare(epoch: EngineRegisters, following: EngineRegisters) -> Carried:
    """Compare every register of an epoch that has ended with the one that followed; nothing was written between. The
    register `config` begins with a value of its own."""

    def carried(key: str) -> tuple[int, bool]:
        """How many changes the register ended with, and whether the later epoch contains them."""
        ended = as_restored(epoch.changes(key))
        if not ended:
            return 0, True
        there = {change.value.version: change for change in following.changes(key)}
        # Of a register that was changed since, the oldest changes may no longer be kept.
        alike = [there[change.value.version] == change for change in ended if change.value.version in there]
        same = all(alike[: -1 if key == CONFIG else None]) and ended[-1].value.version <= max(there, default=0)
        return len(ended), same

    keys = epoch.list()
    found = at_once(carried, keys, "compare", calls=REGISTERS_AT_ONCE)
    return Carried(
        sum(changes > 0 for changes, _ in found),
        sum(changes for changes, _ in found),
        tuple(key for key, (_, same) in zip(keys, found, strict=True) if not same),
    )
