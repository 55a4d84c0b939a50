"""One voter of three is an S3 server with a fault, each in turn: every command succeeds by the majority, within a
bounded time; what is acknowledged can be restored from each bucket that counts; once the server works correctly, a
repair makes the store sound.

`SKYHOLD_HOSTILE_FAULTS` (8) is the number of faults, drawn by `SKYHOLD_HOSTILE_SEED` (1); all in CI."""

from __future__ import annotations

import os
import random
from typing import Final

import pytest

from tests.hostile.faulty_server import FAULTS, try_faults

COUNT: Final = min(len(FAULTS), int(os.environ.get("SKYHOLD_HOSTILE_FAULTS", "8")))
SEED: Final = int(os.environ.get("SKYHOLD_HOSTILE_SEED", "1"))


@pytest.mark.timeout(0)  # each command has its deadline
def test_every_command_succeeds_while_one_voter_is_faulty() -> None:
    wrong = [trial for trial in try_faults(random.Random(SEED).sample(sorted(FAULTS), COUNT)) if trial.complaints]
    assert not wrong, "\n\n".join(map(str, wrong))
