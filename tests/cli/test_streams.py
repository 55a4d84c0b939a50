"""Commands whose standard streams, home or working folder are missing: they do their work, or report what is
missing, and their status reports what they did."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.models import write_model
from tests.cli.running import PROGRAM, Shell

UNKNOWN_USER = 54321


@pytest.fixture
def shell(skyhold: Shell) -> Shell:
    """With a store of three folders and a model."""
    skyhold("init", "a", "b", "c")
    write_model(Path("model"), rows=64)
    return skyhold


def versions(shell: Shell) -> int:
    return len(shell("log", "team/model", "--json").document["versions"])


def run(command: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which `$skyhold` is the program."""
    quoted = " ".join(f"'{part}'" for part in PROGRAM)
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        ["bash", "-c", f"skyhold() {{ {quoted} \"$@\"; }}; {command}"],
        capture_output=True, text=True, timeout=60, check=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    "redirection",
    [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", "--json >/dev/full", "| true",
     "2>&1 >/dev/null | true", "--quiet | true"],
)  # fmt: skip
def test_push_ends_by_what_it_did_even_if_its_output_fails(shell: Shell, redirection: str) -> None:
    ended = run(f"skyhold push team/model model -m One --tag v1 {redirection}; exit ${{PIPESTATUS[0]}}")
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr
    assert versions(shell) == 1
    refused = run(f"skyhold push team/model model -m Two --tag v1 {redirection}; exit ${{PIPESTATUS[0]}}")
    assert (refused.returncode, "Traceback" in refused.stderr) == (4, False), refused.stderr
    assert versions(shell) == 1


def test_answer_that_is_the_work_fails_with_the_output(shell: Shell) -> None:
    shell("push", "team/model", "model")
    ended = run("skyhold log team/model > /dev/full")
    assert ended.returncode == 1
    assert "Standard output cannot be written" in ended.stderr
    assert run("skyhold log team/model | true; exit ${PIPESTATUS[0]}").returncode == 141
    assert run("skyhold log team/model >&-").returncode == 0


def test_file_that_a_command_opens_never_becomes_its_closed_stream(shell: Shell) -> None:
    """The first file that is opened gets the lowest free number."""
    ended = run("skyhold pull team/nothing out 2>&- ; skyhold push team/model model >&- 2>&-")
    assert ended.returncode == 0, ended.stderr
    assert all(b"hint:" not in path.read_bytes() for path in Path().rglob("*") if path.is_file())


AS_UNKNOWN_USER = [
    "setpriv", f"--reuid={UNKNOWN_USER}", f"--regid={UNKNOWN_USER}", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",  # to read this Python, in any folder
]  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an unknown user")
def test_user_without_a_home_works_with_configured_folders(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    for folder in (place, *place.parents[:-2]):
        folder.chmod(0o777)
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("SKYHOLD", "XDG", "HOME"))}
    named = {"SKYHOLD_STATE": str(place / "state"), "SKYHOLD_CACHE": str(place / "cache")}
    for written in write_model(place / "model", rows=64).iterdir():
        written.chmod(0o644)

    def skyhold(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*AS_UNKNOWN_USER, *PROGRAM, *arguments], cwd=place, env=bare | environ,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    refused = skyhold("init", "a", "b", "c", "--json", environ={})
    assert json.loads(refused.stderr)["error"]["code"] == "no_home"
    assert not (place / "~").exists()
    for arguments in (["init", "a", "b", "c"], ["push", "team/model", "model"], ["pull", "team/model", "out"]):
        ended = skyhold(*arguments, environ=named)
        assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("command", ["list", "push team/model model", "pull team/model out", "init x y", "status"])
def test_deleted_working_folder_is_a_clear_error(shell: Shell, command: str) -> None:
    gone = Path("gone")
    gone.mkdir()
    ended = run(f"rmdir ../gone; skyhold {command} --json", cwd=gone)
    assert "Traceback" not in ended.stderr
    assert json.loads(ended.stderr)["error"]["code"] == "working_folder_missing"
    assert ended.returncode == 3


STEERING: list[Callable[[], str]] = [
    lambda: "\x7f", lambda: "\x9b31m", lambda: "\x85", lambda: "\u202e", lambda: "\u2066", lambda: "\u200f",
    lambda: "\u2028", lambda: "\ufeff", lambda: "\U000e0041",
]  # fmt: skip


@pytest.mark.parametrize("steering", [make() for make in STEERING], ids=ascii)
def test_json_holds_no_character_that_controls_a_terminal(shell: Shell, steering: str) -> None:
    message = f"a{steering}b"
    shell("push", "team/model", "model", "-m", message)
    shown = shell("log", "team/model", "--json")
    assert not any(character in shown.out for character in steering if not character.isprintable())
    assert shown.document["versions"][0]["message"] == message
