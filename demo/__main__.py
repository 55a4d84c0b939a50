"""The main job of Skyhold on real models, in about a minute: `make demo`, or `python demo`.

Three folders in `demo-output/clouds` stand in for three clouds. The commands are those that a user would type, run in
separate processes, and their output is shown; `story.py` contains the steps. The store is kept there.
"""

from __future__ import annotations

import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

from models import PredictionsDifferError, make_classifier_versions, make_network_versions
from shell import CommandFailedError, DemoShell, show
from story import Story

OUTPUT: Final = Path(__file__).resolve().parents[1] / "demo-output"


def main() -> int:
    """Run the demo from scratch; 1 where a step failed."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    (OUTPUT / "skyhold.toml").write_text(
        'author = "Ada <ada@example.org>"\n'
    )  # the nearest file holds, so none of yours
    variables = {"SKYHOLD_STORE": "clouds/amazon", "SKYHOLD_STATE": "machine/state", "SKYHOLD_CACHE": "machine/cache"}
    began_s = time.monotonic()
    # The network trains in a second process during the part of the classifiers.
    with ProcessPoolExecutor(max_workers=1) as trainer:
        network = trainer.submit(make_network_versions, OUTPUT / "models" / "network")
        story = Story(DemoShell(OUTPUT, variables))
        try:
            story.begin()
            story.keep_classifiers(make_classifier_versions(OUTPUT / "models" / "classifier"))
            story.promote_and_roll_back()
            story.keep_network(network)
            story.lose_a_cloud()
            story.bring_it_back_empty()
            story.damage_a_pack()
            story.lose_the_machine()
            story.prove()
            story.sum_up(time.monotonic() - began_s)
        except (CommandFailedError, PredictionsDifferError, FileNotFoundError) as error:
            show(f"\nThe demo stopped: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
