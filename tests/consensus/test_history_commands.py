"""The commands of `docs/consensus.md` that write a history and judge it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.consensus.histories.__main__ import main
from tests.consensus.histories.history import Changes, Operation, Watch, write_history
from tests.consensus.histories.planted import ONE, TWO, did, found, unsure

ROOT = Path(__file__).parents[2]


def test_history_of_a_seed_is_written_and_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "history.jsonl"
    command = [sys.executable, "-m", "tests.consensus.simulation", "852", path]
    written = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert "no violation" in written.stdout
    assert main([str(path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["register"]: (line["verdict"], line["watch"]) for line in lines} == {
        "names": ("ok", None),
        "repository/" + "5" * 32: ("ok", None),
        "document/" + "7" * 32: ("ok", None),
    }


@pytest.mark.parametrize(
    ("history", "status", "verdict", "watch"),
    [
        ([ONE, TWO], 0, "ok", None),
        ([ONE, TWO, found("c", 50, 60, 1, "one")], 1, "illegal", None),
        ([ONE, TWO, did("c", 50, 60, Watch(0), Changes(((1, "one"),)))], 1, "ok", "is missing"),
    ],
)
def test_command_reports_by_its_status_what_it_found(
    history: list[Operation],
    status: int,
    verdict: str,
    watch: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "history.jsonl"
    write_history(path, history)
    assert main([str(path)]) == status
    line = json.loads(capsys.readouterr().out)
    assert line["verdict"] == verdict
    assert line["watch"] is None if watch is None else watch in line["watch"]


def test_command_refuses_what_is_no_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "history.jsonl"
    write_history(path, [unsure("a", 10, 0, "one"), unsure("b", 10, 1, "one")])
    assert main([str(path)]) == 3
    assert "have one id" in capsys.readouterr().err
