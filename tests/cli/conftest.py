from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.running import Shell


@pytest.fixture
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that knows nothing: empty state, cache and configuration, and an empty working folder."""
    for name in ("SKYHOLD_STORE", "SKYHOLD_CONFIG", "SKYHOLD_KEY_FILE", "SKYHOLD_PASSPHRASE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SKYHOLD_STATE", str(tmp_path / "machine" / "state"))
    monkeypatch.setenv("SKYHOLD_CACHE", str(tmp_path / "machine" / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "machine" / "config"))
    monkeypatch.setenv("SKYHOLD_AUTHOR", "Ada <ada@example.org>")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def skyhold(own_machine: Path, capfd: pytest.CaptureFixture[str]) -> Shell:
    """`skyhold(…)` runs a command on a machine of the test's own."""
    return Shell(capfd)
