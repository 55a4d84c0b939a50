"""What is measured of the registers: each scenario takes voters at a distance, and returns samples.

Seconds throughout. What a scenario is compared with is measured in the same run, through the same driver and proxy.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from far_voters import Cloud, Region, region

from skyhold.buckets.bucket import Bucket
from skyhold.consensus.acceptor_object import object_key
from skyhold.consensus.buckets import BucketRegisters
from skyhold.consensus.register import CHANGES_KEPT
from skyhold.errors import Conflict, OutcomeUnknown, Unavailable

DATA_BYTES = 512
"""About a repository's root with its frame."""
QUIET_S = 0.25
"""Longer than the farthest round trip: what is still on the way has arrived."""
DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: rounds of everything, operations a round, seconds of each throughput."""

    rounds: int
    operations: int
    throughput_s: float


@dataclass(slots=True)
class Samples:
    """Seconds by row, in the order in which the rows were first added."""

    rows: dict[str, list[float]] = field(default_factory=dict)

    def add(self, row: str, seconds: Sequence[float]) -> None:
        self.rows.setdefault(row, []).extend(seconds)

    def median(self, row: str) -> float:
        return statistics.median(self.rows[row])


def new_key() -> str:
    return "repository/" + secrets.token_hex(16)


def timed(call: Callable[[], object], count: int, pause_s: float = 0.0) -> list[float]:
    """How long each call took; the pauses before them do not count."""
    seconds = []
    for _ in range(count):
        time.sleep(pause_s)
        begin_s = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin_s)
    return seconds


@dataclass(slots=True)
class Writer:
    """Changes one register whose version it follows, each time to other bytes."""

    engine: BucketRegisters
    key: str
    version: int = 0
    data_bytes: int = DATA_BYTES

    def write(self) -> None:
        data = os.urandom(self.data_bytes)
        self.version = self.engine.compare_and_set(self.key, self.version, data, secrets.token_hex(8)).version

    def fill(self) -> None:
        """Until the register carries as many changes as it ever does."""
        while self.version <= CHANGES_KEPT:
            self.write()


def latencies(clouds: Sequence[Cloud], round_trips_ms: Sequence[float], effort: Effort) -> Samples:
    """A register with a full history: reads and writes, warm and cold, beside bare requests to each voter."""
    samples = Samples()
    with region(clouds, round_trips_ms) as here:
        buckets = here.buckets()
        warm = Writer(here.engine(buckets), new_key())
        warm.fill()
        for _ in range(effort.rounds):
            time.sleep(QUIET_S)
            bare_requests(buckets, warm.key, effort.operations, samples)
            time.sleep(QUIET_S)
            samples.add("read", timed(partial(warm.engine.read, warm.key), effort.operations))
            samples.add("warm write", timed(warm.write, effort.operations))
            few = max(effort.operations // 4, 2)
            samples.add("first write of a proposer", timed(partial(_first_write, here, buckets, warm), few, QUIET_S))
            warm.write()  # takes the lead again
            samples.add("write after a read", _writes_after_reads(here, buckets, warm, few))
            creating = partial(_create, here, buckets)
            samples.add("new register", timed(creating, few, QUIET_S))
            samples.add("first write of a process", _in_new_processes(here, warm, max(few // 2, 2)))
            warm.version = _version(warm.engine, warm.key)
            warm.write()
    return samples


def bare_requests(buckets: Sequence[Bucket], key: str, count: int, samples: Samples) -> None:
    """GET and conditional PUT of an object as large as the acceptors of a register, straight at each voter."""
    for number, bucket in enumerate(buckets):
        body = bytes(_object(bucket, key))
        copy = f"bare/{secrets.token_hex(8)}"
        tag = bucket.write_if(copy, body, expected_tag=None)
        samples.add(f"GET {number}", timed(partial(bucket.read_tagged, object_key(1, key)), count))
        for _ in range(count):
            begin_s = time.perf_counter()
            tag = bucket.write_if(copy, body, expected_tag=tag)
            samples.add(f"PUT {number}", [time.perf_counter() - begin_s])


def _object(bucket: Bucket, key: str) -> memoryview:
    tagged = bucket.read_tagged(object_key(1, key))
    assert tagged is not None
    return memoryview(tagged.body)


def _first_write(here: Region, buckets: Sequence[Bucket], warm: Writer) -> None:
    cold = Writer(here.engine(buckets), warm.key, warm.version)
    cold.write()
    warm.version = cold.version


def _writes_after_reads(here: Region, buckets: Sequence[Bucket], warm: Writer, count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        time.sleep(QUIET_S)
        cold = Writer(here.engine(buckets), warm.key, warm.version)
        cold.engine.read(cold.key)
        seconds += timed(cold.write, 1)
        warm.version = cold.version
    return seconds


def _create(here: Region, buckets: Sequence[Bucket]) -> None:
    Writer(here.engine(buckets), new_key()).write()


def _version(engine: BucketRegisters, key: str) -> int:
    value = engine.read(key)
    return value.version if value else 0


def _in_new_processes(here: Region, warm: Writer, count: int) -> list[float]:
    """Connections and all; from the first call, when everything is imported, to the acknowledgement."""
    seconds = []
    for _ in range(count):
        time.sleep(QUIET_S)
        order = {
            "locations": [{"endpoint": at.endpoint, "credentials": at.credentials} for at in here.locations],
            "key": warm.key,
            "version": warm.version,
        }
        command = [sys.executable, str(Path(__file__).with_name("first_write.py")), json.dumps(order)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=DEADLINE_S)
        took_s, warm.version = json.loads(done.stdout)
        seconds.append(took_s)
    return seconds


# ---- many at once


@dataclass(slots=True)
class Client:
    """Who increments a counter in a register: reads where it knows no better, and goes on where it lost."""

    engine: BucketRegisters
    key: str
    done: list[tuple[float, float]] = field(default_factory=list)
    """When each increment was acknowledged (`perf_counter`), and how long it took."""
    answered: int = 0
    gave_up: int = 0
    version: int = 0

    def increment(self, give_up_s: float) -> None:
        begin_s = time.perf_counter()
        while time.perf_counter() < give_up_s:
            data = os.urandom(DATA_BYTES)
            try:
                value = self.engine.compare_and_set(self.key, self.version, data, secrets.token_hex(8))
            except Conflict as conflict:
                self.answered += 1
                self.version = int(str(conflict.fields["current_version"]))
                continue
            except (OutcomeUnknown, Unavailable):  # others were faster until the engine's time was over
                self.gave_up += 1
                continue
            self.answered += 1
            self.version = value.version
            end_s = time.perf_counter()
            self.done.append((end_s, end_s - begin_s))
            return


@dataclass(frozen=True, slots=True)
class Throughput:
    """`changes` acknowledged a second, and `answered` operations, those that lost included; how many operations ended
    by their deadline; how long an increment took (median, and what 95 of 100 stay below); the share of the least and
    the most successful client, of an even share."""

    changes: float
    answered: float
    gave_up: int
    median_s: float
    p95_s: float
    least: float
    most: float


def run_clients(clients: Sequence[Client], duration_s: float) -> Throughput:
    """All clients increment for a while."""
    end_s = time.perf_counter() + duration_s
    failed: list[BaseException] = []

    def work(client: Client) -> None:
        try:
            while time.perf_counter() < end_s:
                client.increment(end_s + DEADLINE_S)
        except BaseException as error:  # noqa: BLE001 - raised below
            failed.append(error)

    threads = [threading.Thread(target=work, args=(client,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(duration_s + DEADLINE_S)
    if failed:
        raise failed[0]
    took = sorted(seconds for client in clients for _, seconds in client.done)
    counts = [sum(at_s <= end_s for at_s, _ in client.done) for client in clients]
    even = max(sum(counts) / len(clients), 1e-9)
    return Throughput(
        sum(counts) / duration_s,
        sum(client.answered for client in clients) / duration_s,
        sum(client.gave_up for client in clients),
        statistics.median(took),
        took[min(int(len(took) * 0.95), len(took) - 1)],
        min(counts) / even,
        max(counts) / even,
    )


def one_register(here: Region, threads: int, effort: Effort) -> Throughput:
    """Threads of one process, which commit together."""
    engine, key = here.engine(here.buckets()), new_key()
    Writer(engine, key).write()
    clients = [Client(engine, key, version=1) for _ in range(threads)]
    return run_clients(clients, effort.throughput_s)


def many_registers(here: Region, registers: int, effort: Effort) -> Throughput:
    """Threads of one process, each with a register of its own."""
    engine = here.engine(here.buckets())
    clients = [Client(engine, new_key()) for _ in range(registers)]
    threads = [threading.Thread(target=client.increment, args=(time.perf_counter() + 60,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.done.clear()
        client.answered = 0
    return run_clients(clients, effort.throughput_s)


def contention(here: Region, proposers: int, effort: Effort) -> Throughput:
    """Proposers that know nothing of each other, as those of other machines, on one register."""
    key = new_key()
    Writer(here.engine(here.buckets()), key).write()
    clients = [Client(here.engine(here.buckets(), f"client-{n}"), key, version=1) for n in range(proposers)]
    return run_clients(clients, 2 * effort.throughput_s)


def far_regions(
    clouds: Sequence[Cloud], vectors_ms: Sequence[Sequence[float]], effort: Effort
) -> dict[str, list[float]]:
    """Two proposers, each near another voter, increment one register as often as they can: how long each increment
    took, for each region."""
    with ExitStack() as stack:
        places = [stack.enter_context(region(clouds, vector)) for vector in vectors_ms]
        key = new_key()
        Writer(places[0].engine(places[0].buckets()), key).write()
        clients = [Client(here.engine(here.buckets(), f"region-{n}"), key, version=1) for n, here in enumerate(places)]
        run_clients(clients, 3 * effort.throughput_s)
        return {f"region {n}": [took_s for _, took_s in client.done] for n, client in enumerate(clients)}


# ---- clouds that are away or slow


@contextmanager
def lost(clouds: Sequence[Cloud]) -> Iterator[None]:
    """These servers accept connections and do not answer, which is worse than refusing."""
    for cloud in clouds:
        cloud.gateway.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for cloud in clouds:
            cloud.gateway.signal(signal.SIGCONT)


def with_lost(clouds: Sequence[Cloud], round_trips_ms: Sequence[float], gone: Sequence[int], effort: Effort) -> Samples:
    """Reads and warm writes while the clouds `gone` do not answer, and the first write of a proposer that meets it."""
    samples = Samples()
    with region(clouds, round_trips_ms) as here:
        buckets = here.buckets()
        writer = Writer(here.engine(buckets), new_key())
        writer.fill()
        time.sleep(QUIET_S)
        with lost([clouds[number] for number in gone]):
            samples.add("write that meets it", timed(writer.write, 1))
            samples.add("warm write", timed(writer.write, effort.operations))
            samples.add("read", timed(partial(writer.engine.read, writer.key), effort.operations))
            few = max(effort.operations // 4, 2)
            samples.add("first write of a proposer", timed(partial(_first_write, here, buckets, writer), few, QUIET_S))
    return samples


def with_slow_writes(here: Region, slow: int | None, effort: Effort) -> list[float]:
    """Warm writes while voter `slow` takes one write of an object a second."""
    intervals_s = [1.0 if number == slow else 0.0 for number in range(len(here.locations))]
    writer = Writer(here.engine(here.buckets(), intervals_s=intervals_s), new_key())
    for _ in range(4):
        writer.write()
    time.sleep(random.random() * 0.1)
    return timed(writer.write, 2 * effort.operations)
