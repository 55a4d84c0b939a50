"""Real object-store servers for the tests, without containers.

`tools/servers/build` brings the programs into `${SKYHOLD_SERVERS:-~/.cache/skyhold-servers}/bin`. Each test process
(each pytest-xdist worker) starts a server when it first asks for it, on a free loopback port and an empty folder, and
ends it by its process id when it exits; on Linux the kernel ends it too where that process was killed.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import ContainerClient

ACCESS_KEY = "skyhold-tests"
SECRET_KEY = "only-for-the-tests-of-skyhold"
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own public account (https://learn.microsoft.com/azure/storage/common/storage-use-azurite)."""
WRONG_AZURE_KEY = "YSBzZWNyZXQga2V5IG9mIGFuIGFjY291bnQ="
PROGRAMS = Path(os.environ.get("SKYHOLD_SERVERS") or Path.home() / ".cache" / "skyhold-servers").expanduser() / "bin"
READY_S_MAX = 60.0


@dataclass
class Running:
    """The process of a server, which ends with this one."""

    command: list[str]
    environment: Mapping[str, str]
    port: int
    log: Path
    tls: bool
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start it, also again after it was killed, and wait until its port answers."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | dict(self.environment),
                preexec_fn=end_with_parent,  # noqa: PLW1509 - calls one function of libc, which takes no lock
            )
        wait_until(
            lambda: answers(self.port, tls=self.tls),
            lambda: f"{self.command[0]} is not ready: {self.log.read_text(errors='replace')[-2000:]}",
        )

    def kill(self) -> None:
        self.process.kill()  # its data is thrown away, and SeaweedFS takes ten seconds to shut down
        self.process.wait(10)


@dataclass(frozen=True)
class Server:
    """A server that answers at `http://127.0.0.1:port`; `make_bucket` makes a bucket that may be there already."""

    port: int
    make_bucket: Callable[[str], None]
    running: Running
    scheme: str = "http"
    _buckets: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def with_bucket(self, name: str) -> Server:
        """This server, once it has that bucket."""
        if name not in self._buckets:
            self.make_bucket(name)
            self._buckets.add(name)
        return self


class MissingServer(pytest.skip.Exception):
    """The program of a server is not there: the one reason to skip that no test needs to declare."""


