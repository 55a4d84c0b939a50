"""Passive buckets behind a network that loses, delays, repeats and tears; what was injected where is counted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from greenlet import getcurrent

from skyhold.buckets.bucket import WRITE_IF_DEADLINE_S, Bucket, ObjectInfo, Tagged
from skyhold.consensus.acceptor import COUNTER_MAX, AcceptorState, Ballot
from skyhold.consensus.acceptor_object import AcceptorObject, decode_acceptor, encode_acceptor, parse_object_key
from skyhold.consensus.operation import Kept
from skyhold.errors import Conflict, Corrupt, NotFound, OutcomeUnknown, Unavailable
from skyhold.units import Buffer
from tests.consensus.fixtures import KEYS
from tests.consensus.simulation.world import Process, World

Backup = tuple[dict[str, bytes], str | None]
"""The objects of a cloud, and its incarnation."""
TIMEOUT_S = 3.0
PUT_FAULTS = (
    "request lost",
    "reply lost",
    "arrives late",
    "late duplicate",
    "503 after apply",
    "409 in flight",
    "429 throttled",
)
PUT_PHASES = ("prepare", "propose", "seal", "restore")
GET_FAULTS = ("request lost", "reply lost", "429 throttled", "torn reply")


@dataclass(eq=False)
class Cloud:
    """One object store. Its tags are digests of the body, as those of S3 are. `incarnation` is what its `store.json`
    contains; None: it has none. `incarnations` are all that it ever had, `poisoned` those under which it was forged."""

    world: World
    name: str
    incarnation: str | None
    far_s: float
    objects: dict[str, bytes] = field(default_factory=dict)
    away: bool = False
    lives: int = 1
    incarnations: list[str] = field(default_factory=list)
    poisoned: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.incarnation is not None:
            self.incarnations.append(self.incarnation)

    def admit(self, incarnation: str) -> None:
        """Write its `store.json` anew."""
        self.incarnation = incarnation
        self.incarnations.append(incarnation)

    def is_admitted(self, incarnation: str) -> bool:
        return self.incarnation == incarnation

    def empty(self) -> None:
        """An operator's mistake: everything is deleted, `store.json` with it. What was on its way there is lost."""
        self.restore(({}, None))

    def backup(self) -> Backup:
        return dict(self.objects), self.incarnation

    def restore(self, backup: Backup) -> None:
        objects, self.incarnation = backup
        self.objects = dict(objects)
        self.lives += 1

    def poison(self) -> None:
        """An attacker who has the store's keys, and may write here, promises the greatest ballot in every object."""
        assert self.incarnation is not None
        for name, body in self.objects.items():
            place = parse_object_key(name)
            assert place is not None
            incarnation, state = self._written(name, body)
            poisoned = AcceptorState(Ballot(COUNTER_MAX, "f" * 32), state.accepted, state.value)
            held = AcceptorObject(poisoned, 0, "poisoner", "")
            self.objects[name] = encode_acceptor(held, *place, incarnation, KEYS)
        self.poisoned.add(self.incarnation)

    def state(self, name: str, body: bytes) -> AcceptorState[Kept]:
        """What an object contains, under whichever incarnation it was written."""
        return self._written(name, body)[1]

    def _written(self, name: str, body: bytes) -> tuple[str, AcceptorState[Kept]]:
        place = parse_object_key(name)
        assert place is not None
        for incarnation in reversed(self.incarnations):
            with suppress(Corrupt):
                return incarnation, decode_acceptor(body, *place, incarnation, KEYS).state
        raise AssertionError(f"{name} of {self.name} was written under none of its incarnations")

    def get(self, key: str) -> Tagged | NotFound:
        body = self.objects.get(key)
        if body is None:
            return NotFound(f"no object {key}", code="object_not_found")
        return Tagged(body, self.tag(key, body))

    def put_if(self, key: str, body: bytes, expected_tag: str | None) -> str | Conflict:
        stored = self.objects.get(key)
        if (None if stored is None else self.tag(key, stored)) != expected_tag:
            return Conflict(f"object {key} is not what was expected")
        self.objects[key] = body
        return self.tag(key, body)

    def tag(self, key: str, body: bytes) -> str:
        return hashlib.blake2b(body, digest_size=16).hexdigest()


@dataclass(eq=False)
class Network:
    """`fault_rate` of the requests meet a fault; `cut` are the pairs of process and cloud that do not hear each
    other. `injected` counts the faults by name and phase."""

    world: World
    fault_rate: float
    injected: Counter[tuple[str, str]]
    cut: set[tuple[str, str]] = field(default_factory=set)
    requests: int = 0

    def fault(self, kinds: tuple[str, ...], phase: Callable[[], str]) -> str | None:
        self.requests += 1
        if self.world.random.random() >= self.fault_rate:
            return None
        kind = self.world.random.choice(kinds)
        self.injected[kind, phase()] += 1
        return kind


