"""Real client processes and real servers, for a while: no history that they leave contradicts a register.

`SKYHOLD_TORTURE_SECONDS` is how long each setting runs; `make torture` runs them for hours.
"""

from __future__ import annotations

import os
import secrets
from itertools import islice
from pathlib import Path

import pytest

from tests.torture.judging import violation_in
from tests.torture.plan import KINDS, NAMES_OF_REQUEST_FAULTS, RequestFaults, misfortunes
from tests.torture.recording import Recorder, collect, pending
from tests.torture.report import Report, to_text
from tests.torture.run import Stage, run_stage

SECONDS = float(os.environ.get("SKYHOLD_TORTURE_SECONDS", "3"))
OPERATIONS_MIN = 200
"""A busy machine takes its time."""
OPERATIONS_PER_SECOND_MAX = 3000
TRIES_MAX = 4
NO_CONDITION = "ifGenerationMatch"
"""The name of Google's condition in the line of a request."""


def run(setting: str, kept: Path, seconds: float, *, strip: str = "") -> Report:
    stage = Stage(
        setting,
        secrets.randbelow(2**32),
        operations=round(seconds * OPERATIONS_PER_SECOND_MAX),
        seconds=seconds,
        operations_min=OPERATIONS_MIN,
        strip=strip,
    )
    report = run_stage(stage, kept)
    print(to_text(report))
    return report


@pytest.mark.timeout(SECONDS * 4 + 300)
@pytest.mark.parametrize("setting", ["mixed", "versitygw", "folders", "etcd", "sqlite"])
def test_registers_stay_linearizable_whatever_happens_to_clients_networks_and_servers(
    setting: str, tmp_path: Path
) -> None:
    report = run(setting, tmp_path, SECONDS)
    assert report.findings.violations == []
    assert report.broken == []
    assert report.operations >= OPERATIONS_MIN
    assert report.faults.total() > 0 or not report.requests  # between folders there is no network


@pytest.mark.timeout(300)
def test_stores_that_ignore_the_condition_of_a_put_are_found_out(tmp_path: Path) -> None:
    for _ in range(TRIES_MAX):
        report = run("fake-gcs-server", tmp_path, 5, strip=NO_CONDITION)
        if report.findings.violations:
            break
    assert any('"verdict":"illegal"' in violation for violation in report.findings.violations), to_text(report)
    kept = [file for file in tmp_path.glob("*.jsonl") if violation_in(file) is not None]
    assert kept, "the history is kept, so that it can be read"
    assert kept[0].with_suffix(".html").exists(), "and drawn"


def test_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    def faults(seed: int) -> list[object]:
        drawn = RequestFaults(seed, 0.5)
        return [drawn.next(method) for method in ("GET", "PUT", "POST") * 50]

    assert list(islice(misfortunes(7), 100)) == list(islice(misfortunes(7), 100))
    assert list(islice(misfortunes(7), 100)) != list(islice(misfortunes(8), 100))
    assert faults(7) == faults(7) != faults(8)


def test_plan_holds_every_kind_of_fault() -> None:
    assert {misfortune.kind for misfortune in islice(misfortunes(7), 500)} == set(KINDS)
    drawn = RequestFaults(7, 1.0)
    assert {drawn.next("PUT")[0] for _ in range(500)} == set(NAMES_OF_REQUEST_FAULTS)  # type: ignore[index]


def test_call_of_a_killed_client_is_an_operation_of_unknown_fate(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "p0.0")
    arguments = {"expected_version": 0, "data": "a", "operation_id": "a"}
    first = recorder.called("compare_and_set", "names", **arguments)
    recorder.returned(first, {"kind": "value", "version": 1, "data": "a"})
    recorder.called("compare_and_set", "names", **(arguments | {"operation_id": "b"}))
    known, unknown = collect(tmp_path)
    assert known["result"] == {"kind": "value", "version": 1, "data": "a"}
    assert (unknown["returned_ns"], unknown["result"]) == (None, {"kind": "unknown"})
    assert pending(tmp_path / "p0.0.jsonl") == [unknown]
