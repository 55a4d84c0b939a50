"""Real servers for a test module, each on a free port of this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("SKYHOLD_SERVERS") or Path.home() / ".cache" / "skyhold-servers")
START_S_MAX = 20.0
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own public account (https://learn.microsoft.com/azure/storage/common/storage-use-azurite)."""


@contextmanager
def fake_gcs_server() -> Iterator[str]:
    """The endpoint of an empty fake-gcs-server that keeps objects in memory."""
    port = _free_port()
    options = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    with _running("fake-gcs-server", "fake-gcs-server", [*options, "-public-host", f"127.0.0.1:{port}"], port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """The endpoint of an empty Azurite that keeps blobs in `folder`, for `AZURITE_ACCOUNT`."""
    port = _free_port()
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    options += ["--skipApiVersionCheck", "--silent", "--disableTelemetry"]
    with _running("azurite", "azurite-blob", options, port):
        yield f"http://127.0.0.1:{port}/{AZURITE_ACCOUNT}"


@contextmanager
def versitygw(folder: Path, access_key: str, secret_key: str) -> Iterator[str]:
    """The endpoint of a versitygw whose buckets are the folders in `folder`."""
    port = _free_port()
    keys = {"ROOT_ACCESS_KEY": access_key, "ROOT_SECRET_KEY": secret_key}
    with _running("versitygw", "versitygw", ["--port", f"127.0.0.1:{port}", "posix", str(folder)], port, keys):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _running(
    name: str, program: str, options: list[str], port: int, variables: dict[str, str] | None = None
) -> Iterator[None]:
    path = CACHE / "bin" / program
    if not path.exists():
        stop = pytest.fail if os.environ.get("SKYHOLD_REQUIRE_ALL") == "1" else pytest.skip
        stop(f"{program} is not built: run `tools/servers/build {name}`")
    environment = os.environ | (variables or {})
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([path, *options], env=environment, **quiet) as process:
        try:
            _wait_for(port, process)
            yield
        finally:
            process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    ends_s = time.monotonic() + START_S_MAX
    while time.monotonic() < ends_s:
        if process.poll() is not None:
            pytest.fail(f"{process.args!r} ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"{process.args!r} does not listen after {START_S_MAX:g} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
