"""`skyhold serve` as a process: the screen, the request that it prints, the alias that it follows, its end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import skyhold as library
from tests.cli.running import PROGRAM, Shell
from tests.serving.iris import REQUEST, write_classifier

TOKEN = "a token of a test"


@pytest.fixture
def store(skyhold: Shell, own_machine: Path) -> Path:
    """`lab/iris` with one version, to which `champion` points."""
    skyhold("init", "a", "b", "c")
    (own_machine / "skyhold.toml").write_text(f"store = {json.dumps(str(own_machine / 'a'))}\n")
    skyhold("push", "lab/iris", write_classifier(Path("model")), "--alias", "champion")
    return own_machine


class Server:
    """A process, and what it printed until it was ready."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        self.process = subprocess.Popen(
            [*PROGRAM, "serve", *arguments, "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environ},
        )
        assert self.process.stdout is not None
        self.screen = ""
        while not self.screen.endswith("}'\n"):  # the request to paste is the last
            line = self.process.stdout.readline()
            assert line or self.process.poll() is None, self.process.communicate()
            self.screen += line
        found = re.search(r"at (http://\S+)", self.screen)
        assert found is not None
        self.url = found[1]

    def ask(self, path: str, document: object = None, token: str | None = None) -> tuple[int, Any, Any]:
        """Status, document and headers of an answer."""
        body = None if document is None else json.dumps(document).encode()
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"{self.url}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read()), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read()), error.headers

    def end(self) -> tuple[int, str]:
        """End it as Kubernetes does; its exit status and stderr."""
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@pytest.fixture
def serve(store: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(*arguments: str, **environ: str) -> Server:
        started.append(Server(*arguments, **environ))
        return started[-1]

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()


def test_served_version_is_shown_and_answers_the_request_that_is_printed(serve: Callable[..., Server]) -> None:
    server = serve("lab/iris@champion")
    assert "runtime  sklearn (model.skops: its name ends in .skops)" in server.screen
    assert "inputs   input FP64 [-1, 4]" in server.screen
    printed = re.search(r"^curl (\S+) -d '(.*)'$", server.screen, re.MULTILINE)
    assert printed is not None
    status, answer, headers = server.ask(printed[1].removeprefix(server.url), json.loads(printed[2]))
    assert (status, answer["model_name"]) == (200, "iris")
    assert headers["x-skyhold-version"] == answer["model_version"]
    assert server.ask("/v2/health/ready")[1] == {"ready": True}
    assert server.end() == (0, "")


def test_moved_alias_is_followed(serve: Callable[..., Server], skyhold: Shell) -> None:
    server = serve("lab/iris@champion", "--follow")
    first = server.ask("/v2/models/iris/infer", REQUEST)[1]["model_version"]
    skyhold("push", "lab/iris", write_classifier(Path("model"), 0.01), "--alias", "champion")
    assert server.process.stderr is not None
    line = server.process.stderr.readline()
    second = server.ask("/v2/models/iris/infer", REQUEST)[1]["model_version"]
    assert line == f"champion moved: version {second[:10]} answers now (loaded)\n"
    assert second != first
    assert server.end()[0] == 0


def test_token_is_asked_of_everybody_but_health_checks(serve: Callable[..., Server]) -> None:
    server = serve("lab/iris@champion", SKYHOLD_SERVE_TOKEN=TOKEN)
    assert TOKEN not in server.screen
    assert server.ask("/v2/health/ready")[0] == 200
    for token in (None, "another token, wrong"):
        assert server.ask("/v2/models/iris", token=token)[0] == 401
        assert server.ask("/metrics", token=token)[0] == 401
    assert server.ask("/v2/models/iris/infer", REQUEST, TOKEN)[0] == 200


def test_taken_port_is_named(skyhold: Shell, store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = skyhold("serve", "lab/iris@champion", "--port", taken.getsockname()[1], status=4)
        assert f"Cannot listen on 127.0.0.1:{taken.getsockname()[1]}" in run.err
    assert "--port" in run.err


def test_public_address_needs_a_token_or_force(skyhold: Shell, store: Path) -> None:
    run = skyhold("serve", "lab/iris@champion", "--host", "0.0.0.0", "--port", "0", status=6)
    assert "SKYHOLD_SERVE_TOKEN" in run.err


def test_version_that_no_runtime_is_for_is_refused(skyhold: Shell, store: Path) -> None:
    Path("notes").mkdir()
    Path("notes/readme.md").write_text("no model")
    skyhold("push", "lab/notes", "notes")
    run = skyhold("serve", "lab/notes@main", "--port", "0", status=3)
    assert "readme.md" in run.err


def test_version_by_its_id_cannot_be_followed(skyhold: Shell, store: Path) -> None:
    with library.open(str(store / "a")) as opened:
        version = opened.repository("lab/iris").show("champion").id
    assert "never moves" in skyhold("serve", f"lab/iris@{version}", "--follow", status=2).err
