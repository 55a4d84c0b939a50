"""Repetition is bounded in number and time, and only where a repetition can help."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from skyhold.buckets import retry
from skyhold.buckets.retry import RetryPolicy, resuming, retry_after_s, retrying
from skyhold.errors import Corrupt, NotFound, SkyholdError, Unavailable
from skyhold.units import Buffer


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        self.now_s += duration_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retry, "time", clock)
    return clock


def failing(*errors: SkyholdError) -> Iterator[SkyholdError]:
    yield from errors


def attempt_of(errors: Iterator[SkyholdError]) -> str:
    for error in errors:
        raise error
    return "done"


def test_result_comes_after_failures_that_pass(clock: Clock) -> None:
    errors = failing(Unavailable("x"), Unavailable("y", code="truncated_reply"), Corrupt("z", code="checksum_refused"))
    assert retrying(RetryPolicy(), lambda _: attempt_of(errors)) == "done"
    assert len(clock.slept) == 3


def test_delays_double_with_jitter_up_to_their_bound(clock: Clock) -> None:
    policy = RetryPolicy(attempts_max=6, first_delay_s=1, delay_s_max=4, total_s=1000)
    with pytest.raises(Unavailable):
        retrying(policy, lambda _: attempt_of(failing(Unavailable("down"))))
    assert len(clock.slept) == 5
    for slept_s, bound_s in zip(clock.slept, [1, 2, 4, 4, 4], strict=True):
        assert bound_s / 2 <= slept_s <= bound_s


def test_no_attempt_begins_after_the_total(clock: Clock) -> None:
    with pytest.raises(Unavailable):
        retrying(RetryPolicy(attempts_max=100, total_s=10), lambda _: attempt_of(failing(Unavailable("down"))))
    assert clock.now_s <= 10


def test_store_that_names_a_time_is_given_it(clock: Clock) -> None:
    errors = failing(Unavailable("busy", retry_after_s=7))
    assert retrying(RetryPolicy(), lambda _: attempt_of(errors)) == "done"
    assert clock.slept == [7.0]


def test_store_that_names_a_very_long_time_is_asked_again_within_the_bounds(clock: Clock) -> None:
    errors = failing(*[Unavailable("busy", retry_after_s=999_999)] * 9)
    with pytest.raises(Unavailable):
        retrying(RetryPolicy(), lambda _: attempt_of(errors))
    assert clock.slept == [20.0] * 4  # a fifth wait would end after the 90 s of all attempts


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        (" 120 ", 120),
        ("999999999", 999_999_999),
        ("9" * 5000, None),
        ("-1", None),
        ("1.5", None),
        ("\u0663", None),
        ("", None),
        ("soon", None),
        ("Mon, 30 Nov 2026 20:00:07 GMT", 7),
        ("Mon, 30 Nov 2026 19:59:00 GMT", 0),
        ("Mon, 30 Nov 2026 20:00:07", None),
        ("Mon, 30 Nov 99999999999 20:00:07 GMT", None),
    ],
)
def test_time_that_a_store_names_is_read_as_seconds_or_by_the_clock_of_the_store(
    text: str, seconds: int | None
) -> None:
    assert retry_after_s(text, "Mon, 30 Nov 2026 20:00:00 GMT") == seconds


@pytest.mark.parametrize("error", [NotFound("x"), Corrupt("x")])
def test_definite_answer_is_not_asked_again(clock: Clock, error: SkyholdError) -> None:
    with pytest.raises(type(error)):
        retrying(RetryPolicy(), lambda _: attempt_of(failing(error)))
    assert clock.slept == []


def test_broken_transfer_goes_on_where_it_broke(clock: Clock) -> None:
    body = bytes(range(100))

    def attempt(_number: int, done_bytes: int) -> Iterator[Buffer]:
        yield body[done_bytes : done_bytes + 7]
        if done_bytes + 7 < len(body):
            raise Unavailable("cut", code="truncated_reply")

    assert b"".join(resuming(RetryPolicy(attempts_max=2), attempt)) == body


def test_transfer_without_progress_ends(clock: Clock) -> None:
    def attempt(_number: int, _done_bytes: int) -> Iterator[Buffer]:
        raise Unavailable("down")
        yield b""

    with pytest.raises(Unavailable):
        list(resuming(RetryPolicy(attempts_max=3), attempt))
    assert len(clock.slept) == 2


def test_closed_transfer_closes_what_it_reads_from(clock: Clock) -> None:
    closed = []

    def attempt(_number: int, _done_bytes: int) -> Iterator[Buffer]:
        try:
            yield b"x"
            yield b"y"
        finally:
            closed.append(True)

    parts = resuming(RetryPolicy(), attempt)
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    assert closed == [True]
