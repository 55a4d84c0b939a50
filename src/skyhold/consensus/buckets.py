"""Registers on the buckets themselves: Paxos, with each voter's conditional puts as its acceptor.

A change is acknowledged once a majority of the voters has accepted it, and any minority of them may be gone. The rules
are in `acceptor` and `paxos`, without input or output; `proposer` changes a register; `voter_calls` asks the voters;
`rollback_guard` compares what they show with what this machine has seen. Here are the port and the reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from skyhold import error_codes
from skyhold.codec.frame import FrameKeys
from skyhold.consensus.acceptor import VOTERS_MAX, AcceptorState, beyond_reach, unanimous
from skyhold.consensus.acceptor_object import AcceptorObject
from skyhold.consensus.minority_read import Confirmed, known
from skyhold.consensus.no_majority import NOT_TO_BE_HAD, no_majority, out_of_reach
from skyhold.consensus.operation import (
    CompareAndSet,
    Kept,
    Operation,
    Restore,
    Seal,
    Settle,
    after,
    find,
    newest,
    version_of,
)
from skyhold.consensus.parallel import at_once
from skyhold.consensus.paxos import Seen, Silent
from skyhold.consensus.proposer import ROUND_S_MIN, Decided, Proposer, Slot
from skyhold.consensus.register import (
    EngineRegisters,
    Known,
    RegisterChange,
    Resync,
    Versioned,
    check_change,
    check_changes,
    check_data,
    check_expected_version,
    check_next_version,
    check_operation_id,
    check_register_key,
)
from skyhold.consensus.retiring import Acceptors
from skyhold.consensus.rollback_guard import RollbackGuard
from skyhold.consensus.runtime import Runtime, ThreadRuntime
from skyhold.consensus.sightings import Sightings
from skyhold.consensus.voter import Voter, VoterClient
from skyhold.consensus.voter_calls import VoterCalls
from skyhold.errors import Conflict, Corrupt, OutcomeUnknown, PermissionDenied, SkyholdError, Unavailable

DEADLINE_S: Final = 30.0
READ_ATTEMPTS: Final = 3
WATCH_MAJORITY_S: Final = 5.0
STRAGGLER_GRACE_S: Final = 2.0


class BucketRegisters(EngineRegisters):
    """The registers of one epoch of a store. `writer` is displayed as who wrote last.

    An operation ends within about `deadline_s`. Raises, beside the errors of the port, `Unavailable` and
    `OutcomeUnknown` code `no_majority` with the field `buckets`, and code `register_contended`.
    """

    def __init__(
        self,
        voters: Sequence[Voter],
        epoch: int,
        keys: FrameKeys,
        *,
        writer: str,
        deadline_s: float = DEADLINE_S,
        runtime: Runtime | None = None,
        sightings: Sightings | None = None,
    ) -> None:
        if not 1 <= len(voters) <= VOTERS_MAX or len({voter.name for voter in voters}) != len(voters):
            raise ValueError(f"voters {[voter.name for voter in voters]}")
        self._voters = tuple(voters)
        self._epoch = epoch
        self._keys = keys
        self._writer = writer
        self._deadline_s = deadline_s
        self._runtime = runtime or ThreadRuntime()
        self._guard = RollbackGuard(sightings, epoch)
        self._clients = {
            voter.name: VoterClient(voter, self._epoch, self._keys, self._runtime, self._writer, self._guard.promised)
            for voter in self._voters
        }
        self._calls = VoterCalls(self._clients, self._runtime, self._deadline_s)
        self._proposer = Proposer(self._clients, self._runtime, self._deadline_s)
        self._slots: dict[str, Slot] = {}
        self._confirmed: dict[str, Confirmed] = {}

    def read(self, key: str) -> Versioned | None:
        check_register_key(key)
        return newest(self._read(key))

    def read_known(self, key: str, *, max_age_s: float = 0.0) -> Known:
        """See the port; in the worst case it takes as long as a read that fails."""
        check_register_key(key)
        confirmed, began_s = self._confirmed.get(key), self._runtime.monotonic()
        if confirmed is not None and began_s - confirmed.since_s <= max_age_s:
            return known({}, (), confirmed, began_s)
        try:
            return Known(newest(self._read(key)))
        except (Unavailable, PermissionDenied, OutcomeUnknown, Corrupt) as error:
            if error.code not in {error_codes.NO_MAJORITY, error_codes.REGISTER_CONTENDED, *NOT_TO_BE_HAD}:
                raise
            held, silent = self._calls.held(key)
            if not held and confirmed is None:
                raise
        return known(held, silent, confirmed, self._runtime.monotonic())

    def compare_and_set(self, key: str, expected_version: int, data: bytes, operation_id: str) -> Versioned:
        check_change(key, expected_version, data, operation_id)
        return self._changed(CompareAndSet(key, expected_version, bytes(data), operation_id))

    def outcome(self, key: str, operation_id: str) -> Versioned | None:
        check_register_key(key)
        check_operation_id(operation_id)
        earlier = find(self._read(key), operation_id)
        if earlier is not None:
            return earlier
        # Its put may still be on the way. A ballot above it makes sure that it comes too late, or shows it.
        return find(self._decide(Settle(key)).kept, operation_id)

    def watch(self, key: str, after_version: int, *, timeout_s: float) -> Sequence[Versioned] | Resync:
        """See the port. Between the reads of a majority only the nearest voter is polled for a newer value. So a change
        that does not reach it is seen late, by up to `WATCH_MAJORITY_S` and a read."""
        check_register_key(key)
        check_expected_version(after_version)
        deadline_s = self._runtime.monotonic() + timeout_s
        while True:
            changes = after(self._read(key), after_version)
            remaining_s = deadline_s - self._runtime.monotonic()
            if changes or isinstance(changes, Resync) or remaining_s <= 0:
                return changes
            self._calls.await_change(key, after_version, min(remaining_s, WATCH_MAJORITY_S))

    def changes(self, key: str) -> Sequence[RegisterChange]:
        check_register_key(key)
        return list(self._read(key))

    def list(self, prefix: str = "") -> list[str]:
        found: dict[str, set[str]] = {}
        errors: dict[str, SkyholdError] = {}
        for name, answer in self._calls.each(VoterClient.list):
            if isinstance(answer, set):
                found[name] = answer
            else:
                errors[name] = answer.error if isinstance(answer, Silent) else answer
            if len(found) > len(self._voters) // 2:
                break
        else:
            raise no_majority(f"{prefix}*", len(self._voters), errors, sent=False)
        keys = sorted({key for keys in found.values() for key in keys if key.startswith(prefix)})
        # An object may hold a promise alone, for a register that was never created.
        created = at_once(self._is_created, keys, "list")  # by real threads, whatever the runtime: no simulation lists
        return [key for key, there in zip(keys, created, strict=True) if there]

    def _is_created(self, key: str) -> bool:
        try:
            return bool(self._read(key))
        except Corrupt as error:
            if error.code not in NOT_TO_BE_HAD:
                raise
            return True

    def seal(self, key: str, expected_version: int, next_configuration: bytes) -> Versioned:
        check_register_key(key)
        check_next_version(expected_version)
        check_data(key, next_configuration)
        return self._changed(Seal(key, expected_version, bytes(next_configuration)))

    def restore(self, key: str, changes: Sequence[RegisterChange]) -> None:
        check_changes(key, changes)
        self._decide(Restore(key, tuple(changes)))

    def salvaged(self, key: str) -> Sequence[RegisterChange] | None:
        check_register_key(key)
        return self.acceptors.salvaged(key)

    @property
    def acceptors(self) -> Acceptors:
        """The objects of this epoch, for a recovery of a register that is damaged."""
        return Acceptors(self._voters, self._epoch, self._keys)

    def is_new(self) -> bool:
        states: list[AcceptorState[Kept]] = []
        errors: dict[str, SkyholdError] = {}
        for name, answer in self._calls.each(lambda client: client.get("config")):
            if isinstance(answer, Silent):
                errors[name] = answer.error
                continue
            states.append(answer.state)
            if len(states) > len(self._voters) // 2:
                return not any(state.value for state in states)
        raise no_majority("config", len(self._voters), errors, sent=False)

    def close(self) -> None:
        """Let lagging voters take the last changes, for a short while; then close the buckets."""
        self._calls.close()
        deadline_s = self._runtime.monotonic() + STRAGGLER_GRACE_S
        for slot in list(self._slots.values()):
            while slot.busy and (remaining_s := deadline_s - self._runtime.monotonic()) > 0:
                answer = slot.answers.get(remaining_s)
                if answer is not None:
                    slot.note(answer)
        for voter in self._voters:
            voter.bucket.close()

    def inspect(self, key: str) -> dict[str, AcceptorObject | SkyholdError | None]:
        """What each voter shows of a register right now, by name: its object, None where it has none, or why it takes
        no part. For display only; decides nothing."""
        check_register_key(key)
        shown: dict[str, AcceptorObject | SkyholdError | None] = {}
        for name, answer in self._calls.each(lambda client: client.get(key)):
            held = self._clients[name].held(key) if isinstance(answer, Seen) and answer.tag is not None else None
            shown[name] = answer.error if isinstance(answer, Silent) else held
        states = {name: held.state for name, held in shown.items() if isinstance(held, AcceptorObject)}
        shown |= {name: out_of_reach(name, key) for name in beyond_reach(states, len(self._voters), version_of)}
        return dict(sorted(shown.items()))

    # ---- deciding

    def _changed(self, operation: Operation) -> Versioned:
        value = self._decide(operation).result
        if value is None:
            raise AssertionError(f"{operation} set no value")
        return value

    def _decide(self, operation: Operation) -> Decided:
        began_s = self._runtime.monotonic()
        slot = self._slot(operation.key)
        seen = self._guard.newest(operation.key)
        try:
            decided = self._proposer.decide(slot, operation)
        except Conflict:
            self._confirmed.pop(operation.key, None)  # what it was planned on is old: it has to be planned on another
            raise
        self._guard.refuse(operation.key, seen, decided.kept, self._clients)
        with suppress(SkyholdError):  # it is decided, whether or not this machine can note it
            self._note(operation.key, decided.kept)
        self._confirmed[operation.key] = Confirmed(began_s, decided.kept)
        return decided

    def _slot(self, key: str) -> Slot:
        self._calls.refuse_closed()
        slot = self._slots.get(key)
        return slot or self._slots.setdefault(key, self._proposer.slot(key))

    # ---- reading

    def _read(self, key: str) -> Kept:
        """The value of a register: of one read round where a majority shows one ballot, else of a round of our own."""
        slot = self._slot(key)
        for attempt in range(READ_ATTEMPTS):
            began_s = self._runtime.monotonic()
            seen = self._guard.newest(key)
            states, errors = self._calls.look(slot)
            found = unanimous(states, len(self._voters))
            if found is not None:
                self._guard.refuse(
                    key, seen, found.value or (), [name for name in states if states[name].accepted == found.accepted]
                )
                self._note(key, found.value or ())
                self._confirmed[key] = Confirmed(began_s, found.value or ())
                slot.note_decided(found.value or ())
                return found.value or ()
            if len(states) <= len(self._voters) // 2:
                raise no_majority(key, len(self._voters), errors, sent=False)
            # Another client is changing it, or died while it did. The first is more frequent, and ends by itself.
            self._runtime.sleep(self._runtime.random() * max(slot.round_s, ROUND_S_MIN) * 2**attempt)
        return self._decide(Settle(key)).kept

    def _note(self, key: str, kept: Kept) -> None:
        self._guard.note(
            key, kept, {client.voter.incarnation: client.promised(key) for client in self._clients.values()}
        )
