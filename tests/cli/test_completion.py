"""Completion in real shells: Tab inserts names of the store into the line, and nothing ever hangs."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyhold.cli.completion import DEADLINE_S
from tests.cli.models import write_model
from tests.cli.running import PROGRAM, Shell, run_on_terminal

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the shells of POSIX")


def shell_program(name: str) -> str:
    """The path of a shell; where it is missing the test skips, or fails if `SKYHOLD_REQUIRE_ALL=1`."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed: apt-get install {name}"
        if os.environ.get("SKYHOLD_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


PATIENT_PROGRAM = (
    sys.executable,
    "-c",
    "import skyhold.cli.completion as it; it.DEADLINE_S = 60.0; from skyhold.cli.main import main; main()",
)
"""`skyhold` that completes however busy the machine is."""


@pytest.fixture
def store(skyhold: Shell, own_machine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that the settings name, with two repositories of a few refs, and on the path a `skyhold` that prints the
    words it is called with, except that it completes as ours."""
    skyhold("init", "a", "b", "c")
    (own_machine / "skyhold.toml").write_text(f"store = {json.dumps(str(own_machine / 'a'))}\n")
    model = write_model(Path("model"), rows=64)
    skyhold("push", "fraud/scorer", model, "--alias", "champion", "--tag", "v1.2")
    skyhold("push", "nlp/bert", model)
    skyhold("branch", "create", "fraud/scorer", "feature/x")
    programs = own_machine.parent / "programs"
    programs.mkdir()
    stub = programs / "skyhold"
    ours = " ".join(f"'{word}'" for word in PATIENT_PROGRAM)
    stub.write_text(f'#!/bin/sh\n[ -n "$_SKYHOLD_COMPLETE" ] && exec {ours} "$@"\necho "called<$*>"\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for name in ("bash", "zsh", "fish"):
        (own_machine / f"completion.{name}").write_text(skyhold("completion", name).out)
    return own_machine


class Terminal:
    """An interactive shell on a terminal; `printed` is what it printed since a key was pressed last."""

    def __init__(self, *command: str) -> None:
        self._parent, child = pty.openpty()
        environ = {**os.environ, "TERM": "dumb", "COLUMNS": "200", "PS1": "ready> "}
        self._process = subprocess.Popen(
            command, stdin=child, stdout=child, stderr=child, env=environ, start_new_session=True
        )
        os.close(child)
        self.printed = ""

    def type(self, keys: str, *, until: str, timeout_s: float = 30) -> str:
        """Press keys, and return what is printed once the pattern `until` is in it."""
        os.write(self._parent, keys.encode())
        self.printed = ""
        deadline_s = time.monotonic() + timeout_s
        while not re.search(until, self.printed):
            assert time.monotonic() < deadline_s, f"no {until!r} in {self.printed!r}"
            if select.select([self._parent], [], [], 0.1)[0]:
                self.printed += os.read(self._parent, 65536).decode(errors="replace")
        return self.printed

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._parent)


INTERACTIVE = {
    "bash": (["--norc", "--noprofile", "-i"], "source completion.bash; echo set-up"),
    "zsh": (
        ["-f", "-i"],
        "unsetopt prompt_sp; autoload -U compinit; compinit -D -u; source completion.zsh; echo set-up",
    ),
}


@pytest.fixture(params=INTERACTIVE)
def terminal(request: pytest.FixtureRequest, store: Path) -> Iterator[Terminal]:
    arguments, setting_up = INTERACTIVE[request.param]
    opened = Terminal(shell_program(request.param), *arguments)
    try:
        opened.type(f"{setting_up}\n", until="set-up\r\n")
        yield opened
    finally:
        opened.close()


@pytest.mark.parametrize(
    ("typed", "called"),
    [
        ("skyhold stat\t", "status"),
        ("skyhold show nl\t", "show nlp/bert"),
        ("skyhold show fraud/scorer@cha\t", "show fraud/scorer@champion"),
        ("skyhold show fraud/scorer@alias/c\t", "show fraud/scorer@alias/champion"),
        ("skyhold log fraud/scorer@feat\t-n 1", "log fraud/scorer@feature/x -n 1"),
        ("skyhold diff fraud/scorer@v1.2 ch\t", "diff fraud/scorer@v1.2 champion"),
        ("skyhold diff fraud/scorer@v1.2 nlp/bert@\t", "diff fraud/scorer@v1.2 nlp/bert@main"),
        ("skyhold push x/y model --base fraud/scorer@v\t", "push x/y model --base fraud/scorer@v1.2"),
        ("skyhold ref delete fraud/scorer tag/\t", "ref delete fraud/scorer tag/v1.2"),
        ("skyhold branch delete fraud/scorer f\t", "branch delete fraud/scorer feature/x"),
        ("skyhold verify --repository n\t", "verify --repository nlp/bert"),
        ("skyhold verify --repository=n\t", "verify --repository=nlp/bert"),
        ("skyhold push x/y model/con\t", "push x/y model/config.json"),
        ("skyhold --store b show n\t", "--store b show nlp/bert"),
    ],
)
def test_tab_completes_names_of_the_store(terminal: Terminal, typed: str, called: str) -> None:
    before, tab, after = typed.partition("\t")
    terminal.type(before, until=re.escape(before[-1]))
    time.sleep(0.1)  # a shell that is still drawing takes a Tab for pasted text
    terminal.type(tab, until=re.escape(called.removesuffix(after).rstrip()[-1]))
    shown = terminal.type(f"{after}\n", until=r"called<.*>\r")
    assert f"called<{called}>" in shown


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("skyhold show ", ["fraud/scorer", "nlp/bert"]),
        (
            "skyhold show fraud/scorer",
            [
                *("fraud/scorer", "fraud/scorer@champion", "fraud/scorer@feature/x", "fraud/scorer@main"),
                "fraud/scorer@v1.2",
            ],
        ),
        ("skyhold show nowhere/", []),
        ("skyhold show --store nowhere fraud/", []),
        ("skyhold bucket check ", ["a", "b", "c"]),
        ("skyhold verify --repository=n", ["--repository=nlp/bert"]),
        ("skyhold nonsense ", []),
    ],
)
def test_fish_offers_names_of_the_store(store: Path, typed: str, offered: list[str]) -> None:
    run = subprocess.run(
        [shell_program("fish"), "--no-config", "-c", f'source completion.fish; complete -C "{typed}"'],
        check=True, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert sorted(line.partition("\t")[0] for line in run.stdout.splitlines()) == offered
    assert run.stderr == ""


def complete(line: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """What a shell would get for this line, in a separate process with a time limit."""
    asking = {"_SKYHOLD_COMPLETE": "bash_complete", "COMP_LINE": line, "COMP_WORDBREAKS": " \t\n\"'@><=;|&(:"}
    return subprocess.run(
        PROGRAM, env={**os.environ, **asking, **environ}, check=False, capture_output=True, text=True, timeout=15
    )


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SKYHOLD_STORE": "nowhere"},
        {"SKYHOLD_STORE": "~no-such-user/x"},
        {"SKYHOLD_CONFIG": "nowhere.toml"},
        {"SKYHOLD_STATE": "/dev/null"},
    ],
    ids=["no store", "store that is gone", "home of an unknown user", "no settings", "no state"],
)
def test_error_offers_nothing_and_is_silent(environ: dict[str, str], own_machine: Path) -> None:
    for line in ("skyhold show ", "skyhold nonsense ", "skyhold show 'unclosed"):
        run = complete(line, **environ)
        assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "", "")


def test_key_that_is_missing_is_not_asked_for(
    skyhold: Shell, own_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as known:
        known.setenv("SKYHOLD_PASSPHRASE", "correct horse")
        skyhold("init", "sealed", "--passphrase")
    run = run_on_terminal(
        environ={"_SKYHOLD_COMPLETE": "bash_complete", "COMP_LINE": "skyhold show ", "SKYHOLD_STORE": "sealed"}
    )
    assert (run.status, run.out.strip()) == (0, "")


def test_bucket_that_never_answers_does_not_hang_the_shell(own_machine: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = f"s3://models?endpoint=http://127.0.0.1:{silent.getsockname()[1]}&credentials=env:LAB&region=lab"
        keys = {"LAB_ACCESS_KEY_ID": "id", "LAB_SECRET_ACCESS_KEY": "secret"}
        began_s = time.monotonic()
        run = complete("skyhold show ", SKYHOLD_STORE=store, **keys)
        took_s = time.monotonic() - began_s
        connected, _ = silent.accept()  # it has connected, and was never answered
        connected.close()
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert took_s > DEADLINE_S
