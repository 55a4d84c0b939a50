"""The TLA+ specification of the bucket register in docs/spec, checked by the real TLC."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.servers import program

pytestmark = pytest.mark.timeout(900)  # a good minute of one core in all, on a machine that may be busy

SPECIFICATION = Path(__file__).parents[2] / "docs" / "spec"
README = (SPECIFICATION / "README.md").read_text("utf-8")
MISTAKES = sorted(path.stem for path in (SPECIFICATION / "mistakes").iterdir())
EVERY = os.environ.get("SKYHOLD_REQUIRE_ALL") == "1"
"""In CI all bounds are searched, and all mistakes tried; else one, and every third."""
BOUNDS = ["move-quick", "epoch-quick", "swap-quick"] if EVERY else ["move-quick"]
VIOLATED = 12
"""TLC's status where an invariant is violated."""


def checked(folder: Path, configuration: str, module: str) -> tuple[int, str]:
    """Status and report of TLC."""
    command = [program("tlc"), "-workers", "1", "-deadlock", "-nowarning", "-metadir", folder]
    done = subprocess.run(
        [*command, "-config", f"{configuration}.cfg", module],
        cwd=SPECIFICATION,
        # The faster compiler alone: most of these runs are over before the better one pays.
        env=os.environ | {"TLC_JAVA_OPTIONS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx1g"},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def figures(configuration: str) -> tuple[int, int]:
    """Distinct states and depth, as the README lists them."""
    found = re.search(rf"^\| `{configuration}` \|.*\| ([\d,]+) \| (\d+) \|[^|]*\|$", README, re.MULTILINE)
    assert found is not None
    return int(found[1].replace(",", "")), int(found[2])


def invariant(configuration: str) -> str:
    """The only one that this configuration names."""
    (name,) = re.findall(r"^INVARIANT (\w+)$", (SPECIFICATION / f"{configuration}.cfg").read_text(), re.MULTILINE)
    return str(name)


@pytest.mark.parametrize("configuration", BOUNDS)
def test_register_keeps_what_it_promises_in_every_state_of(configuration: str, tmp_path: Path) -> None:
    status, report = checked(tmp_path, configuration, "BucketRegister")
    assert status == 0, report
    states, depth = figures(configuration)
    assert f" {states} distinct states found, 0 states left on queue" in report, report
    assert f"The depth of the complete state graph search is {depth}." in report, report


@pytest.mark.parametrize("mistake", MISTAKES if EVERY else MISTAKES[::3])
def test_mistake_is_rejected(mistake: str, tmp_path: Path) -> None:
    status, report = checked(tmp_path, f"mistakes/{mistake}", "Mistakes")
    assert f"Error: Invariant {invariant(f'mistakes/{mistake}')} is violated." in report, report
    assert status == VIOLATED


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_explained(mistake: str) -> None:
    assert re.search(rf"^\| `{mistake}` \|.*\| `{invariant(f'mistakes/{mistake}')}` \|$", README, re.MULTILINE)


def test_specification_gets_as_far_as_a_change_in_each_epoch(tmp_path: Path) -> None:
    status, report = checked(tmp_path, "reached", "BucketRegister")
    assert f"Error: Invariant {invariant('reached')} is violated." in report, report
    assert status == VIOLATED
