"""`check_bucket`: is a bucket fit for a store? It tries what a store does on probe objects of its own, measures, asks
for the provider's rules, and reports; it changes nothing else and cleans up."""

from __future__ import annotations

import contextlib
import secrets
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import ClassVar, Final

from skyhold import error_codes
from skyhold.buckets.admission import PROBE_PREFIX, AdmissionVerdict, admit
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.iam_policies import Operation, permissions_for
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.rules import BucketRules, unknown_rules
from skyhold.errors import Corrupt, NotFound, PermissionDenied, SkyholdError

ROUND_TRIPS: Final = 7
THROUGHPUT_BYTES: Final = 8 << 20
CLOCK_SKEW_S_MAX: Final = 60.0
"""S3 refuses signatures that are 15 minutes off, Azure the same; from a minute on it is reported."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One operation tried on a probe: `works`, or the error's code and message. `rights` are the vendor's names of
    what is missing where the error was `PermissionDenied`."""

    operation: Operation
    works: bool
    code: str = ""
    message: str = ""
    rights: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BucketReport:
    """What a check found. A figure that could not be had is None, a rule that could not be asked for is `unknown`.

    `clock_skew_s` is our clock minus the store's, good to about a second; `round_trip_s` the median of small reads.
    """

    bucket: str
    url: str
    trials: tuple[Trial, ...]
    round_trip_s: float | None
    upload_bytes_per_s: float | None
    download_bytes_per_s: float | None
    clock_skew_s: float | None
    rules: BucketRules
    admission: AdmissionVerdict | None
    problems: tuple[str, ...]
    in_json: ClassVar = ("reachable", "missing_rights")

    @property
    def reachable(self) -> bool:
        """Whether the store answered anything at all: a refusal is an answer."""
        return any(
            trial.works or trial.code not in {error_codes.UNREACHABLE, error_codes.NO_REPLY, error_codes.UNAVAILABLE}
            for trial in self.trials
        )

    @property
    def missing_rights(self) -> tuple[str, ...]:
        """The vendor's names of the rights that are missing, sorted."""
        return tuple(sorted({right for trial in self.trials for right in trial.rights}))


