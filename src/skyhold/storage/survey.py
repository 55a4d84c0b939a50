"""Verifying a store: is every object that the registers reach in every bucket that has to hold it, and intact?"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from skyhold.buckets.bucket import Bucket
from skyhold.consensus.checkpoint import parse_checkpoint_key
from skyhold.consensus.parallel import at_once
from skyhold.errors import Corrupt, NotFound, SkyholdError
from skyhold.storage.object_check import ObjectChecker, copy_object, read_intact
from skyhold.storage.progress import Progress
from skyhold.units import Buffer

Problem = Literal["missing", "damaged"]
Intact = Callable[[str, str, Buffer], None]
"""Is called with the name of a bucket, the key of an object that was read from it and is intact, and its bytes; from
several threads."""

_OBJECTS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One object that is missing or damaged in one bucket."""

    bucket: str
    key: str
    problem: Problem
    detail: str


@dataclass(slots=True)
class BucketSurvey:
    """What one bucket holds of the objects that it has to hold; `error` where it did not answer."""

    wanted: int = 0
    held: int = 0
    held_bytes: int = 0
    error: SkyholdError | None = None


@dataclass(slots=True)
class Survey:
    """The result of a look at all buckets. `distrusted` are objects, by bucket and key, that are intact in themselves
    but differ from those of another bucket: a repair does not copy them."""

    deep: bool
    buckets: dict[str, BucketSurvey]
    findings: list[Finding] = field(default_factory=list)
    checked_bytes: int = 0
    distrusted: set[tuple[str, str]] = field(default_factory=set)


def survey(
    buckets: Mapping[str, Bucket],
    expected: Mapping[str, frozenset[str]],
    checker: ObjectChecker,
    progress: Progress,
    *,
    deep: bool,
    intact: Intact | None = None,
) -> Survey:
    """Compare what buckets hold with what they have to hold (`expected`: names of buckets by object key).

    Shallow: presence and size by listings, and the bytes where the sizes of replicas differ. Deep: every byte is read
    back and checked, each object once from each bucket.
    """
    result = Survey(deep, {name: BucketSurvey() for name in buckets})
    lists = at_once(lambda item: _list(item[1], expected, result.buckets[item[0]]), buckets.items(), "survey")
    sizes = dict(zip(buckets, lists, strict=True))
    newest = {name: _newest_checkpoints(held) for name, held in sizes.items()}
    usual = _usual_sizes(sizes)
    to_read: list[tuple[str, str, int]] = []
    for key, names in sorted(expected.items()):
        for name in sorted(names & set(buckets)):
            status = result.buckets[name]
            status.wanted += 1
            if status.error is not None:
                continue
            size = sizes[name].get(key)
            if size is None:
                if not _is_followed(key, newest[name]):
                    result.findings.append(Finding(name, key, "missing", "it is not there"))
                continue
            status.held += 1
            status.held_bytes += size
            if deep or size != usual[key]:
                to_read.append((name, key, size))
    progress.begin("verify", sum(size for _, _, size in to_read))
    try:
        _read_back(buckets, to_read, checker, result, progress, intact or _ignore)
    finally:
        progress.end()
    result.findings.sort(key=lambda finding: (finding.bucket, finding.key))
    return result


def repair(
    buckets: Mapping[str, Bucket],
    expected: Mapping[str, frozenset[str]],
    found: Survey,
    checker: ObjectChecker,
    progress: Progress,
) -> Iterator[tuple[Finding, int | SkyholdError]]:
    """Mend the findings of a survey, one by one: each with the bytes written, or with the error that prevented it.

    The sources of a copy are the other buckets, first those that have to hold the object, and last the damaged one
    itself, whose intact records may complete another's.
    """
    progress.begin("repair", None)
    try:
        for finding in found.findings:
            others = sorted(set(found.buckets) - {finding.bucket})
            # A bucket that the policy no longer allows may hold the only copy; it may be read, never written to.
            names = sorted(others, key=lambda name: name not in expected[finding.key])
            names = [name for name in names if found.buckets[name].error is None]
            if finding.problem == "damaged":
                names.append(finding.bucket)
            names = [name for name in names if (name, finding.key) not in found.distrusted]
            try:
                written_bytes = copy_object(
                    finding.key, [buckets[name] for name in names], buckets[finding.bucket], checker
                )
            except SkyholdError as error:
                yield finding, error
            else:
                progress.advance(written_bytes, stored_bytes=written_bytes)
                yield finding, written_bytes
    finally:
        progress.end()


