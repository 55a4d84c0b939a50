"""`check_bucket` names what is missing and what would hurt, and leaves nothing behind."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from skyhold.buckets.check import BucketReport, check_bucket
from skyhold.buckets.location import BucketLocation, parse_location
from skyhold.buckets.memory import MemoryBucket
from skyhold.buckets.rules import BucketRules, google_rules
from skyhold.errors import NotFound, PermissionDenied, Unavailable
from skyhold.json_form import as_json
from skyhold.units import Buffer

GOOGLE = parse_location("gs://models")


def memory(kind: type[MemoryBucket] = MemoryBucket) -> MemoryBucket:
    return kind(parse_location(f"memory://{secrets.token_hex(8)}"))


def report_of(bucket: MemoryBucket, location: BucketLocation = GOOGLE) -> BucketReport:
    """The location only decides what the rights are called."""
    return check_bucket(bucket, location, rounds=4, clients=4, throughput_bytes=1 << 16)


def denied() -> PermissionDenied:
    return PermissionDenied("not allowed", code="permission_denied")


class ReadOnly(MemoryBucket):
    def write(self, key: str, body: Buffer, *, md5: Callable[[], bytes] | None = None) -> str:
        raise denied()


class KeepsEverything(MemoryBucket):
    def delete(self, key: str) -> None:
        raise denied()


class Unreachable(MemoryBucket):
    def write(self, key: str, body: Buffer, *, md5: Callable[[], bytes] | None = None) -> str:
        raise Unavailable("no route", code="unreachable")

    def list(self, prefix: str = "", *, after: str = "") -> object:  # type: ignore[override]
        raise Unavailable("no route", code="unreachable")

    def read(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        raise Unavailable("no route", code="unreachable")


class Gone(Unreachable):
    def write(self, key: str, body: Buffer, *, md5: Callable[[], bytes] | None = None) -> str:
        raise NotFound("no bucket", code="bucket_not_found")


class SlowClock(MemoryBucket):
    def server_time(self) -> datetime:
        return datetime.now(UTC) - timedelta(minutes=5)


class Expiring(MemoryBucket):
    def rules(self) -> BucketRules:
        return google_rules({"lifecycle": {"rule": [{"action": {"type": "Delete"}}]}})


class Secretive(MemoryBucket):
    def rules(self) -> BucketRules:
        raise denied()


class ReadsOtherBytes(MemoryBucket):
    def read(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        return bytes(len(super().read(key, start, length)))


def test_sound_bucket_has_no_problems() -> None:
    report = report_of(memory())
    assert report.problems == ()
    assert [trial.operation for trial in report.trials] == ["list", "write", "read", "replace", "delete"]
    assert report.admission is not None
    assert report.admission.admitted
    assert report.round_trip_s is not None


def test_check_leaves_nothing_behind() -> None:
    bucket = memory()
    report_of(bucket)
    assert list(bucket.list()) == []


def test_missing_right_to_write_is_named_as_the_vendor_does() -> None:
    report = report_of(memory(ReadOnly))
    assert report.missing_rights == ("storage.objects.create",)
    assert {trial.operation: trial.works for trial in report.trials} == {"list": True, "write": False, "read": True}
    assert report.admission is None


def test_missing_right_to_delete_is_named_and_no_client_contends() -> None:
    report = report_of(memory(KeepsEverything), parse_location("s3://models"))
    assert report.missing_rights == ("s3:DeleteObject",)
    assert report.admission is None
    assert report.upload_bytes_per_s is not None


def test_unreachable_bucket_is_distinguished_from_one_that_is_gone() -> None:
    assert not report_of(memory(Unreachable)).reachable
    assert report_of(memory(Gone)).reachable


def test_clock_skew_is_a_problem() -> None:
    report = report_of(memory(SlowClock))
    assert report.clock_skew_s is not None
    assert 295 < report.clock_skew_s < 305
    assert any("clock" in problem for problem in report.problems)


def test_rule_that_deletes_is_a_problem() -> None:
    assert any("deletes objects by age" in problem for problem in report_of(memory(Expiring)).problems)


def test_rules_that_may_not_be_read_are_unknown_and_no_problem() -> None:
    report = report_of(memory(Secretive))
    assert report.rules.lifecycle.verdict == "unknown"
    assert report.problems == ()


def test_bucket_that_returns_other_bytes_is_a_problem() -> None:
    report = report_of(memory(ReadsOtherBytes))
    assert any("other bytes" in problem for problem in report.problems)


def test_report_is_json() -> None:
    document = json.loads(json.dumps(as_json(report_of(memory()))))
    assert document["admission"]["admitted"] is True
    assert document["missing_rights"] == []
