"""What holds for all tests, and which of them `make test-fast` and `make test` run."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test depends on how fast the machine is: others run beside it.
_ALWAYS = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("skyhold", **_ALWAYS)
settings.register_profile("fast", max_examples=10, **_ALWAYS)

FAST_FOLDERS = {"buckets", "codec", "consensus", "registry", "security", "storage", "store"}
USES_A_PROCESS = re.compile(
    r"\b(subprocess|multiprocessing|fork|servers?|in_child|FaultyS3|socket|simulation|histories|\w+Server)\b"
)
SLOW_FILES = {
    "test_coverage_of_files.py", "test_far_regions.py", "test_latency.py", "test_push_memory.py", "test_reuse.py",
    "test_reuse_durability.py", "test_retiring.py", "test_slow_buckets.py", "test_state_machine.py",
}  # fmt: skip

COSTS = Path(__file__).parent / "costs.json"
BUDGET_S = 2
"""What each test may take in `make test`, with all its cases."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast", action="store_true", help="Only tests that start no process and no server: half a minute."
    )
    parser.addoption(
        "--within-budget",
        action="store_true",
        help=f"Of each test as many cases, evenly spaced, as took {BUDGET_S} s in the run that costs.json is from.",
    )


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("fast" if config.getoption("--fast") else "skyhold")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept = items
    if config.getoption("--fast"):
        files = {item.path for item in items}
        fast = {path for path in files if _is_fast(path.relative_to(config.rootpath), path)}
        kept = [item for item in items if item.path in fast and item.get_closest_marker("slow") is None]
    if config.getoption("--within-budget"):
        kept = _within_budget(kept)
    if kept is not items:
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


def _within_budget(items: list[pytest.Item]) -> list[pytest.Item]:
    """The items, in their order, without what goes beyond the budget of their test."""
    costs_s: dict[str, float] = json.loads(COSTS.read_text("utf-8"))
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        cases[item.nodeid.split("[")[0]].append(item)
    kept = set()
    for name, of_test in cases.items():
        share = min(1.0, BUDGET_S / costs_s.get(name, BUDGET_S))
        count = int(share * len(of_test))
        kept.update(of_test[number * len(of_test) // count] for number in range(count))
    return [item for item in items if item in kept]


def _is_fast(place: Path, path: Path) -> bool:
    if place.parts[1] not in FAST_FOLDERS or path.name in SLOW_FILES:
        return False
    return USES_A_PROCESS.search(path.read_text()) is None