class SimulatedBucket(Bucket):
    """A cloud as one process reaches it."""

    def __init__(self, cloud: Cloud, network: Network, process: Process) -> None:
        self.name, self.url = cloud.name, f"sim://{cloud.name}"
        self._cloud, self._network, self._process = cloud, network, process

    def verify(self, incarnation: str) -> None:
        """Read `store.json`: whether this is still the bucket that was admitted."""
        if not self._request(lambda: self._cloud.is_admitted(incarnation), None):
            raise Corrupt(f"bucket {self.name} is not the one that was admitted", code="voter_not_admitted")

    def replace_document(self, write: Callable[[], None]) -> None:
        """Write `store.json` anew; what `write` raises is raised here."""

        def serve() -> Exception | None:
            try:
                return write()
            except Exception as error:  # noqa: BLE001 - raised by who asked
                return error

        refused = self._request(serve, None)
        if refused is not None:
            raise refused

    def read_tagged(self, key: str, *, unless_tag: str | None = None) -> Tagged | None:
        fault = self._network.fault(GET_FAULTS, lambda: "read")
        found = self._request(lambda: self._cloud.get(key), fault)
        if fault == "torn reply":
            raise Unavailable(f"the reply of {self.name} was cut short", code="truncated_reply")
        if isinstance(found, NotFound):
            raise found
        return None if found.tag == unless_tag else found

    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        stored = bytes(body)
        fault = self._network.fault(PUT_FAULTS, lambda: self._phase(key, stored))
        if fault == "429 throttled":
            self._process.sleep(self._far())
            raise Unavailable("throttled")

        lives = self._cloud.lives

        def apply() -> str | Conflict:
            if self._cloud.lives != lives:
                return Conflict("the bucket that this was sent to is no more")
            return self._cloud.put_if(key, stored, expected_tag)

        if fault == "409 in flight":
            self._process.sleep(self._far())
            raise OutcomeUnknown("a conflicting request is in flight")
        if fault == "late duplicate":
            self._network.world.at(self._network.world.random.random() * 20, apply)
        if fault == "arrives late":
            self._network.world.at(TIMEOUT_S * self._network.world.random.random() * 4, apply)
            self._process.sleep(TIMEOUT_S)
            raise OutcomeUnknown("no reply in time")
        try:
            result = self._request(apply, fault)
        except Unavailable as error:
            raise OutcomeUnknown(error.message) from error
        if fault == "503 after apply":
            raise OutcomeUnknown("503")
        if isinstance(result, Conflict):
            raise result
        return result

    def _request(self, serve: Callable[[], Any], fault: str | None) -> Any:
        """A request and its reply; what the server does, it does whether or not the client still lives."""
        world, process = self._network.world, self._process
        if self._cloud.away or (process.name, self.name) in self._network.cut:
            process.sleep(TIMEOUT_S)
            raise Unavailable(f"bucket {self.name} does not answer")
        if fault == "429 throttled":
            process.sleep(self._far())
            raise Unavailable("throttled")
        if fault == "request lost":
            process.sleep(TIMEOUT_S)
            raise Unavailable("no reply in time")
        thread = getcurrent()

        def arrive() -> None:
            result = serve()
            if fault != "reply lost":
                world.at(self._far(), partial(process.resume, thread, result))

        world.at(self._far(), arrive)
        if fault == "reply lost":
            process.sleep(TIMEOUT_S)
            raise Unavailable("no reply in time")
        return world.wait()

    def _far(self) -> float:
        """Half a round trip, with a long tail."""
        random = self._network.world.random
        far_s = self._process.distances_s.get(self.name, self._cloud.far_s)
        return far_s * (0.5 + random.random() * (8 if random.random() < 0.05 else 1))

    def _phase(self, name: str, body: bytes) -> str:
        """What a put is for, by what it carries: the seal of an epoch, the first value of a register in one that
        follows, or a change like any other."""
        stored = self._cloud.objects.get(name)
        after = self._cloud.state(name, body)
        before: AcceptorState[Kept] = self._cloud.state(name, stored) if stored else AcceptorState()
        if after.accepted == before.accepted:
            return "prepare"
        newest = after.value[-1] if after.value else None
        if newest is not None and newest.value.sealed:
            return "seal"
        return "restore" if newest is not None and newest.operation_id is None and not before.value else "propose"

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        found = self._request(lambda: sorted(self._cloud.objects), None)
        return (ObjectInfo(key, 0, "", None) for key in found if key.startswith(prefix) and key > after)

    def read(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        raise NotImplementedError

    def read_stream(
        self, key: str, start: int = 0, length: int | None = None, part_bytes: int = 4 << 20
    ) -> Iterator[Buffer]:
        raise NotImplementedError

    def write(self, key: str, body: Buffer, *, md5: Callable[[], bytes] | None = None) -> str:
        raise NotImplementedError

    def delete(self, key: str) -> None:
        raise NotImplementedError
