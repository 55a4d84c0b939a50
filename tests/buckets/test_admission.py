"""The admission test admits buckets whose conditional puts are atomic and rejects every planted fault."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator

import pytest

from skyhold.buckets.admission import AdmissionVerdict, Attempt, State, admit, faults_of
from skyhold.buckets.bucket import WRITE_IF_DEADLINE_S, Bucket
from skyhold.buckets.location import parse_location
from skyhold.buckets.memory import MemoryBucket
from skyhold.errors import Conflict, InvalidInput, NotFound, OutcomeUnknown
from skyhold.units import Buffer
from tests.buckets.conformance import tag_of


@pytest.fixture
def bucket() -> Iterator[MemoryBucket]:
    with MemoryBucket(parse_location(f"memory://{secrets.token_hex(8)}")) as opened:
        yield opened


def fresh(kind: type[MemoryBucket]) -> MemoryBucket:
    return kind(parse_location(f"memory://{secrets.token_hex(8)}"))


class ChecksThenPuts(MemoryBucket):
    """Looks at the condition first and puts a moment later, as a store without a lock around both does."""

    check_create, check_replace = False, False

    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        atomic = self.check_create if expected_tag is None else self.check_replace
        if atomic:
            return super().write_if(key, body, expected_tag=expected_tag, deadline_s=deadline_s)
        try:
            tag: str | None = tag_of(self, key)
        except NotFound:
            tag = None
        if tag != expected_tag:
            raise Conflict("lost")
        time.sleep(0.005)
        self.write(key, body)
        return tag_of(self, key)


class CreatesAtomicallyOnly(ChecksThenPuts):
    check_create = True


class ReplacesAtomicallyOnly(ChecksThenPuts):
    check_replace = True


class IgnoresConditions(MemoryBucket):
    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        self.write(key, body)
        return tag_of(self, key)


class ReportsItsOwnPutAsLost(MemoryBucket):
    """A client library that retries the put: the first attempt lands, the second one finds it there."""

    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        super().write_if(key, body, expected_tag=expected_tag, deadline_s=deadline_s)
        raise Conflict("found something there")


class RefusesEverybody(MemoryBucket):
    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        raise Conflict("always")


class AcknowledgesWithoutPutting(MemoryBucket):
    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        if not hasattr(self, "taken"):
            self.taken: set[str] = set()
            self.guard = threading.Lock()
        with self.guard:
            if key in self.taken:
                raise Conflict("taken")
            self.taken.add(key)
        return "tag"


class LosesEveryReply(MemoryBucket):
    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        with contextlib.suppress(Conflict):
            super().write_if(key, body, expected_tag=expected_tag, deadline_s=deadline_s)
        raise OutcomeUnknown("the reply was lost")


class LosesSomeReplies(MemoryBucket):
    """Every third reply is lost, whatever it was: the put itself is atomic."""

    puts = 0

    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        self.puts += 1
        lost = self.puts % 3 == 0
        try:
            tag = super().write_if(key, body, expected_tag=expected_tag, deadline_s=deadline_s)
        except Conflict:
            if lost:
                raise OutcomeUnknown("the reply was lost") from None
            raise
        if lost:
            raise OutcomeUnknown("the reply was lost")
        return tag


def verdict_of(bucket: Bucket) -> AdmissionVerdict:
    return admit(bucket, rounds=20, clients=8, seed=7)


def test_atomic_conditional_puts_are_admitted(bucket: MemoryBucket) -> None:
    verdict = verdict_of(bucket)
    assert verdict.admitted
    assert (verdict.wins, verdict.losses, verdict.unknowns, verdict.hangs) == (20, 140, 0, 0)


def test_nothing_is_left_behind(bucket: MemoryBucket) -> None:
    verdict_of(bucket)
    assert list(bucket.list()) == []


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (ChecksThenPuts, "got the answer that they alone had won"),
        (CreatesAtomicallyOnly, "got the answer that they alone had won"),
        (ReplacesAtomicallyOnly, "got the answer that they alone had won"),
        (IgnoresConditions, "got the answer that they alone had won"),
        (ReportsItsOwnPutAsLost, "no client can have put there"),
        (RefusesEverybody, "none had"),
        (AcknowledgesWithoutPutting, "not what the key holds"),
        (LosesEveryReply, "got the answer that it had won"),
    ],
)
def test_planted_fault_is_rejected(kind: type[MemoryBucket], reason: str) -> None:
    verdict = verdict_of(fresh(kind))
    assert not verdict.admitted
    assert any(reason in found for found in verdict.reasons), verdict.reasons


def test_lost_replies_alone_prove_nothing_against_a_bucket() -> None:
    verdict = verdict_of(fresh(LosesSomeReplies))
    assert verdict.admitted, verdict.reasons
    assert verdict.unknowns > 0


def test_put_past_its_deadline_counts_as_hung() -> None:
    class Hangs(MemoryBucket):
        def write_if(
            self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
        ) -> str:
            time.sleep(deadline_s)
            raise OutcomeUnknown("no reply in time")

    verdict = admit(fresh(Hangs), rounds=20, clients=2, deadline_s=0.02)
    assert (verdict.hangs, verdict.unknowns, verdict.admitted) == (2, 2, False)
    assert verdict.rounds == 1, "it is known after one round: the others are left out"


@pytest.mark.parametrize(("hung", "admitted"), [(1, True), (2, False)])
def test_store_is_no_voter_where_more_than_one_put_in_a_hundred_hangs(hung: int, admitted: bool) -> None:
    class HangsNowAndThen(MemoryBucket):
        left = hung

        def write_if(
            self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
        ) -> str:
            tag = super().write_if(key, body, expected_tag=expected_tag, deadline_s=deadline_s)
            if self.left:  # the winner's own: no two are at this line in one round
                self.left -= 1
                time.sleep(deadline_s)
                raise OutcomeUnknown("no reply in time")
            return tag

    verdict = admit(fresh(HangsNowAndThen), rounds=25, clients=4, deadline_s=0.05)
    assert (verdict.hangs, verdict.admitted) == (hung, admitted)
    assert any("had no answer within 0.05 s" in reason for reason in verdict.reasons) != admitted


def test_late_put_of_an_earlier_round_is_no_fault() -> None:
    late = Attempt(b"late", "unknown", "", 1.0)
    lost = Attempt(b"lost", "lost", "", 0.1)
    assert faults_of([late], State(), State(), {late.body}) == []
    assert faults_of([lost, lost], State(), State(b"late", "1"), {late.body}) == []


@pytest.mark.parametrize(("rounds", "clients"), [(1, 8), (10, 1), (10, 65)])
def test_numbers_out_of_range_are_refused(bucket: MemoryBucket, rounds: int, clients: int) -> None:
    with pytest.raises(InvalidInput):
        admit(bucket, rounds, clients)
