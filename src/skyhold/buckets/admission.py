"""May a bucket vote? Only where its conditional puts are atomic under contention, which some stores promise and do not
keep (SeaweedFS #8800, MinIO #21603, Ceph #71588). `admit` tries it: in each round many clients put to one key at once,
and exactly one may win.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal

from skyhold import error_codes
from skyhold.buckets.bucket import Bucket
from skyhold.errors import Conflict, InvalidInput, NotFound, OutcomeUnknown, Unavailable

PROBE_PREFIX: Final = ".skyhold-check"
CLIENTS_MAX: Final = 64
DEADLINE_S: Final = 10.0
REASONS_MAX: Final = 8
HANG_SHARE: Final = 0.8
"""A put of unknown fate that took this share of its deadline hung: drivers may round the deadline down a little."""
HANGS_SHARE_MAX: Final = 0.01
"""Of all puts, so many may hang. A store that hangs more often is safe but no voter: every change of a contended
register would wait for its deadline. (SeaweedFS: contenders poll a lock once a second; one of 16 waits up to 10 s.)"""

Outcome = Literal["won", "lost", "unknown", "unavailable"]


@dataclass(frozen=True, slots=True)
class AdmissionVerdict:
    """What `rounds` of contention showed, counted by those that were done. A put that ran into its deadline counts in
    `hangs` and in `unknowns`.

    `reasons` lists, a sentence each, what disqualifies the bucket; `admitted` is whether nothing does.
    """

    admitted: bool
    reasons: tuple[str, ...]
    rounds: int
    clients: int
    seed: int
    wins: int
    losses: int
    unknowns: int
    unavailable: int
    hangs: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One client's put in one round: what it sent, the answer, which tag it got, and how long it took."""

    body: bytes
    outcome: Outcome
    tag: str
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class State:
    """What the probe key holds at one moment; an absent key has no bytes and no tag."""

    body: bytes | None = None
    tag: str | None = None


def admit(
    bucket: Bucket, rounds: int = 60, clients: int = 16, seed: int = 0, *, deadline_s: float = DEADLINE_S
) -> AdmissionVerdict:
    """Contend for a probe key in every round: in the even rounds to create a fresh one, in the odd rounds to replace it
    under the tag that a read just returned. `seed` decides how long each client waits before it puts (0 to 2 ms), so
    that the puts meet in different ways. The keys are deleted at the end.

    A lost reply proves nothing against a store; two winners, a winner whose bytes are not there, a change that no
    client made and losers without a winner do. Admission also needs a known winner in at least half of the rounds, and
    at most `HANGS_SHARE_MAX` of the puts to hang; once more did, the remaining rounds are left out.

    Raises `InvalidInput` (the numbers are out of range), and what the bucket raises where the probe key cannot be put
    or read at all.
    """
    if not 2 <= clients <= CLIENTS_MAX or rounds < 2:
        raise InvalidInput(f"Expected 2 or more rounds of 2 to {CLIENTS_MAX} clients but got {rounds} of {clients}")
    dice = random.Random(seed)  # noqa: S311 - timing, not a secret
    started_s = time.monotonic()
    attempts: list[Attempt] = []
    reasons: list[str] = []
    keys = [f"{PROBE_PREFIX}/admission-{secrets.token_hex(8)}" for _ in range(0, rounds, 2)]
    try:
        with ThreadPoolExecutor(clients) as threads:
            for number in range(rounds):
                if number % 2 == 0:
                    before, may_land = State(), set[bytes]()
                delays_s = [dice.uniform(0, 0.002) for _ in range(clients)]
                puts = _contend(bucket, keys[number // 2], before.tag, delays_s, deadline_s=deadline_s, threads=threads)
                may_land |= {put.body for put in puts if put.outcome == "unknown"}
                after = _state(bucket, keys[number // 2])
                reasons += [f"Round {number}: {fault}" for fault in faults_of(puts, before, after, may_land)]
                attempts += puts
                before = after
                if _hangs(attempts, deadline_s) > HANGS_SHARE_MAX * rounds * clients:
                    break
    finally:
        for key in keys:
            bucket.delete(key)
    wins, hangs, done = _count(attempts, "won"), _hangs(attempts, deadline_s), number + 1
    if wins * 2 < done:
        reasons.append(f"Only {wins} of {done} rounds had a client that got the answer that it had won")
    if hangs > HANGS_SHARE_MAX * rounds * clients:
        reasons.append(f"{hangs} of {len(attempts)} contended puts had no answer within {deadline_s:g} s")
    return AdmissionVerdict(
        admitted=not reasons,
        reasons=tuple(reasons[:REASONS_MAX]),
        rounds=done,
        clients=clients,
        seed=seed,
        wins=wins,
        losses=_count(attempts, "lost"),
        unknowns=_count(attempts, "unknown"),
        unavailable=_count(attempts, "unavailable"),
        hangs=hangs,
        duration_s=time.monotonic() - started_s,
    )


def faults_of(attempts: Sequence[Attempt], before: State, after: State, may_land: set[bytes]) -> list[str]:
    """What one round proves against the store. Pure. `may_land` are the bodies of puts of unknown fate on this key:
    a store may still carry one out, also in a later round."""
    winners = [attempt for attempt in attempts if attempt.outcome == "won"]
    if len(winners) > 1:
        return [f"{len(winners)} of {len(attempts)} clients got the answer that they alone had won"]
    if winners:
        held = after == State(winners[0].body, winners[0].tag)
        return [] if held else ["The winner's bytes and tag are not what the key holds"]
    if after != before and after.body not in may_land:
        return ["The key holds bytes that no client can have put there"]
    if after == before and all(attempt.outcome == "lost" for attempt in attempts):
        return ["Every client got the answer that another had won, and none had"]
    return []


def _contend(
    bucket: Bucket,
    key: str,
    expected_tag: str | None,
    delays_s: Sequence[float],
    *,
    deadline_s: float,
    threads: ThreadPoolExecutor,
) -> Sequence[Attempt]:
    gate = threading.Barrier(len(delays_s))

    def put(delay_s: float) -> Attempt:
        body = secrets.token_bytes(64)
        gate.wait(timeout=deadline_s)
        time.sleep(delay_s)
        started_s = time.monotonic()
        outcome, tag = _outcome(lambda: bucket.write_if(key, body, expected_tag=expected_tag, deadline_s=deadline_s))
        return Attempt(body, outcome, tag, time.monotonic() - started_s)

    return list(threads.map(put, delays_s))


def _outcome(put: Callable[[], str]) -> tuple[Outcome, str]:
    try:
        return "won", put()
    except Conflict:
        return "lost", ""
    except OutcomeUnknown:
        return "unknown", ""
    except Unavailable:
        return "unavailable", ""


def _state(bucket: Bucket, key: str) -> State:
    try:
        tagged = bucket.read_tagged(key)
    except NotFound as error:
        if error.code == error_codes.BUCKET_NOT_FOUND:
            raise
        return State()
    assert tagged is not None, "only a read under `unless_tag` may answer None"  # noqa: S101
    return State(bytes(tagged.body), tagged.tag)


def _hangs(attempts: Sequence[Attempt], deadline_s: float) -> int:
    return sum(put.outcome == "unknown" and put.elapsed_s >= HANG_SHARE * deadline_s for put in attempts)


def _count(attempts: Sequence[Attempt], outcome: Outcome) -> int:
    return sum(attempt.outcome == outcome for attempt in attempts)
