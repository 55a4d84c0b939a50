"""Hold the shared suites to `exemptions.py`: what is declared there skips, and nothing else may."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.buckets.conformance import BucketConformance
from tests.buckets.exemptions import EXEMPT
from tests.faults.bucket_faults import BucketFaults
from tests.servers import MissingServer

SUITES = (BucketConformance, BucketFaults)


def exemption_of(item: pytest.Item) -> str | None:
    """The declared reason why this test of a suite skips."""
    assert isinstance(item, pytest.Function)
    owner = item.cls.__name__ if item.cls else ""
    return EXEMPT.get(f"{item.path.name}::{owner}::{item.originalname}")


def pytest_itemcollected(item: pytest.Item) -> None:
    reason = exemption_of(item)
    if reason is not None:
        item.add_marker(pytest.mark.skip(reason=f"declared: {reason}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    of_suite = isinstance(item, pytest.Function) and item.cls is not None and issubclass(item.cls, SUITES)
    missing_server = call.excinfo is not None and isinstance(call.excinfo.value, MissingServer)
    if report.skipped and of_suite and not missing_server and exemption_of(item) is None:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skips and tests/buckets/exemptions.py does not declare it"
    return report