def check_bucket(
    bucket: Bucket,
    location: BucketLocation,
    *,
    contend: bool = True,
    rounds: int = 60,
    clients: int = 16,
    seed: int = 0,
    throughput_bytes: int = THROUGHPUT_BYTES,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> BucketReport:
    """Try, measure and ask. `contend=False` leaves out the admission test. Never raises for what the bucket does: that
    is what the report is for. Writes below `.skyhold-check/` only, and deletes what it wrote where it may."""
    key = f"{PROBE_PREFIX}/probe-{secrets.token_hex(8)}"
    trials = _try_operations(bucket, location, key)
    works = {trial.operation for trial in trials if trial.works}
    round_trip_s = upload = download = None
    if {"read", "write"} <= works:
        round_trip_s, upload, download = _measure(bucket, key, throughput_bytes)
    if "write" in works:
        trials.append(_try(location, "delete", lambda: bucket.delete(key)))
        works = {trial.operation for trial in trials if trial.works}
    rules, rules_problem = _rules(bucket) if works else (unknown_rules("The bucket cannot be used"), None)
    report = BucketReport(
        bucket=bucket.name,
        url=bucket.url,
        trials=tuple(trials),
        round_trip_s=round_trip_s,
        upload_bytes_per_s=upload,
        download_bytes_per_s=download,
        clock_skew_s=_clock_skew_s(bucket, now) if works else None,
        rules=rules,
        admission=None,
        problems=(),
    )
    admission_problem = None
    if contend and {"read", "write", "replace", "delete"} <= works:
        try:
            report = replace(report, admission=admit(bucket, rounds, clients, seed))
        except SkyholdError as error:
            admission_problem = f"Contention could not be tried: {error.message}"
    found = (rules_problem, admission_problem)
    return replace(report, problems=problems_of(report) + tuple(problem for problem in found if problem))


def problems_of(report: BucketReport) -> tuple[str, ...]:
    """What of a report would hurt a store, a sentence each."""
    problems = [f"Cannot {trial.operation}: {trial.message}" for trial in report.trials if not trial.works]
    if report.clock_skew_s is not None and abs(report.clock_skew_s) > CLOCK_SKEW_S_MAX:
        problems.append(f"This machine's clock is {report.clock_skew_s:+.0f} s off the store's")
    rules = (report.rules.lifecycle, report.rules.versioning, report.rules.retention)
    problems += [rule.detail for rule in rules if rule.verdict in {"costly", "harmful"}]
    if report.admission is not None and not report.admission.admitted:
        problems.append(f"Conditional puts are not atomic enough to vote: {report.admission.reasons[0]}")
    return tuple(problems)


def _try_operations(bucket: Bucket, location: BucketLocation, key: str) -> list[Trial]:
    """List, write, read and conditionally replace the probe `key`, which stays."""
    body = secrets.token_bytes(64)
    trials = [
        _try(location, "list", lambda: next(iter(bucket.list(f"{PROBE_PREFIX}/")), None)),
        _try(location, "write", lambda: bucket.write(key, body)),
    ]
    written = trials[-1].works

    def read() -> None:
        try:
            found = bytes(bucket.read(key))
        except NotFound as error:
            if written or error.code == error_codes.BUCKET_NOT_FOUND:
                raise
            return  # credentials that may only read get a report, not an error
        if found != body:
            raise Corrupt(f"Bucket `{bucket.name}` returned other bytes than were written", bucket=bucket.name)

    def replace_probe() -> None:
        tagged = bucket.read_tagged(key)
        assert tagged is not None, "a read without a condition returns the object"  # noqa: S101 - our own mistake
        bucket.write_if(key, body, expected_tag=tagged.tag)

    trials.append(_try(location, "read", read))
    if written and trials[-1].works:
        trials.append(_try(location, "replace", replace_probe))
    return trials


def _try(location: BucketLocation, operation: Operation, act: Callable[[], object]) -> Trial:
    try:
        act()
    except SkyholdError as error:
        denied = isinstance(error, PermissionDenied) and error.code == error_codes.PERMISSION_DENIED
        rights = permissions_for(location, [operation]) if denied else ()
        return Trial(operation, works=False, code=error.code, message=error.message, rights=rights)
    return Trial(operation, works=True)


def _measure(bucket: Bucket, key: str, throughput_bytes: int) -> tuple[float | None, float | None, float | None]:
    """Median round-trip in seconds, and bytes per second up and down of one object of random bytes."""
    large_key, body = f"{key}-large", secrets.token_bytes(throughput_bytes)
    try:
        trips_s = [_elapsed_s(lambda: bucket.read(key)) for _ in range(ROUND_TRIPS)]
        try:
            upload_s = _elapsed_s(lambda: bucket.write(large_key, body))
            download_s = _elapsed_s(lambda: bucket.read(large_key))
        finally:
            with contextlib.suppress(SkyholdError):  # the trial of `delete` reports a missing right
                bucket.delete(large_key)
    except SkyholdError:
        return None, None, None
    return statistics.median(trips_s), throughput_bytes / upload_s, throughput_bytes / download_s


def _elapsed_s(act: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    act()
    return time.perf_counter() - started_s


def _clock_skew_s(bucket: Bucket, now: Callable[[], datetime]) -> float | None:
    """Our clock minus the store's, which reports whole seconds: half a second is added to it."""
    before = now()
    try:
        reported = bucket.server_time()
    except SkyholdError:
        return None
    middle = before + (now() - before) / 2
    return None if reported is None else (middle - reported).total_seconds() - 0.5


def _rules(bucket: Bucket) -> tuple[BucketRules, str | None]:
    try:
        return bucket.rules(), None
    except PermissionDenied:
        return unknown_rules("The credentials may not ask for them"), None
    except SkyholdError as error:
        return unknown_rules("The store did not report them"), f"The bucket's rules could not be read: {error.message}"
