"""Making what a push reuses as durable as what it sends: found in the buckets, verified there, and copied where the
policy lacks an intact copy or a damaged one was found."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from skyhold import error_codes
from skyhold.buckets.bucket import Bucket, ObjectInfo
from skyhold.errors import Corrupt, NotFound, SkyholdError, Unavailable, reasons_of
from skyhold.storage.chunk_index import ChunkIndex
from skyhold.storage.object_check import ObjectChecker, read_intact
from skyhold.storage.progress import Progress
from skyhold.storage.replica_write import Written, is_lagging, too_slow
from skyhold.storage.replicas import Enough, Replicas
from skyhold.storage.verified import Checked, CopyCheck, Listed
from skyhold.units import Buffer

COPIES_AT_ONCE: Final = 3
"""Objects under way together: their bytes take no more memory than the buffers of the packs of a push."""

BLOBS_AT_ONCE: Final = 8

MENDING_WAIT_S: Final = 20.0
"""How long a push waits until damaged copies are written anew, where the object is durable without them already."""

_LISTED_SINGLY_MAX: Final = 32
_SLOWNESS_CHECK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Holders:
    """What each bucket lists of each object, by key and name. `misshapen` are the buckets that list it with another
    size. `silent` are the buckets that did not answer: they may hold any."""

    of: dict[str, dict[str, Listed]]
    misshapen: dict[str, set[str]]
    silent: frozenset[str]


@dataclass(slots=True)
class Reused:
    """What became of objects that were to be reused. All but `vanished` and `unusable` are durable to the policy.

    `vanished`: keys that no bucket holds any more. `unusable`: keys that no answering bucket returns intact: the push
    does without them, and they stay in the index. `misplaced`: keys of packs whose chunks are not where the index
    listed them; the index is corrected now. `lagging`: how many of the others each bucket lacks; `sync` brings them.
    `mended`: how many damaged copies were written anew in each bucket.
    """

    vanished: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    lagging: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)

    @property
    def complete(self) -> bool:
        """Whether all of the objects can be reused."""
        return not (self.vanished or self.unusable or self.misplaced)


def find_holders(replicas: Replicas, sizes: Mapping[str, int | None]) -> Holders:
    """Ask every bucket which of the objects it holds (of the size given, where one is).

    A bucket that fails, or is much slower than enough others, is marked as lagging. A lagging bucket is asked only for
    objects that no other has.
    """
    found: dict[str, dict[str, Listed]] = {key: {} for key in sizes}
    misshapen: dict[str, set[str]] = {}

    def take(answers: Mapping[str, list[ObjectInfo]]) -> None:
        for name, infos in answers.items():
            for info in infos:
                if sizes[info.key] in (None, info.size_bytes):
                    found[info.key][name] = Listed(info.stamp, info.md5)
                else:
                    misshapen.setdefault(info.key, set()).add(name)

    take(_ask(replicas, set(replicas.buckets) - set(replicas.lagging), sizes))
    silent = frozenset(replicas.lagging) & frozenset(replicas.buckets)
    homeless = {key: sizes[key] for key, names in found.items() if not names}
    if homeless and silent:
        answers = _ask(replicas, silent, homeless)
        silent -= answers.keys()
        take(answers)
    return Holders(found, misshapen, silent)


def ensure_durable(
    replicas: Replicas,
    checker: ObjectChecker,
    chunk_index: ChunkIndex,
    sizes: Mapping[str, int | None],
    progress: Progress,
) -> Reused:
    """Make packs that were written earlier durable to the policy, several at once: as many *verified* copies as it
    asks for (`CopyCheck`), and no damaged one left where it was found.

    Only as many copies are made as the policy lacks; a bucket that fails or is slow is marked as lagging where another
    one serves. Raises `Unavailable` code `not_durable` where none does.
    """
    reused = Reused()
    if not sizes:
        return reused
    holders = find_holders(replicas, sizes)
    for key, held in holders.of.items():
        if not held:
            (reused.unusable if holders.silent else reused.vanished).append(key)
    present = {key: held for key, held in holders.of.items() if held}
    check = CopyCheck(replicas, checker, chunk_index, present, progress)

    def settle(key: str) -> None:
        found = check.verify(key)
        found.damaged |= holders.misshapen.get(key, set())
        if found.misplaced or found.contradictory:
            (reused.misplaced if found.misplaced else reused.unusable).append(key)
            return
        if replicas.enough(frozenset(found.intact)) and not found.damaged:
            holding = found.intact
        else:
            holding = _complete(replicas, checker, check, present[key], key, found)
            if not holding:
                reused.unusable.append(key)
                return
            reused.mended.update(found.damaged & holding)
        reused.lagging.update(replicas.buckets.keys() - holding - (present[key].keys() - found.damaged))

    with _threads(COPIES_AT_ONCE, replicas) as pool:
        check.sample(lambda read, copies: list(pool.map(read, copies)))
        list(pool.map(settle, present))
    return reused


def mend_blobs(replicas: Replicas, checker: ObjectChecker, keys: Collection[str]) -> bool:
    """Make blobs that were written earlier durable to the policy: every copy is read back, for they are small, and
    those that are damaged or missing are written again. Returns whether all of them could be read.

    Raises `Unavailable` code `not_durable`.
    """

    def settle(key: str) -> bool:
        found = Checked(set())
        for name in [name for name in replicas.buckets if name not in replicas.lagging]:
            try:
                found.body = replicas.first(key, lambda bucket: checker.read_checked(bucket, key), only=[name])
                found.intact.add(name)
            except (Corrupt, NotFound):
                found.damaged.add(name)
            except SkyholdError as error:
                replicas.mark_lagging(name, error)
        if found.body is None:
            return False
        if found.damaged or not replicas.enough(frozenset(found.intact)):
            _copy(replicas, key, found.body, found.intact, found.damaged)
        return True

    with _threads(BLOBS_AT_ONCE, replicas) as pool:
        return all(list(pool.map(settle, keys)))


def _complete(
    replicas: Replicas,
    checker: ObjectChecker,
    check: CopyCheck,
    held: Collection[str],
    key: str,
    found: Checked,
) -> set[str]:
    """The buckets that hold a pack after an intact one was copied; none where there is no intact one."""
    try:
        if found.body is None:
            found.body = _read_intact(replicas, checker, key, found.intact or set(held))
    except Corrupt:
        if not found.intact:
            return set()
        again = check.verify(key, anew=True)  # a copy that was verified earlier has been damaged since
        found.intact, found.damaged, found.body = again.intact, found.damaged | again.damaged, again.body
        return _complete(replicas, checker, check, held, key, found)
    except SkyholdError:  # no bucket returns it: that is no fault of the targets
        return set()
    return _copy(replicas, key, found.body, found.intact, found.damaged)


def _ask(replicas: Replicas, names: Collection[str], sizes: Mapping[str, int | None]) -> dict[str, list[ObjectInfo]]:
    """What each bucket that answers holds of the objects. Those that fail or are much slower are lagging."""
    answers: dict[str, list[ObjectInfo]] = {}
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
            if enough_after_s is not None and is_lagging(elapsed_s, enough_after_s):
                for name in running.values():
                    replicas.mark_lagging(name, too_slow(name))
                break
    return answers


def _take(
    future: Future[list[ObjectInfo]], name: str, answers: dict[str, list[ObjectInfo]], replicas: Replicas
) -> None:
    try:
        answers[name] = future.result()
    except SkyholdError as error:
        replicas.mark_lagging(name, error)


def _held(bucket: Bucket, sizes: Mapping[str, int | None]) -> list[ObjectInfo]:
    """Those of the objects that a bucket lists: in one listing for each of a few keys, one per folder for many."""
    many = len(sizes) > _LISTED_SINGLY_MAX
    prefixes = {key.split("/", 1)[0] + "/" for key in sizes} if many else set(sizes)
    return [info for prefix in sorted(prefixes) for info in bucket.list(prefix) if info.key in sizes]


def _read_intact(replicas: Replicas, checker: ObjectChecker, key: str, holding: set[str]) -> Buffer:
    try:
        return replicas.first(f"an intact {key}", lambda bucket: checker.read_checked(bucket, key), only=holding)
    except Corrupt:  # perhaps no bucket has it whole, and all of them together do
        return read_intact(key, [replicas.buckets[name] for name in sorted(holding)], checker)


def _copy(replicas: Replicas, key: str, body: Buffer, holding: Collection[str], damaged: Collection[str]) -> set[str]:
    """Write an object over its damaged copies, and to as few further buckets as the policy needs; returns the buckets
    that then hold an intact copy.

    A target that fails is replaced, and beside a slow one another is tried; one that is much slower than the others is
    marked as lagging.
    """
    written = Written(key, len(body), verified=set(holding), failed=dict(replicas.lagging))
    mended = [name for name in replicas.buckets if name in damaged and name not in replicas.lagging]
    tried = {*holding, *mended}
    replicas.send(written, body, mended)
    while not replicas.wait_enough(written):
        untried = [name for name in replicas.buckets if name not in tried and name not in replicas.lagging]
        more = fewest(replicas.enough, written.verified, untried)
        if not replicas.enough(frozenset(written.verified | written.pending | set(more))):
            raise _not_durable(written)
        tried.update(more)
        replicas.send(written, body, more)
    if written.pending & set(mended):
        replicas.wait_all(written, timeout_s=MENDING_WAIT_S)
    for name in sorted(written.pending):
        replicas.mark_lagging(name, too_slow(name))
    return written.verified


def fewest(enough: Enough, holding: Collection[str], candidates: Sequence[str]) -> list[str]:
    """The fewest candidates, earlier ones preferred, that make enough replicas together with the buckets that hold one
    already; all of them where even that is not enough."""
    chosen = list(candidates)
    for name in reversed(candidates):
        without = [other for other in chosen if other != name]
        if enough(frozenset({*holding, *without})):
            chosen = without
    return chosen


def _not_durable(written: Written) -> SkyholdError:
    reasons = reasons_of(written.failed)
    return Unavailable(
        f"Too few buckets hold {written.key}, which this version needs too; nothing was changed"
        + (f" ({reasons})" if reasons else ""),
        code=error_codes.NOT_DURABLE,
        hint="Bring a bucket back, then run the same command again: it continues",
        key=written.key,
        buckets=sorted(written.verified),
    )


@contextmanager
def _threads(count: int, replicas: Replicas) -> Iterator[ThreadPoolExecutor]:
    """Threads that end by themselves: the caller does not wait for one that hangs in a driver."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="reuse")
    try:
        yield pool
    except BaseException:
        replicas.stop()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
