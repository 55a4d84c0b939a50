"""The wheel, alone in an empty environment: `pip install skyhold[s3]`, and the program works.

It takes a while and the network (or pip's cache), so a plain run leaves it out; `SKYHOLD_REQUIRE_ALL=1` (CI) runs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.cli.models import contents, write_model

ROOT = Path(__file__).parents[1]


def run(*arguments: object, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a command that must succeed; returns what it printed."""
    ended = subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        env=None if environ is None else dict(environ),
        cwd=cwd,
        check=False,
    )
    assert ended.returncode == 0, f"{arguments}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.mark.skipif(
    os.environ.get("SKYHOLD_REQUIRE_ALL") != "1", reason="takes half a minute and the network: SKYHOLD_REQUIRE_ALL=1"
)
@pytest.mark.timeout(600)
def test_wheel_installs_alone_and_works(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("skyhold-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert "skyhold/py.typed" in packed
    assert not [
        name for name in packed if not name.startswith(("skyhold/", f"{wheel.name.split('-py')[0]}.dist-info/"))
    ]

    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python, skyhold = environment / "bin" / "python", environment / "bin" / "skyhold"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[s3]")
    run(python, "-m", "pip", "check")

    model = write_model(tmp_path / "model", rows=64)
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "SKYHOLD_STATE": str(tmp_path / "state")}
    clouds = [tmp_path / "clouds" / name for name in "abc"]

    def command(*arguments: object) -> str:
        return run(skyhold, *arguments, environ=bare, cwd=tmp_path)

    command("init", *clouds, "--key-file", "team.key")
    bare["SKYHOLD_KEY_FILE"] = str(tmp_path / "team.key")
    command("push", "team/model", model, "-m", "One", "--alias", "champion")
    assert json.loads(command("show", "team/model@champion", "--json"))["message"] == "One"
    command("pull", "team/model@champion", "pulled")
    assert contents(tmp_path / "pulled") == contents(model)
    command("verify", "--deep")
    command("doctor")
    opened = "import skyhold.buckets.s3; from skyhold.buckets.open import open_bucket; from skyhold.buckets.location "
    opened += "import parse_location; print(open_bucket(parse_location('s3://models?region=eu-1')))"
    assert run(python, "-c", opened, environ=bare, cwd=tmp_path).strip() == "S3Bucket('s3://models')"
