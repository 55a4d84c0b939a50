"""Asking the voters of an epoch at once: their answers as they come, and a voter that is late as one that is silent.

A voter that hangs must cost neither the operation more than its deadline, nor the process a thread for each request.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from math import inf
from typing import Final, TypeVar

from skyhold.consensus.acceptor import AcceptorState, unanimous
from skyhold.consensus.acceptor_object import AcceptorObject
from skyhold.consensus.no_majority import did_not_answer
from skyhold.consensus.operation import Kept, newest
from skyhold.consensus.paxos import Seen, Silent
from skyhold.consensus.proposer import Fault, Slot
from skyhold.consensus.runtime import Mailbox, Runtime
from skyhold.consensus.voter import VoterClient
from skyhold.errors import SkyholdError

T = TypeVar("T")

OWED_MAX: Final = 256
"""A voter that owes so many answers hangs, and gets no request before it has given one: each occupies a thread."""
KNOWN_WAIT_S: Final = 3.0
WATCH_INTERVAL_S_MIN: Final = 0.02
WATCH_INTERVAL_S_MAX: Final = 1.0


class VoterCalls:
    """The reads of the voters of one epoch, by name. Thread-safe. After `close` every method raises `ValueError`."""

    def __init__(self, clients: Mapping[str, VoterClient], runtime: Runtime, deadline_s: float) -> None:
        self._clients = clients
        self._runtime = runtime
        self._deadline_s = deadline_s
        self._closed = False

    def close(self) -> None:
        self._closed = True

    def refuse_closed(self) -> None:
        if self._closed:
            raise ValueError("the registers are closed")

    def each(
        self,
        ask: Callable[[VoterClient], T],
        wait_s: float | None = None,
        clients: Collection[VoterClient] = (),
    ) -> Iterator[tuple[str, T | Silent]]:
        """Ask all voters, or these, at once; their answers as they come, by name. One that is late is `Silent`."""
        self.refuse_closed()
        answers: Mailbox[tuple[str, T] | Fault] = self._runtime.mailbox()
        waiting = {client.voter.name for client in clients or self._clients.values()}
        deadline_s = self._runtime.monotonic() + (self._deadline_s if wait_s is None else wait_s)

        def task(name: str, owed: object) -> None:
            try:
                answers.put((name, ask(self._clients[name])))
            except BaseException as error:  # noqa: BLE001 - raised in the thread that asked
                answers.put(Fault(name, error))
            finally:
                self._clients[name].owes.discard(owed)

        hanging = set()
        for name in sorted(waiting):
            owes, owed = self._clients[name].owes, object()
            if len(owes) < OWED_MAX:
                owes.add(owed)
                self._runtime.start(partial(task, name, owed))
            else:
                hanging.add(name)
        waiting -= hanging
        for name in hanging:
            yield name, Silent(name, did_not_answer(name))
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

    def look(self, slot: Slot) -> tuple[dict[str, AcceptorState[Kept]], dict[str, SkyholdError]]:
        """What the voters show, as far as a majority needs it, and why the others show nothing."""
        states: dict[str, AcceptorState[Kept]] = {}
        errors: dict[str, SkyholdError] = {}
        for name, answer in self.each(lambda client: client.get(slot.key)):
            if isinstance(answer, Seen):
                states[name] = answer.state
                slot.shown[name] = answer
                if unanimous(states, len(self._clients)) is not None:
                    break
            else:
                errors[name] = answer.error
        return states, errors

    def await_change(self, key: str, after_version: int, wait_s: float) -> None:
        """Poll the nearest voter until it shows another version or nothing, for at most `wait_s`."""
        until_s = self._runtime.monotonic() + wait_s
        interval_s = WATCH_INTERVAL_S_MIN
        nearest = min(self._clients.values(), key=lambda client: client.away_s)
        while (remaining_s := until_s - self._runtime.monotonic()) > 0:
            self._runtime.sleep(min(interval_s, remaining_s))
            interval_s = min(2 * interval_s, WATCH_INTERVAL_S_MAX)
            for _, answer in self.each(lambda client: client.get(key), max(remaining_s, interval_s), [nearest]):
                if isinstance(answer, Silent):
                    nearest.away_s = inf
                    return
                value = newest(answer.state.value or ())
                if value is not None and value.version != after_version:
                    return

    def held(self, key: str) -> tuple[dict[str, AcceptorObject], set[str]]:
        """What the voters hold that answer soon, and the names of the others."""
        held: dict[str, AcceptorObject] = {}
        silent: set[str] = set()
        for name, answer in self.each(lambda client: client.get(key), KNOWN_WAIT_S):
            found = self._clients[name].held(key)
            if isinstance(answer, Seen) and found is not None:
                held[name] = found
            else:
                silent.add(name)
        return held, silent
