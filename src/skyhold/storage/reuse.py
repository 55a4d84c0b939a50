"""Making what a push reuses as durable as what it sends: found in the buckets, and copied where the policy lacks it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from skyhold.buckets.bucket import Bucket
from skyhold.errors import Corrupt, SkyholdError, Unavailable
from skyhold.storage.objects import ObjectChecker, read_intact
from skyhold.storage.replicas import Enough, Replicas
from skyhold.storage.written import Written, is_outpaced, too_slow
from skyhold.units import Buffer

COPIES_AT_ONCE: Final = 3
"""Objects under way together: their bytes take no more memory than the buffers of the packs of a push."""

_LISTED_SINGLY_MAX: Final = 32
_SLOWNESS_CHECK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Holders:
    """Which buckets hold each object. `silent` are the buckets that could not be asked: they may hold any."""

    of: dict[str, set[str]]
    silent: frozenset[str]


@dataclass(slots=True)
class Reused:
    """What became of objects that were to be reused. All but `vanished` and `unusable` are durable to the policy.

    `vanished`: keys that no bucket holds any more. `unusable`: keys that no bucket which answers gives intact: they are
    to be done without, not to be forgotten. `behind`: how many of the others each bucket lacks; `sync` brings them.
    """

    vanished: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    behind: Counter[str] = field(default_factory=Counter)

    @property
    def complete(self) -> bool:
        """Whether all of the objects can be relied on."""
        return not (self.vanished or self.unusable)


def find_holders(replicas: Replicas, sizes: Mapping[str, int | None]) -> Holders:
    """Ask every bucket which of the objects it holds (of the size given, where one is).

    A bucket that fails, or is much slower than those that suffice, lags from now on. One that lags already is asked
    only for what no other has.
    """
    found: dict[str, set[str]] = {key: set() for key in sizes}
    for name, keys in _ask(replicas, set(replicas.buckets) - set(replicas.lagging), sizes).items():
        for key in keys:
            found[key].add(name)
    silent = frozenset(replicas.lagging) & frozenset(replicas.buckets)
    homeless = {key: sizes[key] for key, names in found.items() if not names}
    if homeless and silent:
        answers = _ask(replicas, silent, homeless)
        silent -= answers.keys()
        for name, keys in answers.items():
            for key in keys:
                found[key].add(name)
    return Holders(found, silent)


def ensure_durable(replicas: Replicas, checker: ObjectChecker, sizes: Mapping[str, int | None]) -> Reused:
    """Make objects that were written earlier durable to the policy, several at once.

    Only as many copies are made as the policy lacks; a bucket that fails or is slow is passed over where another one
    serves. Raises `Unavailable` code `not_durable` where none does.
    """
    reused = Reused()
    if not sizes:
        return reused
    holders = find_holders(replicas, sizes)
    lacking = []
    for key, holding in holders.of.items():
        if not holding:
            (reused.unusable if holders.silent else reused.vanished).append(key)
        elif not replicas.enough(frozenset(holding)):
            lacking.append(key)

    def complete(key: str) -> None:
        try:
            body = _read_intact(replicas, checker, key, holders.of[key])
        except SkyholdError:  # no bucket gives it: that is no fault of those that it would have been copied to
            reused.unusable.append(key)
        else:
            holders.of[key] |= _copy(replicas, key, body, holders.of[key])

    with _threads(COPIES_AT_ONCE, replicas) as pool:
        list(pool.map(complete, lacking))
    for key in sizes.keys() - {*reused.vanished, *reused.unusable}:
        reused.behind.update(replicas.buckets.keys() - holders.of[key])
    return reused


def _ask(replicas: Replicas, names: Collection[str], sizes: Mapping[str, int | None]) -> dict[str, list[str]]:
    """What each bucket that answers holds of the objects. Those that fail or are outpaced are passed over."""
    answers: dict[str, list[str]] = {}
    begun_s, enough_after_s = time.monotonic(), None
    with _threads(max(1, len(names)), replicas) as pool:
        running = {pool.submit(_held, replicas.buckets[name], sizes): name for name in sorted(names)}
        while running:
            done, _ = wait(running, timeout=_SLOWNESS_CHECK_S, return_when=FIRST_COMPLETED)
            for future in done:
                _take(future, running.pop(future), answers, replicas)
            elapsed_s = time.monotonic() - begun_s
            if enough_after_s is None and replicas.enough(frozenset(answers)):
                enough_after_s = elapsed_s
            if enough_after_s is not None and is_outpaced(elapsed_s, enough_after_s):
                for name in running.values():
                    replicas.pass_over(name, too_slow(name))
                break
    return answers


def _take(future: Future[list[str]], name: str, answers: dict[str, list[str]], replicas: Replicas) -> None:
    try:
        answers[name] = future.result()
    except SkyholdError as error:
        replicas.pass_over(name, error)


def _held(bucket: Bucket, sizes: Mapping[str, int | None]) -> list[str]:
    """Those of the objects that a bucket holds, by listings: one for each of a few keys, one per folder for many. (A
    `stat` also gives the tag, for which a folder bucket reads the whole object.)"""
    many = len(sizes) > _LISTED_SINGLY_MAX
    prefixes = {key.split("/", 1)[0] + "/" for key in sizes} if many else set(sizes)
    return [
        info.key
        for prefix in sorted(prefixes)
        for info in bucket.list(prefix)
        if info.key in sizes and sizes[info.key] in (None, info.size_bytes)
    ]


def _read_intact(replicas: Replicas, checker: ObjectChecker, key: str, holding: set[str]) -> Buffer:
    try:
        return replicas.first(f"an intact {key}", lambda bucket: checker.read_checked(bucket, key), only=holding)
    except Corrupt:  # perhaps no bucket has it whole, and all of them together do
        return read_intact(key, [replicas.buckets[name] for name in sorted(holding)], checker)


def _copy(replicas: Replicas, key: str, body: Buffer, holding: Collection[str]) -> set[str]:
    """Write an object to as few further buckets as the policy needs; returns who holds it then.

    A target that fails is replaced, one that is slow gets company; one that is outpaced by its company is passed over.
    """
    written = Written(key, len(body), verified=set(holding), failed=dict(replicas.lagging))
    tried = set(holding)
    while not replicas.wait_enough(written):
        untried = [name for name in replicas.buckets if name not in tried and name not in replicas.lagging]
        more = fewest(replicas.enough, written.verified, untried)
        if not replicas.enough(frozenset(written.verified | written.pending | set(more))):
            raise _not_durable(written)
        tried.update(more)
        replicas.send(written, body, more)
    for name in sorted(written.pending):
        replicas.pass_over(name, too_slow(name))
    return written.verified


def fewest(enough: Enough, holding: Collection[str], candidates: Sequence[str]) -> list[str]:
    """As few of the candidates, the first ones rather, as make enough replicas together with those that hold one
    already; all of them where even that is not enough."""
    chosen = list(candidates)
    for name in reversed(candidates):
        without = [other for other in chosen if other != name]
        if enough(frozenset({*holding, *without})):
            chosen = without
    return chosen


def _not_durable(written: Written) -> SkyholdError:
    reasons = "; ".join(f"`{name}`: {error.message}" for name, error in sorted(written.failed.items()))
    return Unavailable(
        f"Too few buckets hold {written.key}, which this version needs too; nothing was changed"
        + (f" ({reasons})" if reasons else ""),
        code="not_durable",
        hint="Bring a bucket back, then run the same command again: it continues",
        key=written.key,
        buckets=sorted(written.verified),
    )


@contextmanager
def _threads(count: int, replicas: Replicas) -> Iterator[ThreadPoolExecutor]:
    """Threads that end by themselves: one that hangs in a driver keeps nobody waiting."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="reuse")
    try:
        yield pool
    except BaseException:
        replicas.stop()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
