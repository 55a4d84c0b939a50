"""One voter as the bucket engine reaches it: its objects read and put, and its answers as events of a round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from skyhold import error_codes
from skyhold.buckets.bounded import at_most
from skyhold.buckets.bucket import Bucket
from skyhold.codec.frame import FrameKeys
from skyhold.consensus.acceptor import NO_BALLOT, AcceptorState, Ballot, in_preparation
from skyhold.consensus.acceptor_object import (
    FOLDER,
    AcceptorObject,
    decode_acceptor,
    encode_acceptor,
    object_key,
    parse_object_key,
)
from skyhold.consensus.no_majority import acceptor_damaged, acceptor_gone, acceptor_retired, went_back
from skyhold.consensus.operation import Kept, newest
from skyhold.consensus.paxos import Get, Lost, Put, Refused, Seen, Silent
from skyhold.consensus.register import RegisterChange
from skyhold.consensus.runtime import Mailbox, Runtime
from skyhold.errors import Conflict, Corrupt, NotFound, OutcomeUnknown, PermissionDenied, SkyholdError

WAIT_S: Final = 60.0
REGISTERS_MAX: Final = 1 << 17
"""The most registers of an epoch that are listed: more repositories than the register of names can hold."""
Answer = Seen[Kept] | Refused | Lost | Silent


@dataclass(frozen=True, slots=True)
class Voter:
    """A bucket that takes part. `incarnation` is its id in the configuration; `verify` raises unless the bucket itself
    stores this id: one that was emptied, restored or exchanged has forgotten what it promised, and must be admitted
    again. `write_interval_s` is the least time between two puts of one object (a limit of some clouds: 1 s)."""

    bucket: Bucket
    incarnation: str
    verify: Callable[[], None]
    write_interval_s: float = 0.0

    @property
    def name(self) -> str:
        return self.bucket.name


@dataclass(frozen=True, slots=True)
class _Held:
    tag: str | None
    held: AcceptorObject


_NOTHING = _Held(None, AcceptorObject(AcceptorState(), 0, "", ""))


class VoterClient:
    """Thread-safe: every method works on what it reads, and what is remembered only ever grows. `away_s` is how long it
    last took to answer a read, and infinite where it did not; `owes` are the reads that it has not answered yet."""

    def __init__(
        self,
        voter: Voter,
        epoch: int,
        keys: FrameKeys,
        runtime: Runtime,
        writer: str,
        remembered: Callable[[str], Mapping[str, Ballot]] = lambda _: {},
    ) -> None:
        """`remembered` gives the greatest ballots that the voters are known to have promised of a register, by
        incarnation."""
        self.voter = voter
        self._epoch = epoch
        self._keys = keys
        self._runtime = runtime
        self._writer = writer
        self._remembered = remembered
        self.away_s = inf
        self.owes: set[object] = set()
        self._verified = False
        self._held: dict[str, _Held] = {}
        self._promised: dict[str, Ballot] = {}
        self._last_put_s: dict[str, float] = {}

    def get(self, key: str) -> Seen[Kept] | Silent:
        """What the acceptor of a register holds."""
        return self._get(key, absence_counts=True)

    def perform(self, key: str, effect: Get | Put[Kept], decided: RegisterChange | None) -> Answer:
        """Carry out an effect of a round. `decided` is the newest change that is known to be chosen."""
        if isinstance(effect, Get):
            return self._get(key, absence_counts=False)  # the round continues with a put, which creates the object
        name = self.voter.name
        held = AcceptorObject(
            effect.state,
            self._decided(key, effect, decided),
            self._writer,
            self._runtime.now().isoformat(timespec="milliseconds"),
        )
        body = encode_acceptor(held, self._epoch, key, self.voter.incarnation, self._keys)
        self._pace(key)
        created = effect.tag is None
        try:
            tag = self.voter.bucket.write_if(object_key(self._epoch, key), body, expected_tag=effect.tag)
        except Conflict:
            return Refused(name)
        except OutcomeUnknown:
            return Lost(name)
        except SkyholdError as error:
            return Silent(name, error, unsent=True)
        if created:
            try:
                self._verify()
            except SkyholdError as error:
                return Silent(name, error)
        self._promised[key] = max(self.promised(key), effect.state.promised)
        self._held[key] = _Held(tag, held)
        return Seen(name, tag, effect.state)

    def list(self) -> set[str] | SkyholdError:
        """The registers that have an object there, or why that is unknown."""
        try:
            objects = at_most(self.voter.bucket, f"{FOLDER}/{self._epoch:08x}/", REGISTERS_MAX)
            found = [parse_object_key(info.key) for info in objects]
            self.voter.verify()  # what is absent counts, so it has to be the bucket that was admitted
        except SkyholdError as error:
            return error
        return {place[1] for place in found if place is not None}

    def _get(self, key: str, *, absence_counts: bool) -> Seen[Kept] | Silent:
        """A bucket that was emptied has forgotten what it promised. No acceptor there gets a value: an object is
        created with a promise alone, and a client that finds one without a value verifies the bucket *after* that,
        before it counts. So an acceptor with a value is older, and one verification, at the same time, is enough."""
        try:
            before = self.promised(key)  # of another thread's read that ends first nothing follows
            wait_until_verified = None if self._verified else self._verify_beside()
            asked_s = self._runtime.monotonic()
            found = self._read(key)
            self.away_s = self._runtime.monotonic() - asked_s
            if found.held.state.accepted == NO_BALLOT:
                if found.tag is not None or absence_counts:
                    self._verify()
            elif wait_until_verified is not None:
                wait_until_verified()
            self._refuse_older(key, before, found.held.state.promised)
        except SkyholdError as error:
            self.away_s = inf
            return Silent(self.voter.name, error)
        self._held[key] = found
        return Seen(self.voter.name, found.tag, found.held.state)

    def _verify(self) -> None:
        self.voter.verify()
        self._verified = True

    def _verify_beside(self) -> Callable[[], None]:
        """Verify in a task of its own. What is returned waits for its end, and raises what it raised."""
        ended: Mailbox[tuple[BaseException | None]] = self._runtime.mailbox()

        def task() -> None:
            try:
                self._verify()
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
                ended.put((error,))
            else:
                ended.put((None,))

        def wait() -> None:
            while (end := ended.get(WAIT_S)) is None:
                pass  # the bucket's own time limits end it
            if end[0] is not None:
                raise end[0]

        self._runtime.start(task)
        return wait

    def _decided(self, key: str, effect: Put[Kept], decided: RegisterChange | None) -> int:
        """The version that the object will declare as decided. A promise leaves an old value in place, which may never
        have been chosen, so only what the writer of that value knew applies. A proposal may be an old one that was
        overtaken: it is declared as decided only if it is the very change that was chosen."""
        found = self._held.get(key, _NOTHING)
        if in_preparation(effect.state):
            return found.held.decided if found.tag == effect.tag else 0
        value = effect.state.value or ()
        current = newest(value)
        chosen = decided.value.version if decided is not None and decided in value else 0
        return min(max(chosen, found.held.decided), current.version if current else 0)

    def promised(self, key: str) -> Ballot:
        """The greatest ballot that it is known to have promised."""
        if key not in self._promised:
            self._promised[key] = self._remembered(key).get(self.voter.incarnation, NO_BALLOT)
        return self._promised[key]

    def held(self, key: str) -> AcceptorObject | None:
        """What was last seen there."""
        found = self._held.get(key)
        return found.held if found else None

    def _read(self, key: str) -> _Held:
        known = self._held.get(key, _NOTHING)
        try:
            tagged = self.voter.bucket.read_tagged(object_key(self._epoch, key), unless_tag=known.tag)
        except NotFound as error:
            if error.code != error_codes.OBJECT_NOT_FOUND:
                raise
            return _NOTHING
        except Corrupt as error:
            if error.code == error_codes.OBJECT_TOO_LARGE:
                raise acceptor_damaged(self.voter.name, key, error) from error
            raise
        if tagged is None:
            return known
        try:
            held = decode_acceptor(tagged.body, self._epoch, key, self.voter.incarnation, self._keys)
        except (Corrupt, PermissionDenied) as error:  # a flipped key number reads as a key that is missing
            raise acceptor_damaged(self.voter.name, key, error) from error
        if held.retired:
            raise acceptor_retired(self.voter.name, key)
        return _Held(tagged.tag, held)

    def _refuse_older(self, key: str, before: Ballot, promised: Ballot) -> None:
        if promised == NO_BALLOT < before:  # what it promised is lost with it, so that it is no acceptor any more
            raise acceptor_gone(self.voter.name, key)
        if promised < before:
            raise went_back(self.voter.name, key)
        self._promised[key] = max(promised, self.promised(key))

    def _pace(self, key: str) -> None:
        interval_s = self.voter.write_interval_s
        if interval_s > 0:
            wait_s = self._last_put_s.get(key, -interval_s) + interval_s - self._runtime.monotonic()
            if wait_s > 0:
                self._runtime.sleep(wait_s)
            self._last_put_s[key] = self._runtime.monotonic()
