"""Which bucket a read asks next, and when: on a clock of the test's own, over all kinds of answers."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from skyhold.storage.replica_read import after_failures, after_silence, begin_read

STALL_S, GIVE_UP_S = 8.0, 120.0


@dataclass(frozen=True)
class Answer:
    """What a bucket does once it is asked: it answers after so many seconds (or never), with what was asked or not."""

    after_s: float
    serves: bool


@dataclass
class Read:
    """How one read went: who was asked when, who was found stalled when, and how it ended."""

    asked: dict[str, float] = field(default_factory=dict)
    stalled: dict[str, float] = field(default_factory=dict)
    result: str | None = None
    ended_s: float = 0.0


ANSWERS = st.builds(
    Answer, st.one_of(st.integers(0, 200), st.sampled_from([0, STALL_S, GIVE_UP_S, math.inf])), st.booleans()
)
BUCKETS = st.lists(ANSWERS, max_size=7).map(lambda answers: {f"b{number}": one for number, one in enumerate(answers)})


def run(buckets: dict[str, Answer], wakes_s: list[float] | None = None) -> Read:
    """Run the machine; it is also woken without a reason at `wakes_s`."""
    read, now_s, wakes = Read(), 0.0, sorted(wakes_s or [])
    step = begin_read(list(buckets), now_s, stall_s=STALL_S, give_up_s=GIVE_UP_S)
    for _ in range(1000):
        for name in step.stalled:
            read.stalled.setdefault(name, now_s)
        if step.over:
            break
        if step.ask is not None:
            assert step.ask not in read.asked
            read.asked[step.ask] = now_s
        due = {name: read.asked[name] + buckets[name].after_s for name in step.choice.running}
        event_s = min([*due.values(), step.choice.look_again_s, *[wake for wake in wakes if wake > now_s]])
        now_s = max(now_s, event_s)
        finished = [name for name, at_s in due.items() if at_s <= now_s]
        served = [name for name in finished if buckets[name].serves]
        if served:
            read.result = served[0]
            break
        if finished:
            step = after_failures(step.choice, finished, now_s, stall_s=STALL_S)
        else:
            step = after_silence(step.choice, now_s, stall_s=STALL_S)
    else:
        raise AssertionError("it never ends")
    read.ended_s = now_s
    return read


@given(BUCKETS, st.lists(st.floats(0, 130), max_size=5))
def test_buckets_are_asked_once_in_order_of_trust_and_no_read_outlasts_its_time(
    buckets: dict[str, Answer], wakes_s: list[float]
) -> None:
    read = run(buckets, wakes_s)
    assert list(read.asked) == list(buckets)[: len(read.asked)]
    assert list(read.asked.values()) == sorted(read.asked.values())
    assert read.ended_s <= GIVE_UP_S


@given(BUCKETS)
def test_read_is_given_up_only_when_all_have_failed_or_the_time_is_over(buckets: dict[str, Answer]) -> None:
    read = run(buckets)
    if read.result is None and read.ended_s < GIVE_UP_S:
        assert read.asked.keys() == buckets.keys()
        assert not any(answer.serves and math.isfinite(answer.after_s) for answer in buckets.values())
        assert all(read.asked[name] + answer.after_s <= read.ended_s for name, answer in buckets.items())


@given(BUCKETS)
def test_next_bucket_is_asked_at_a_failure_or_a_stall_and_never_before(buckets: dict[str, Answer]) -> None:
    read = run(buckets)
    times = list(read.asked.items())
    for (_, before_s), (name, asked_s) in itertools.pairwise(times):
        failed_now = [
            other
            for other, answer in buckets.items()
            if other in read.asked and read.asked[other] + answer.after_s == asked_s
        ]
        assert failed_now or asked_s - before_s >= STALL_S, name


@given(BUCKETS)
def test_first_bucket_that_serves_in_time_is_the_only_one_asked(buckets: dict[str, Answer]) -> None:
    read = run({"first": Answer(STALL_S / 2, serves=True), **buckets})
    assert (list(read.asked), read.result, read.stalled) == (["first"], "first", {})


@given(BUCKETS)
def test_bucket_that_never_answers_delays_a_read_by_one_stall(buckets: dict[str, Answer]) -> None:
    read = run({"silent": Answer(math.inf, serves=True), "good": Answer(1.0, serves=True), **buckets})
    assert (read.result, read.ended_s, read.stalled) == ("good", STALL_S + 1, {"silent": STALL_S})


@given(BUCKETS)
def test_only_a_bucket_that_was_silent_counts_as_stalled(buckets: dict[str, Answer]) -> None:
    read = run(buckets)
    for name, at_s in read.stalled.items():
        assert read.asked[name] + buckets[name].after_s > at_s


def test_read_of_no_bucket_is_over_at_once() -> None:
    assert run({}) == Read()


def test_waking_early_changes_nothing() -> None:
    step = begin_read(["a", "b"], 0.0, stall_s=STALL_S, give_up_s=GIVE_UP_S)
    again = after_silence(step.choice, STALL_S / 2, stall_s=STALL_S)
    assert (again.choice, again.ask, again.over) == (step.choice, None, False)
