"""`skyhold doctor` reports for each extra whether it is installed."""

import importlib.util
import tomllib
from pathlib import Path

from skyhold.cli.diagnosis import EXTRAS

ROOT = Path(__file__).parents[2]


def test_doctor_looks_for_a_module_that_each_extra_brings() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, module in EXTRAS.items():
        assert importlib.util.find_spec(module) is not None, f"{extra} does not bring {module}"
        brought = " ".join(extras[extra]).replace("-", "_")
        assert module.replace(".", "_") in brought
