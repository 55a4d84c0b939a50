"""The demo shows real commands with what they really print, and stops where one ends otherwise than it should."""

from __future__ import annotations

from pathlib import Path

import pytest
from models import ModelVersion
from shell import CommandFailedError, DemoShell
from story import CLOUDS, DIGITS, Story

VARIABLES = {"SKYHOLD_STORE": "clouds/amazon", "SKYHOLD_STATE": "machine/state", "SKYHOLD_CACHE": "machine/cache"}


@pytest.fixture
def shell(tmp_path: Path) -> DemoShell:
    (tmp_path / "skyhold.toml").write_text('author = "Ada"\n')
    return DemoShell(tmp_path, VARIABLES)


def tiny_version(folder: Path, label: str, *, rows: int) -> ModelVersion:
    path = folder / "models" / label
    path.mkdir(parents=True)
    (path / "weights.bin").write_bytes(bytes(range(256)) * rows)
    return ModelVersion(label, path, f"Version {label}", {"rows": rows}, {"accuracy": 0.5})


def test_command_is_shown_as_typed_with_what_it_prints(shell: DemoShell, capsys: pytest.CaptureFixture[str]) -> None:
    answer = shell.skyhold("push", "--help", lines=1)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "$ skyhold push --help"
    assert printed[1].strip() == answer.text.splitlines()[0]
    assert printed[2] == f"  … {len(answer.text.splitlines()) - 1} more lines"


def test_unexpected_status_stops_with_all_that_was_printed(shell: DemoShell) -> None:
    with pytest.raises(CommandFailedError, match=r"ended with status 2, not 0(?s:.)*no-such-command"):
        shell.skyhold("no-such-command", lines=0)
    with pytest.raises(CommandFailedError, match="ended with status 0, not 10"):
        shell.skyhold("--version", status=10)


def test_settings_of_the_person_do_not_reach_the_demo(shell: DemoShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYHOLD_CONFIG", "/nowhere/skyhold.toml")
    monkeypatch.setenv("SKYHOLD_KEY_FILE", "/nowhere/team.key")
    shell.skyhold("init", "clouds/amazon")
    assert (shell.folder / "clouds" / "amazon" / "store.json").exists()


def test_sums_are_what_the_folders_hold(shell: DemoShell, capsys: pytest.CaptureFixture[str]) -> None:
    story = Story(shell)
    story.begin()
    versions = [tiny_version(shell.folder, label, rows=rows) for label, rows in (("a", 400), ("b", 400), ("late", 4))]
    story.keep_classifiers(versions)
    story.sum_up(elapsed_s=1)
    first, second = story.pushes
    assert (first.model_bytes, second.model_bytes) == (400 * 256, 400 * 256)
    assert second.grown_bytes < first.grown_bytes < first.model_bytes
    assert first.reference.startswith(f"{DIGITS}@")
    printed = capsys.readouterr().out
    assert "2 versions" in printed
    assert all(f"{cloud} " in printed for cloud in CLOUDS)
