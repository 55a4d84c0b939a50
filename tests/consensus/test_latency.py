"""How long changes take, in simulated time: alone, and where proposers change one register as often as they can."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import pytest

from skyhold.consensus.buckets import BucketRegisters
from skyhold.consensus.register import Versioned
from skyhold.consensus.voter import Voter
from skyhold.errors import Conflict, OutcomeUnknown, Unavailable
from tests.consensus.fixtures import KEYS
from tests.consensus.simulation.clouds import Cloud, Network, SimulatedBucket
from tests.consensus.simulation.world import Process, SimulatedRuntime, World

T = TypeVar("T")
DURATION_S = 30.0


class DistantBucket(SimulatedBucket):
    """A cloud that is `round_trip_s` away, within a tenth."""

    round_trip_s: float

    def _far(self) -> float:
        return self.round_trip_s / 2 * (1 + self._network.world.random.random() / 10)


def opened(
    clouds: Sequence[Cloud], network: Network, process: Process, round_trips_ms: Sequence[float]
) -> BucketRegisters:
    """The engine of a process that is so far away from each cloud."""
    voters = []
    for cloud, round_trip_ms in zip(clouds, round_trips_ms, strict=True):
        bucket = DistantBucket(cloud, network, process)
        bucket.round_trip_s = round_trip_ms / 1000
        incarnation = str(cloud.incarnation)
        voters.append(Voter(bucket, incarnation, partial(bucket.verify, incarnation)))
    return BucketRegisters(voters, 1, KEYS, writer=process.name, runtime=SimulatedRuntime(process))


def increments(regions_ms: Sequence[Sequence[float]], seed: int) -> list[list[float]]:
    """How long each increment took (read, change, and again where another was faster), for each proposer. `regions_ms`
    are the round trips of a proposer to each voter."""
    world = World(seed)
    clouds = [Cloud(world, f"cloud-{n}", f"{n:032x}", 0) for n in range(len(regions_ms[0]))]
    network = Network(world, 0.0, Counter())
    took: list[list[float]] = [[] for _ in regions_ms]

    def work(number: int, registers: BucketRegisters) -> None:
        version = tries = 0
        while world.now_s < DURATION_S:
            began_s = world.now_s
            while True:
                tries += 1
                operation_id = f"{number}-{tries}"
                try:
                    version = registers.compare_and_set("names", version, operation_id.encode(), operation_id).version
                    break
                except Conflict as conflict:
                    version = int(str(conflict.fields["current_version"]))
                except (OutcomeUnknown, Unavailable):  # others were faster until the time was over
                    pass
            took[number].append(world.now_s - began_s)

    for number, round_trips_ms in enumerate(regions_ms):
        process = Process(world, f"process-{number}")
        registers = opened(clouds, network, process, round_trips_ms)
        process.start(lambda number=number, registers=registers: work(number, registers))  # type: ignore[misc]
    world.run()
    return took


@pytest.mark.parametrize("seed", range(2))
def test_two_proposers_in_far_regions_both_finish_and_share_evenly(seed: int) -> None:
    near, far = increments([[10, 40, 90], [90, 40, 10]], seed)
    assert 0.8 < len(near) / len(far) < 1.25
    assert max(near + far) < 3.0
    assert statistics.median(near + far) < 0.05
    assert len(near) + len(far) > 10 * DURATION_S  # one alone: about 24 a second


@pytest.mark.parametrize("seed", range(2))
def test_proposer_that_is_farther_from_every_voter_gets_its_turns(seed: int) -> None:
    _, far = increments([[10, 40, 90], [40, 80, 120]], seed)
    assert len(far) > DURATION_S / 2


def test_eight_proposers_do_not_keep_each_other_from_all_progress() -> None:
    took = increments([[10, 40, 90]] * 8, 1)
    assert sum(len(own) for own in took) > 5 * DURATION_S


def test_change_takes_one_round_trip_to_a_majority_and_the_first_of_a_process_three() -> None:
    """A read, a prepare and a proposal; where it was read before, or is created, without the first."""
    world = World(1)
    clouds = [Cloud(world, f"cloud-{n}", f"{n:032x}", 0) for n in range(3)]
    network, process = Network(world, 0.0, Counter()), Process(world, "process")
    round_trips: dict[str, list[float]] = {}
    changes: list[Versioned] = []

    def engine() -> BucketRegisters:
        process.sleep(1)  # what was on its way has arrived
        return opened(clouds, network, process, [10, 40, 90])

    def timed(what: str, call: Callable[[], T]) -> T:
        began_s = world.now_s
        result = call()
        round_trips.setdefault(what, []).append((world.now_s - began_s) / 0.04)
        return result

    def change(what: str, registers: BucketRegisters) -> None:
        version = len(changes)
        call = partial(registers.compare_and_set, "names", version, b"%d" % version, f"o{version}")
        changes.append(timed(what, call))

    def work() -> None:
        first = engine()
        for what in ("creation", "warm", "warm", "warm"):
            change(what, first)
        for read_before in (False, True, False, True):
            other = engine()
            if read_before:
                timed("read", partial(other.read, "names"))
            change("after a read" if read_before else "cold", other)

    process.start(work)
    world.run()
    wanted = {"creation": 3, "warm": 1, "read": 1, "after a read": 2, "cold": 3}
    for what, rounds in wanted.items():
        assert all(rounds <= took < rounds * 1.11 for took in round_trips[what]), round_trips
