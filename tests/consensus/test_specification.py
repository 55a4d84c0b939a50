"""The TLA+ specification of the bucket register in docs/spec, checked by the real TLC."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.servers import program

ROOT = Path(__file__).parents[2]
SPECIFICATION = ROOT / "docs" / "spec"
VIOLATED = 12
"""TLC's status where an invariant is violated."""
MISTAKES = {
    "absent-is-new": "EpochsAreOneChain",
    "ballot-outside-tag": "ChosenIsChain",
    "change-after-seal": "ChosenIsChain",
    "config-first": "RefusedIsNotSeen",
    "id-forgotten": "RefusedIsNotSeen",
    "lost-counts-as-refused": "RefusedIsNotSeen",
    "prepare-skipped": "ChosenIsChain",
    "read-not-unanimous": "Linearizable",
    "refusal-not-chosen": "RefusedIsNotSeen",
    "seal-without-majority": "EpochsAreOneChain",
}
"""What is violated first with each of `mistakes/*.cfg`."""


def checked(folder: Path, configuration: str, module: str) -> tuple[int, str]:
    """Status and report of TLC; one worker, so that it finds the same each time."""
    command = [program("tlc"), "-workers", "1", "-deadlock", "-nowarning", "-metadir", folder]
    done = subprocess.run(
        [*command, "-config", f"{configuration}.cfg", module],
        cwd=SPECIFICATION,
        # The faster compiler alone: most of these runs are over before the better one pays.
        env=os.environ | {"TLC_JAVA_OPTIONS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx1g"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def figures(row: str) -> tuple[int, int]:
    """Distinct states and depth of a configuration, as the README tells them."""
    text = (SPECIFICATION / "README.md").read_text()
    found = re.search(rf"^\| `{row}` \|.*\| ([\d,]+) \| (\d+) \|[^|]*\|$", text, re.MULTILINE)
    assert found is not None
    return int(found[1].replace(",", "")), int(found[2])


@pytest.mark.parametrize("configuration", ["epoch-quick", "move-quick"])
def test_register_keeps_what_it_promises_in_every_state_of(configuration: str, tmp_path: Path) -> None:
    status, report = checked(tmp_path, configuration, "BucketRegister")
    assert status == 0, report
    states, depth = figures(configuration)
    assert f" {states} distinct states found, 0 states left on queue" in report, report
    assert f"The depth of the complete state graph search is {depth}." in report, report


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_rejected(mistake: str, tmp_path: Path) -> None:
    status, report = checked(tmp_path, f"mistakes/{mistake}", "Mistakes")
    assert f"Error: Invariant {MISTAKES[mistake]} is violated." in report, report
    assert status == VIOLATED


def test_every_mistake_is_tried() -> None:
    assert {path.stem for path in (SPECIFICATION / "mistakes").iterdir()} == MISTAKES.keys()


def test_specification_gets_as_far_as_a_change_in_each_epoch(tmp_path: Path) -> None:
    status, report = checked(tmp_path, "reached", "BucketRegister")
    assert "Error: Invariant NothingGoesOn is violated." in report, report
    assert status == VIOLATED
