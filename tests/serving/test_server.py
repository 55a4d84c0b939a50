"""A server over real sockets: the protocol by an independent client, wrong requests, and models that misbehave."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.http as triton
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from skyhold.errors import InvalidInput
from skyhold.measure.catalogue import CATALOGUE
from skyhold.serving.app import Limits
from skyhold.serving.declaration import Declaration
from skyhold.serving.metrics import ModelMetrics, ServerMetrics
from skyhold.serving.model import Model, Origin, open_model
from skyhold.serving.models import Models, Served
from skyhold.serving.runtimes import onnx as onnx_runtime
from skyhold.serving.runtimes.runtime import Found, Permissions
from skyhold.serving.server import Listening, open_socket, run_server
from skyhold.serving.signature import Signature, TensorSpec
from tests.serving.iris import REQUEST, write_classifier

BODY_BYTES_MAX = 100_000


def write_echo(folder: Path) -> Path:
    """An ONNX model that returns its inputs: texts, and numbers to which one is added."""
    folder.mkdir(exist_ok=True)
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["text"], ["said"]),
            helper.make_node("Add", ["number", "one"], ["more"]),
        ],
        "echo",
        [
            helper.make_tensor_value_info("text", TensorProto.STRING, ["rows"]),
            helper.make_tensor_value_info("number", TensorProto.FLOAT, ["rows", 2]),
        ],
        [
            helper.make_tensor_value_info("said", TensorProto.STRING, ["rows"]),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, ["rows", 2]),
        ],
        [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "echo.onnx")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """`iris` and `echo`."""
    folder = tmp_path_factory.mktemp("models")
    made = Models(ServerMetrics())
    for name, written in (("iris", write_classifier(folder / "iris")), ("echo", write_echo(folder / "echo"))):
        put(made, name, written)
    yield made
    made.close()


def put(models: Models, name: str, folder: Path) -> None:
    metrics = ModelMetrics(models.metrics, name, "v1")

    def load() -> Model:
        return open_model(folder, Origin(name, "v1"), Permissions(), metrics.batch)

    models.put(Served(load(), metrics, load))


@pytest.fixture(scope="module")
def address(models: Models) -> str:
    """Of a server that runs until the tests end."""
    listening = Listening(port=0, limits=Limits(body_bytes_max=BODY_BYTES_MAX))
    bound = open_socket(listening)
    ready = threading.Event()
    threading.Thread(
        target=run_server, args=(models, listening, bound), kwargs={"when_ready": ready.set}, daemon=True
    ).start()
    assert ready.wait(60)
    return f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as made:
        yield made


def ask(address: str, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any, dict[str, str]]:
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null"), dict(answer.getheaders())
    finally:
        connection.close()


def tensor(name: str, array: np.ndarray, datatype: str, *, binary: bool) -> triton.InferInput:
    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    return given


def test_independent_client_finds_server_and_models(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "skyhold"
    assert client.is_model_ready("iris")
    assert client.is_model_ready("iris", "v1")
    assert not client.is_model_ready("iris", "v9")
    metadata = client.get_model_metadata("echo")
    assert metadata["inputs"] == [
        {"name": "text", "datatype": "BYTES", "shape": [-1]},
        {"name": "number", "datatype": "FP32", "shape": [-1, 2]},
    ]
    assert [(entry["name"], entry["state"]) for entry in client.get_model_repository_index()] == [
        ("echo", "READY"),
        ("iris", "READY"),
    ]


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_texts_and_numbers_come_back(client: triton.InferenceServerClient, binary_in: bool, binary_out: bool) -> None:
    texts, numbers = np.array(["é", "", "x"], dtype=object), np.arange(6, dtype=np.float32).reshape(3, 2)
    answer = client.infer(
        "echo",
        [tensor("text", texts, "BYTES", binary=binary_in), tensor("number", numbers, "FP32", binary=binary_in)],
        outputs=[triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("more", "said")],
        request_id="7",
    )
    assert answer.get_response()["id"] == "7"
    np.testing.assert_array_equal(answer.as_numpy("more"), numbers + 1)
    assert [item if isinstance(item, str) else item.decode() for item in answer.as_numpy("said")] == ["é", "", "x"]


def test_outputs_that_are_not_asked_for_are_not_returned(client: triton.InferenceServerClient) -> None:
    rows = tensor("input", np.array([[5.0, 3, 4, 2]]), "FP64", binary=True)
    assert [output["name"] for output in client.infer("iris", [rows]).get_response()["outputs"]] == ["predict"]
    wanted = [triton.InferRequestedOutput("predict_proba")]
    answer = client.infer("iris", [rows], outputs=wanted)
    assert answer.as_numpy("predict") is None
    assert answer.as_numpy("predict_proba").shape == (1, 3)


def test_model_is_unloaded_and_loaded_again_while_others_answer(
    client: triton.InferenceServerClient, models: Models, tmp_path: Path
) -> None:
    put(models, "other", write_classifier(tmp_path / "other"))
    client.unload_model("other")
    assert not client.is_model_ready("other")
    assert not client.is_server_ready()
    assert client.is_model_ready("iris")
    with pytest.raises(InferenceServerException, match="it was unloaded"):
        client.infer("other", [tensor("input", np.zeros((1, 4)), "FP64", binary=True)])
    client.load_model("other")
    assert client.is_model_ready("other")
    assert client.is_server_ready()


def test_answer_names_version_and_request(address: str) -> None:
    body = json.dumps(REQUEST).encode()
    status, answer, headers = ask(address, "POST", "/v2/models/iris/infer", body, **{"x-request-id": "abc"})
    assert (status, answer["model_version"]) == (200, "v1")
    assert (headers["x-skyhold-version"], headers["x-request-id"]) == ("v1", "abc")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/", b"", 404),
        ("GET", "/v2/models/none", b"", 404),
        ("GET", "/v2/models/iris/versions/none", b"", 404),
        ("POST", "/v2/models/none/infer", b"{}", 404),
        ("GET", "/v2/models/iris/infer", b"", 405),
        ("POST", "/v2/models/iris/infer", b"", 400),
        ("POST", "/v2/models/iris/infer", b"\xff" * 100, 400),
        ("POST", "/v2/models/iris/infer", b"[" * 90_000, 400),
        ("POST", "/v2/models/iris/infer", b'{"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP64", '
         b'"data": [null, 1, 2, 3]}]}', 400),
        ("POST", "/v2/models/iris/infer", b" " * (BODY_BYTES_MAX + 1), 413),
        ("POST", "/v2/repository/models/none/load", b"", 404),
        ("POST", "/v2/repository/models/none/unload", b"", 404),
        ("POST", "/v2/repository/index", b"[", 400),
    ],
)  # fmt: skip
def test_wrong_request_gets_its_status_and_an_error(
    address: str, method: str, path: str, body: bytes, status: int
) -> None:
    answered, document, _ = ask(address, method, path, body)
    assert answered == status
    assert document.keys() == {"error", "code"}
    assert "Traceback" not in document["error"]


def test_body_without_a_length_is_bounded(address: str) -> None:
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as sent:
        sent.sendall(b"POST /v2/models/iris/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(3):
            sent.sendall(b"9000\r\n" + b" " * 0x9000 + b"\r\n")
        assert sent.recv(100).startswith(b"HTTP/1.1 413")


def test_compressed_body_is_refused(address: str) -> None:
    assert ask(address, "POST", "/v2/models/iris/infer", b"x", **{"content-encoding": "gzip"})[0] == 400


def test_timeout_is_a_number_of_microseconds(address: str) -> None:
    for timeout in (0, -1, "1s", 1.5, True):
        body = json.dumps({**REQUEST, "parameters": {"timeout": timeout}}).encode()
        assert ask(address, "POST", "/v2/models/iris/infer", body)[0] == 400
    body = json.dumps({**REQUEST, "parameters": {"timeout": 60_000_000}}).encode()
    assert ask(address, "POST", "/v2/models/iris/infer", body)[0] == 200


def test_metrics_are_those_of_the_catalogue(address: str) -> None:
    ask(address, "POST", "/v2/models/iris/infer", json.dumps(REQUEST).encode())
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    exposed = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    expected = {metric.name + ("_total" if metric.kind == "counter" else "") for metric in CATALOGUE}
    assert {name for name in exposed if not name.endswith("_created")} == expected
    assert 'skyhold_inference_requests_total{code="200",model="iris",version="v1"}' in text


class Hanging:
    """Answers nothing until it is released."""

    signature = Signature((TensorSpec("x", "INT64", (-1,)),), (TensorSpec("y", "INT64", (-1,)),))

    def __init__(self) -> None:
        self.released = threading.Event()

    def predict(self, inputs: Mapping[str, Any], outputs: tuple[str, ...]) -> dict[str, Any]:
        assert self.released.wait(60)
        return {"y": inputs["x"]}

    def close(self) -> None:
        pass


def test_model_that_hangs_is_given_up_at_the_deadline_while_others_answer(address: str, models: Models) -> None:
    hanging = Hanging()
    model = Model(Origin("hanging", "v1"), Found(onnx_runtime, Path("m.onnx"), ""), Declaration(), hanging, ignore)
    models.put(Served(model, ModelMetrics(models.metrics, "hanging", "v1"), lambda: model))
    entry = {"name": "x", "shape": [1], "datatype": "INT64", "data": [1]}
    body = json.dumps({"inputs": [entry], "parameters": {"timeout": 200_000}}).encode()
    try:
        for _ in range(2):  # one is being run, the next one waits for it
            status, document, _ = ask(address, "POST", "/v2/models/hanging/infer", body)
            assert (status, document["code"]) == (504, "request_too_late")
        assert ask(address, "POST", "/v2/models/iris/infer", json.dumps(REQUEST).encode())[0] == 200
        assert ask(address, "GET", "/v2/health/ready")[0] == 200
    finally:
        hanging.released.set()


def ignore(_rows: int, _seconds: float) -> None:
    pass


@pytest.mark.parametrize("host", ["a..b", "é..x", "a" * 70])
def test_host_that_is_no_name_is_refused(host: str) -> None:
    with pytest.raises(InvalidInput, match="no address"):
        open_socket(Listening(host, 0, force_public=True))
