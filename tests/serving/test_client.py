"""The Python client and `skyhold client`, against a server of ours on a port of its own, and against hostile ones."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import uvicorn

from skyhold.client import connect
from skyhold.errors import InvalidInput, NotFound, PermissionDenied, Unavailable
from skyhold.serving.app import InferenceApp
from skyhold.serving.metrics import ModelMetrics, ServerMetrics
from skyhold.serving.model import Model, Origin, open_model
from skyhold.serving.models import Models, Served
from skyhold.serving.runtimes.runtime import Permissions
from skyhold.serving.server import BearerToken
from tests.cli.conftest import own_machine, skyhold  # noqa: F401 (fixtures)
from tests.cli.running import Shell
from tests.serving.iris import write_classifier

TOKEN = "a token of a test"
ROWS = np.array([[5.0, 3.0, 4.0, 2.0], [6.0, 3.0, 5.0, 2.0]])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that needs `TOKEN`."""
    folder = write_classifier(tmp_path_factory.mktemp("client") / "model")
    models = Models(ServerMetrics())

    def load() -> Model:
        return open_model(folder, Origin("iris", "v1"), Permissions())

    models.put(Served(load(), ModelMetrics(models.metrics, "iris", "v1"), load))
    bound = socket.create_server(("127.0.0.1", 0))
    application = BearerToken(InferenceApp(models).application(), TOKEN)
    server = uvicorn.Server(uvicorn.Config(application, log_config=None, lifespan="off", ws="none"))
    thread = threading.Thread(target=lambda: server.run(sockets=[bound]))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    server.should_exit = True
    thread.join(30)
    models.close()


@pytest.mark.parametrize("binary", [True, False])
def test_answer_is_that_of_the_model(url: str, binary: bool) -> None:
    with connect(url, token=TOKEN) as client:
        assert client.ready()
        metadata = client.metadata("iris")
        assert (metadata.versions, metadata.inputs[0].shape) == (("v1",), (-1, 4))
        answer = client.infer("iris", {"input": ROWS}, ["predict", "predict_proba"], binary=binary)
        assert client.answered_version == "v1"
    assert answer["predict"].tolist() == [1, 2]
    assert answer["predict_proba"].shape == (2, 3)


def test_errors_have_the_class_and_the_code_of_the_server(url: str) -> None:
    with connect(url, token=TOKEN) as client:
        with pytest.raises(InvalidInput) as refused:
            client.infer("iris", {"other": ROWS})
        assert refused.value.code == "unknown_input"
        with pytest.raises(NotFound):
            client.metadata("nothing")
    with connect(url, token="another") as client, pytest.raises(PermissionDenied):
        client.metadata("iris")


def test_url_with_a_password_or_another_scheme_is_refused() -> None:
    for wrong in ("ftp://host", "http://user:secret@host", "http://", "host:80", "http://host:port"):
        with pytest.raises(InvalidInput) as refused:
            connect(wrong)
        assert "secret" not in refused.value.message


def test_absent_server_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with connect(f"http://127.0.0.1:{port}") as client, pytest.raises(Unavailable):
        client.ready()


class _Hostile(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"[" * 10_000
        self.send_response(302 if self.path.endswith("moved") else 200)
        self.send_header("location", "http://127.0.0.1:1/")
        self.send_header("content-length", str(len(body)))
        if self.path.endswith("digits"):
            self.send_header("inference-header-content-length", "9" * 5000)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_redirects_and_answers_of_no_server_of_the_protocol_are_refused() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), _Hostile) as hostile:
        thread = threading.Thread(target=hostile.serve_forever)
        thread.start()
        try:
            with connect(f"http://127.0.0.1:{hostile.server_port}", token=TOKEN) as client:
                with pytest.raises(InvalidInput, match="redirects"):
                    client.metadata("moved")
                for model in ("iris", "digits"):
                    with pytest.raises(Unavailable, match="protocol"):
                        client.metadata(model)
        finally:
            hostile.shutdown()
            thread.join(10)


def test_command_sends_a_file(url: str, skyhold: Shell, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("IRIS_TOKEN", TOKEN)
    Path("x.csv").write_text("5,3,4,2\n6,3,5,2\n")
    arguments = ("client", url, "--name", "iris", "--input", "x.csv", "--token-env", "IRIS_TOKEN")
    run = skyhold(*arguments)
    assert run.out == "predict\n1\n2\n"
    assert run.err.startswith("iris, version v1, answered in ")
    document = json.loads(skyhold(*arguments, "--binary", "--json").out)
    assert (document["version"], document["outputs"][0]["data"]) == ("v1", [1, 2])
    assert "IRIS_TOKEN_2" in skyhold(*arguments[:-1], "IRIS_TOKEN_2", status=2).err
