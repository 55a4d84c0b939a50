"""One voter of three is an S3 server that lies, in every way that it can: every command goes on by the majority, within
a bounded time; what is acknowledged can be restored from each bucket that counts; once the server speaks the truth, a
repair makes the store sound.

`SKYHOLD_HOSTILE_LIES` (8) says how many of the lies are tried, drawn by `SKYHOLD_HOSTILE_SEED` (1); all in CI."""

from __future__ import annotations

import os
import random
from typing import Final

import pytest

from tests.hostile.lying import LIES, try_lies

COUNT: Final = min(len(LIES), int(os.environ.get("SKYHOLD_HOSTILE_LIES", "8")))
SEED: Final = int(os.environ.get("SKYHOLD_HOSTILE_SEED", "1"))


@pytest.mark.timeout(0)  # each command has its deadline
def test_every_command_goes_on_beside_a_voter_that_lies() -> None:
    wrong = [trial for trial in try_lies(random.Random(SEED).sample(sorted(LIES), COUNT)) if trial.complaints]
    assert not wrong, "\n\n".join(map(str, wrong))
