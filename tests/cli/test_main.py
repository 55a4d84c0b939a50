"""How errors, interrupts and closed pipes end a command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from skyhold import errors
from skyhold.cli import group
from skyhold.cli.command import Invocation, verb
from skyhold.cli.exits import MEANINGS
from tests.cli.running import PROGRAM, Shell

ERRORS = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.SkyholdError)
]


@pytest.fixture
def status_does(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Invocation], None]], None]:
    """Put a function in the place of `skyhold status`."""

    def put(run: Callable[[Invocation], None]) -> None:
        def command(session: Invocation) -> None:
            """Stands in for a command."""
            run(session)

        made = verb(examples=("skyhold status",), exits=(2,))(command)
        real = group.importlib.import_module
        monkeypatch.setattr(
            group,
            "importlib",
            SimpleNamespace(
                import_module=lambda name: SimpleNamespace(command=made) if name.endswith(".status") else real(name)
            ),
        )

    return put


def raising(error: BaseException) -> Callable[[Invocation], None]:
    def run(_session: Invocation) -> None:
        raise error

    return run


@pytest.mark.parametrize("error_class", ERRORS)
def test_error_ends_with_the_exit_status_of_its_class(
    error_class: type[errors.SkyholdError],
    skyhold: Shell,
    status_does: Callable[[Callable[[Invocation], None]], None],
) -> None:
    status_does(raising(error_class("Bucket `a` is away", hint="Run it again")))
    run = skyhold("status", status=error_class.exit_status)
    assert run.out == ""
    assert run.err == "error: Bucket `a` is away\nhint: Run it again\n"
    assert error_class.exit_status in MEANINGS


def test_every_class_of_errors_has_an_exit_status_of_its_own() -> None:
    statuses = [error_class.exit_status for error_class in ERRORS]
    assert len(set(statuses)) == len(statuses) >= 10


def test_error_is_a_json_document_on_stderr_with_json(
    skyhold: Shell, status_does: Callable[[Callable[[Invocation], None]], None]
) -> None:
    status_does(raising(errors.Conflict("Branch moved", code="ref_moved", hint="Look", ref="branch/main")))
    run = skyhold("status", "--json", status=5)
    assert run.out == ""
    assert run.error == {
        "class": "Conflict",
        "code": "ref_moved",
        "message": "Branch moved",
        "hint": "Look",
        "retryable": False,
        "fields": {"ref": "branch/main"},
    }


def test_defect_is_reported_without_a_traceback(
    skyhold: Shell, status_does: Callable[[Callable[[Invocation], None]], None]
) -> None:
    status_does(raising(ZeroDivisionError("division by zero")))
    run = skyhold("status", status=1)
    assert "ZeroDivisionError: division by zero" in run.err
    assert "--verbose" in run.err
    assert "Traceback" not in run.err


def test_verbose_shows_the_chain_of_errors(
    skyhold: Shell, status_does: Callable[[Callable[[Invocation], None]], None]
) -> None:
    def run(_session: Invocation) -> None:
        try:
            raise ConnectionError("refused by 10.0.0.1")  # noqa: TRY301
        except ConnectionError as error:
            raise errors.Unavailable("Bucket `a` is away") from error

    status_does(run)
    shown = skyhold("status", "--verbose", status=8)
    assert "Traceback" in shown.err
    assert "ConnectionError: refused by 10.0.0.1" in shown.err
    assert shown.err.endswith("error: Bucket `a` is away\n")


def test_message_cannot_drive_the_terminal(
    skyhold: Shell, status_does: Callable[[Callable[[Invocation], None]], None]
) -> None:
    status_does(raising(errors.NotFound("No file \x1b[2J\u202eexe.txt")))
    assert "\\x1b[2J\\u202eexe.txt" in skyhold("status", status=3).err


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), click.Abort(), EOFError()])
def test_interrupt_ends_with_130_and_reports_how_to_continue(
    interrupt: BaseException, skyhold: Shell, status_does: Callable[[Callable[[Invocation], None]], None]
) -> None:
    status_does(raising(interrupt))
    run = skyhold("status", status=130)
    assert "running the same command again continues" in run.err
    assert "Traceback" not in run.err


def test_ctrl_c_ends_the_process_with_130(own_machine: Path) -> None:
    program = (
        "import sys, time; from skyhold.cli import group, main; from types import SimpleNamespace as N\n"
        "from skyhold.cli.command import verb\n"
        "def run(session):\n    'Waits.'\n    print('waiting', flush=True); time.sleep(60)\n"
        "group.importlib = N(import_module=lambda name: N(command=verb(examples=('x',), exits=(2,))(run)))\n"
        "sys.exit(main.main(['status']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"waiting\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"running the same command again continues" in err
    assert b"Traceback" not in err


def test_closed_pipe_is_silent(own_machine: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run([*PROGRAM, "--help"], stdout=writing, stderr=subprocess.PIPE, timeout=30, check=False)
    os.close(writing)
    assert run.returncode == 141
    assert run.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_an_error(own_machine: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        run = subprocess.run([*PROGRAM, "--help"], stdout=full, stderr=subprocess.PIPE, timeout=30, check=False)
    assert run.returncode == 1
    assert run.stderr == b"error: Standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["psuh"], "error: `skyhold` has no command 'psuh'; did you mean `push`?\n"),
        (["bucket", "ad"], "error: `skyhold bucket` has no command 'ad'; did you mean `add`?\n"),
        (["status", "--jsn"], "error: No such option '--jsn'. Did you mean '--json'?\n"),
    ],
)
def test_mistyped_word_is_answered_with_the_nearest(arguments: list[str], advice: str, skyhold: Shell) -> None:
    run = skyhold(*arguments, status=2)
    assert run.err.splitlines(keepends=True)[0] == advice
    assert run.err.splitlines()[1].startswith("hint: See `skyhold")


def test_wrong_usage_with_json_is_a_json_error(skyhold: Shell) -> None:
    run = skyhold("pull", "--json", status=2)
    assert run.error["class"] == "InvalidInput"
    assert run.error["code"] == "usage"


@pytest.mark.parametrize("arguments", [[], ["bucket"], ["ref"]])
def test_group_without_a_command_prints_its_help_and_fails(arguments: list[str], skyhold: Shell) -> None:
    run = skyhold(*arguments, status=2)
    assert run.out == ""
    assert run.err.startswith("Usage: skyhold")


def test_version_is_printed(skyhold: Shell) -> None:
    assert skyhold("--version").out.startswith("skyhold 0.")


def test_locale_without_a_character_does_not_end_a_command(own_machine: Path) -> None:
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    run = subprocess.run([*PROGRAM, "push", "--help"], env=environ, capture_output=True, timeout=30, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_calls_back_for_the_words(shell: str, skyhold: Shell) -> None:
    assert "_SKYHOLD_COMPLETE" in skyhold("completion", shell).out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("skyhold re", {"recover", "ref", "repair", "repository"}),
        ("skyhold bucket ", {"add", "list", "remove", "check"}),
    ],
)
def test_completion_offers_commands_without_loading_them(typed: str, offered: set[str], own_machine: Path) -> None:
    program = (
        "import os, sys; from skyhold.cli.main import main\n"
        "ending = os._exit\n"
        "def show(status):\n"
        "    print('loaded', [name for name in sys.modules if '.verbs.' in name], flush=True)\n"
        "    ending(status)\n"
        "os._exit = show\n"
        "main()"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "_SKYHOLD_COMPLETE": "bash_complete", "COMP_LINE": typed},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    *found, loaded = run.stdout.splitlines()
    assert {line.partition(",")[2] for line in found} == offered
    assert loaded == "loaded []"
    assert run.stderr == ""


def test_broken_configuration_is_an_error_that_names_the_file(skyhold: Shell, own_machine: Path) -> None:
    (own_machine / "skyhold.toml").write_text('stroe = "x"')
    run = skyhold("status", "--json", status=2)
    assert run.error["code"] == "unknown_setting"
    assert "Did you mean `store`?" in run.error["hint"]
    (own_machine / "skyhold.toml").write_text("store = ")
    assert "skyhold.toml is not TOML" in skyhold("status", status=2).err


def test_configuration_file_that_is_named_must_exist(skyhold: Shell) -> None:
    assert "nowhere.toml" in skyhold("status", "--config", "nowhere.toml", status=3).err
    assert "nowhere.toml" in skyhold("--config", "nowhere.toml", "status", status=3).err


def test_json_answers_hold_the_text_as_it_is(
    skyhold: Shell, status_does: Callable[[Callable[[Invocation], None]], None]
) -> None:
    document = {"message": "für 模型 \x1b[0m"}
    status_does(lambda session: session.output.show(document, quiet=[], human=lambda: None))
    run = skyhold("status", "--json")
    assert json.loads(run.out) == document
    assert "für 模型" in run.out
