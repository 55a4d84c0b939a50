"""A sample of the cells, drawn by a seed: `SKYHOLD_HOSTILE_CELLS` (60) and `SKYHOLD_HOSTILE_SEED` (1) are how many and
which. `python -m tests.hostile NAME` runs one alone, `make hostile` all of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.cells import Cell, all_cells, sample
from tests.hostile.judging import Court
from tests.hostile.rules import COMMANDS, KINDS, RULES, rule_of

SEED = int(os.environ.get("SKYHOLD_HOSTILE_SEED", "1"))
CELLS = int(os.environ.get("SKYHOLD_HOSTILE_CELLS", "60"))


@pytest.fixture(scope="module")
def court() -> Iterator[Court]:
    folder = Path(tempfile.mkdtemp(dir=Court.memory_folder(), prefix="skyhold-hostile-"))
    yield Court(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("cell", sample(CELLS, SEED), ids=lambda cell: cell.name)
def test_each_command_obeys_its_rule_beside_damage(cell: Cell, court: Court) -> None:
    verdict = court.judge(cell)
    if verdict.complaints:
        commands = "\n".join(f"  {answer}" for answer in verdict.answers)
        pytest.fail(
            f"{verdict.rule.name}: {verdict.rule.text}\n- "
            + "\n- ".join(verdict.complaints)
            + f"\n{commands}\nseed {SEED}; alone: python -m tests.hostile {cell.name}",
            pytrace=False,
        )


def test_every_kind_every_damage_and_every_rule_has_cells() -> None:
    cells = all_cells()
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.damage.kind for cell in cells} == {kind for kinds in KINDS.values() for kind in kinds}
    assert {rule_of(cell.damage, cell.engine).name for cell in cells} == {rule.name for rule in RULES}


def test_a_sample_has_every_kind_and_is_repeated_by_its_seed() -> None:
    kinds = {cell.damage.kind for cell in all_cells()}
    assert {cell.damage.kind for cell in sample(len(kinds), 7)} == kinds
    assert sample(50, 7) == sample(50, 7)
    assert sample(50, 7) != sample(50, 8)


def test_every_rule_has_a_verdict_for_every_command() -> None:
    assert all(rule.statuses(command) for rule in RULES for command in COMMANDS)
