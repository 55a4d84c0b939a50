"""Registers on the buckets themselves: Paxos, with each voter's conditional puts as its acceptor.

A change is acknowledged once a majority of the voters has accepted it, and any minority of them may be gone. The rules
are in `acceptor` and `paxos`, without input or output; `proposer` changes a register; here are the port and the reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, TypeVar

from skyhold.codec.frame import FrameKeys
from skyhold.consensus.acceptor import AcceptorState, unanimous
from skyhold.consensus.acceptor_object import FOLDER, AcceptorObject, parse_object_key
from skyhold.consensus.no_majority import did_not_answer, no_majority
from skyhold.consensus.operation import CompareAndSet, Kept, Operation, Restore, Seal, Settle, after, find, newest
from skyhold.consensus.paxos import Seen, Silent
from skyhold.consensus.proposer import Decided, Fault, Proposer, Slot
from skyhold.consensus.register import (
    Change,
    Registers,
    Resync,
    Versioned,
    check_change,
    check_changes,
    check_data,
    check_expected_version,
    check_operation_id,
    check_register_key,
)
from skyhold.consensus.runtime import Mailbox, Runtime, ThreadRuntime
from skyhold.consensus.voter import Voter, VoterClient
from skyhold.errors import SkyholdError

T = TypeVar("T")

DEADLINE_S: Final = 30.0
VOTERS_MAX: Final = 7
READ_ATTEMPTS: Final = 3
WATCH_INTERVAL_S_MIN: Final = 0.02
WATCH_INTERVAL_S_MAX: Final = 1.0
STRAGGLER_GRACE_S: Final = 2.0


class BucketRegisters(Registers):
    """The registers of one epoch of a store. `writer` is told to people as who wrote last.

    An operation ends within about `deadline_s`. Raises, beside what the port says, `Unavailable` and `OutcomeUnknown`
    code `no_majority` with the field `buckets`, and code `register_contended`. May be used after a fork.
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
    ) -> None:
        if not 1 <= len(voters) <= VOTERS_MAX or len({voter.name for voter in voters}) != len(voters):
            raise ValueError(f"voters {[voter.name for voter in voters]}")
        self._voters = tuple(voters)
        self._epoch = epoch
        self._keys = keys
        self._writer = writer
        self._deadline_s = deadline_s
        self._runtime = runtime or ThreadRuntime()
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._clients = {
            voter.name: VoterClient(voter, self._epoch, self._keys, self._runtime, self._writer)
            for voter in self._voters
        }
        self._proposer = Proposer(self._clients, self._runtime, self._deadline_s)
        self._slots: dict[str, Slot] = {}

    def read(self, key: str) -> Versioned | None:
        check_register_key(key)
        return newest(self._read(key))

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
        check_register_key(key)
        check_expected_version(after_version)
        deadline_s = self._runtime.monotonic() + timeout_s
        interval_s = WATCH_INTERVAL_S_MIN
        while True:
            changes = after(self._read(key), after_version)
            remaining_s = deadline_s - self._runtime.monotonic()
            if changes or isinstance(changes, Resync) or remaining_s <= 0:
                return changes
            self._runtime.sleep(min(interval_s, remaining_s))
            interval_s = min(2 * interval_s, WATCH_INTERVAL_S_MAX)

    def changes(self, key: str) -> Sequence[Change]:
        check_register_key(key)
        return list(self._read(key))

    def list(self, prefix: str = "") -> list[str]:
        found: dict[str, set[str]] = {}
        errors: dict[str, SkyholdError] = {}
        for name, answer in self._asked(self._listed):
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
        return [key for key in keys if self._read(key)]

    def seal(self, key: str, expected_version: int, next_configuration: bytes) -> Versioned:
        check_register_key(key)
        check_expected_version(expected_version)
        check_data(key, next_configuration)
        return self._changed(Seal(key, expected_version, bytes(next_configuration)))

    def restore(self, key: str, changes: Sequence[Change]) -> None:
        check_changes(key, changes)
        self._decide(Restore(key, tuple(changes)))

    def close(self) -> None:
        """Let the voters that lag take the last changes, for a short while; then close the buckets."""
        self._closed = True
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
        no part. Decides nothing; for people."""
        check_register_key(key)
        shown: dict[str, AcceptorObject | SkyholdError | None] = {}
        for name, answer in self._asked(lambda client: client.get(key)):
            held = self._clients[name].held(key) if isinstance(answer, Seen) and answer.tag is not None else None
            shown[name] = answer.error if isinstance(answer, Silent) else held
        return dict(sorted(shown.items()))

    # ---- deciding

    def _changed(self, operation: Operation) -> Versioned:
        value = self._decide(operation).result
        if value is None:
            raise AssertionError(f"{operation} set no value")
        return value

    def _decide(self, operation: Operation) -> Decided:
        return self._proposer.decide(self._slot(operation.key), operation)

    def _slot(self, key: str) -> Slot:
        if self._closed:
            raise ValueError("the registers are closed")
        if self._pid != os.getpid():  # threads, locks and the proposer's id are the parent's
            self._start()
        slot = self._slots.get(key)
        return slot or self._slots.setdefault(key, self._proposer.slot(key))

    # ---- reading

    def _read(self, key: str) -> Kept:
        """The value of a register: of one read round where a majority shows one ballot, else of a round of our own."""
        slot = self._slot(key)
        for attempt in range(READ_ATTEMPTS):
            states, errors = self._look(slot)
            found = unanimous(states, len(self._voters))
            if found is not None:
                return found.value or ()
            if len(states) <= len(self._voters) // 2:
                raise no_majority(key, len(self._voters), errors, sent=False)
            # Somebody changes it just now, or died over it. The first is more frequent, and ends by itself.
            self._runtime.sleep(self._runtime.random() * slot.round_s * 2**attempt)
        return self._decide(Settle(key)).kept

    def _look(self, slot: Slot) -> tuple[dict[str, AcceptorState[Kept]], dict[str, SkyholdError]]:
        """What the voters show, as far as a majority needs it, and why the others show nothing."""
        states: dict[str, AcceptorState[Kept]] = {}
        errors: dict[str, SkyholdError] = {}
        for name, answer in self._asked(lambda client: client.get(slot.key)):
            if isinstance(answer, Seen):
                states[name] = answer.state
                slot.shown[name] = answer
                if unanimous(states, len(self._voters)) is not None:
                    break
            else:
                errors[name] = answer.error
        return states, errors

    def _listed(self, client: VoterClient) -> set[str] | SkyholdError:
        try:
            found = [parse_object_key(info.key) for info in client.voter.bucket.list(f"{FOLDER}/{self._epoch:08x}/")]
        except SkyholdError as error:
            return error
        return {place[1] for place in found if place is not None}

    def _asked(self, ask: Callable[[VoterClient], T]) -> Iterator[tuple[str, T | Silent]]:
        """Ask all voters at once; their answers as they come, by name. One that is late is `Silent`."""
        self._slot("config")  # makes what a fork has left behind anew
        answers: Mailbox[tuple[str, T] | Fault] = self._runtime.mailbox()
        waiting = set(self._clients)
        deadline_s = self._runtime.monotonic() + self._deadline_s

        def task(name: str) -> None:
            try:
                answers.put((name, ask(self._clients[name])))
            except BaseException as error:  # noqa: BLE001 - raised by who asked, not lost in a thread
                answers.put(Fault(name, error))

        for name in self._clients:
            self._runtime.start(partial(task, name))
        while waiting:
            answer = answers.get(deadline_s - self._runtime.monotonic())
            if answer is None:
                break
            if isinstance(answer, Fault):
                raise answer.error
            waiting.discard(answer[0])
            yield answer
        for name in waiting:
            yield name, Silent(name, did_not_answer(name))