def program(name: str) -> Path:
    """The path of a server's program; where it is missing the test skips, or fails if `SKYHOLD_REQUIRE_ALL=1`."""
    path = PROGRAMS / name
    if not path.exists():
        reason = f"{name} is not built: run tools/servers/build"
        if os.environ.get("SKYHOLD_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        raise MissingServer(reason)
    return path


def free_port() -> int:
    """A port without a listener. Another process may take it before our server does; then the server does not
    become ready, and its log contains the reason."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(
    command: list[str | Path],
    port: int,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *,
    tls: bool = False,
) -> Running:
    """Run a server until this process exits, and wait until its port answers."""
    running = Running([str(part) for part in command], environment or {}, port, folder / "server.log", tls)
    owner = os.getpid()

    def end() -> None:
        if os.getpid() == owner:  # and not a forked child of a test
            running.kill()

    atexit.register(end)
    return running


def end_with_parent() -> None:
    """In a child before its program begins: let the kernel kill it when the process that made it ends, however."""
    if sys.platform == "linux":
        parent_death_signal = 1  # PR_SET_PDEATHSIG in <sys/prctl.h>
        ctypes.CDLL(None, use_errno=True).prctl(parent_death_signal, signal.SIGKILL)


def wait_until(ready: Callable[[], bool], complaint: Callable[[], str]) -> None:
    give_up_s = time.monotonic() + READY_S_MAX
    while not ready():
        if time.monotonic() > give_up_s:
            pytest.fail(complaint())
        time.sleep(0.05)


def answers(port: int, *, tls: bool) -> bool:
    """Whether an HTTP server answers there, with any status and any certificate."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    if tls:
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    except OSError:
        return False
    finally:
        connection.close()


def new_folder(name: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"skyhold-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def start_versitygw(
    access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY, certificate: Path | None = None
) -> Server:
    """An S3 server over a folder. `certificate` is the PEM file of a chain and its key: then it speaks TLS. It has no
    bucket yet."""
    path, folder, port = program("versitygw"), new_folder("versitygw"), free_port()
    data = folder / "data"
    data.mkdir()
    keys = {"ROOT_ACCESS_KEY": access_key, "ROOT_SECRET_KEY": secret_key}
    pair: list[str | Path] = ["--cert", certificate, "--key", certificate] if certificate else []
    command = [path, "--port", f"127.0.0.1:{port}", *pair, "posix", data]
    running = start(command, port, folder, keys, tls=certificate is not None)
    return Server(port, lambda name: (data / name).mkdir(exist_ok=True), running, "https" if certificate else "http")


@functools.cache
def seaweedfs() -> Server:
    """SeaweedFS with master, volume, filer and S3 in one process. It has no bucket yet."""
    path, folder = program("weed"), new_folder("seaweedfs")
    port, master, volume, filer = (free_port() for _ in range(4))
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    options = {
        "dir": folder / "data", "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "s3.port": port, "filer.port": filer,
        "s3.config": folder / "s3.json", "master.port": master, "volume.port": volume,
        "master.port.grpc": free_port(), "volume.port.grpc": free_port(), "filer.port.grpc": free_port(),
        "s3.port.grpc": free_port(), "s3.port.iceberg": free_port(), "s3.port.lance": free_port(),
        "master.volumeSizeLimitMB": 1024, "volume.max": 200,
    }  # fmt: skip
    running = start([path, "server", "-s3", "-filer", *(f"-{k}={v}" for k, v in options.items())], port, folder)
    complaint = "the SeaweedFS filer does not take writes"
    wait_until(lambda: _filer_made(filer, "readiness"), lambda: complaint)

    def make_bucket(name: str) -> None:
        wait_until(lambda: _filer_made(filer, name), lambda: complaint)

    return Server(port, make_bucket, running)


def _filer_made(filer: int, bucket: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", filer, timeout=10)
    try:
        connection.request("POST", f"/buckets/{bucket}/", headers={"Content-Length": "0"})
        return connection.getresponse().status in {200, 201, 409}
    except OSError:
        return False
    finally:
        connection.close()


def start_fake_gcs_server() -> Server:
    """fake-gcs-server, which keeps objects in memory and asks for no credentials. It has no bucket yet."""
    path, folder, port = program("fake-gcs-server"), new_folder("fake-gcs-server"), free_port()
    at = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}"]
    running = start([path, *at, "-backend", "memory"], port, folder)

    def make_bucket(name: str) -> None:
        reply = requests.post(f"http://127.0.0.1:{port}/storage/v1/b", json={"name": name}, timeout=10)
        assert reply.status_code in {200, 409}, reply.text

    return Server(port, make_bucket, running)


def start_azurite() -> Server:
    """Azurite's blob service, for `AZURITE_ACCOUNT`. It has no container yet."""
    path, folder, port = program("azurite-blob"), new_folder("azurite"), free_port()
    at = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", folder / "data"]
    running = start([path, *at, "--skipApiVersionCheck", "--silent", "--disableTelemetry"], port, folder)

    def make_bucket(name: str) -> None:
        account = f"http://127.0.0.1:{port}/{AZURITE_ACCOUNT}"
        with ContainerClient(account, name, credential=AZURITE_KEY) as container, suppress(ResourceExistsError):
            container.create_container()

    return Server(port, make_bucket, running)


# One for each test process (of versitygw: one for each set of arguments).
versitygw, fake_gcs_server, azurite = map(functools.cache, (start_versitygw, start_fake_gcs_server, start_azurite))