def lost_objects(
    found: Survey, expected: Mapping[str, frozenset[str]], buckets: Mapping[str, Bucket], checker: ObjectChecker
) -> frozenset[str]:
    """The keys of the findings that no bucket returns any more, nor all of them combined. None while a bucket does not
    answer, which may hold them."""
    if any(bucket.error is not None for bucket in found.buckets.values()):
        return frozenset()
    lacking: dict[str, set[str]] = {}
    for finding in found.findings:
        lacking.setdefault(finding.key, set()).add(finding.bucket)
    return frozenset(
        key
        for key, names in lacking.items()
        if names >= expected[key] & found.buckets.keys() and not _is_given(key, list(buckets.values()), checker)
    )


def _is_given(key: str, buckets: list[Bucket], checker: ObjectChecker) -> bool:
    try:
        read_intact(key, buckets, checker)
    except Corrupt:
        return False
    except SkyholdError:
        return True  # by a bucket that does not answer now
    return True


def _list(bucket: Bucket, expected: Mapping[str, frozenset[str]], status: BucketSurvey) -> dict[str, int]:
    """Sizes by key of the expected objects that a bucket holds, and of all its checkpoints."""
    held: dict[str, int] = {}
    try:
        for folder in sorted({key.split("/", 1)[0] for key in expected}):
            for info in bucket.list(f"{folder}/"):
                if info.key in expected or parse_checkpoint_key(info.key):
                    held[info.key] = info.size_bytes
    except SkyholdError as error:
        status.error = error
    return held


def _newest_checkpoints(keys: Iterable[str]) -> dict[str, str]:
    """Of each register that has checkpoints among the keys, that of its newest change, by folder."""
    newest: dict[str, str] = {}
    for key in keys:
        if parse_checkpoint_key(key) is not None:
            folder = key.rpartition("/")[0]
            newest[folder] = max(newest.get(folder, key), key)
    return newest


def _is_followed(key: str, newest: Mapping[str, str]) -> bool:
    """Whether an absent object is no loss: a register may change during the survey, and a later change deletes old
    checkpoints."""
    return newest.get(key.rpartition("/")[0], "") > key


def _went_on(bucket: Bucket, key: str) -> bool:
    """As `_is_followed`, by what the bucket holds now."""
    if parse_checkpoint_key(key) is None:
        return False
    try:
        folder = key.rpartition("/")[0]
        return _is_followed(key, _newest_checkpoints(info.key for info in bucket.list(f"{folder}/")))
    except SkyholdError:
        return False


def _usual_sizes(sizes: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    counts: dict[str, Counter[int]] = {}
    for held in sizes.values():
        for key, size in held.items():
            counts.setdefault(key, Counter())[size] += 1
    return {key: -1 if len(counter) > 1 else next(iter(counter)) for key, counter in counts.items()}


def _read_back(
    buckets: Mapping[str, Bucket],
    to_read: list[tuple[str, str, int]],
    checker: ObjectChecker,
    result: Survey,
    progress: Progress,
    intact: Intact,
) -> None:
    lock = threading.Lock()

    def check(name: str, key: str, size_bytes: int) -> None:
        finding = None
        try:
            intact(name, key, checker.read_checked(buckets[name], key))
        except Corrupt as error:
            finding = Finding(name, key, "damaged", error.message)
        except NotFound as error:
            if not _went_on(buckets[name], key):
                finding = Finding(name, key, "missing", error.message)
        except SkyholdError as error:
            with lock:
                result.buckets[name].error = result.buckets[name].error or error
            return
        with lock:
            result.checked_bytes += size_bytes
            if finding is not None:
                result.findings.append(finding)
        progress.advance(size_bytes)

    with ThreadPoolExecutor(_OBJECTS_AT_ONCE, thread_name_prefix="verify") as pool:
        list(pool.map(lambda place: check(*place), to_read))


def _ignore(_bucket: str, _key: str, _body: Buffer) -> None:
    """Discard the bytes."""
