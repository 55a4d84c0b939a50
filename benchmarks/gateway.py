"""One versitygw process: an S3 server over a folder, for the benchmarks' tools to push to and pull from."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

START_DEADLINE_S = 15.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A bucket on a server: `url` is the server's (`http://host:port`), the bucket is addressed in path style."""

    url: str
    bucket: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"


class Gateway:
    """A running server. `folder` is its data: a bucket is a folder in it, an object a file."""

    def __init__(self, folder: Path, address: str, port: int, keys: tuple[str, str], process: subprocess.Popen[bytes]):
        self.folder = folder
        self.url = f"http://{address}:{port}"
        self._keys = keys
        self._process = process

    def make_bucket(self, name: str) -> Endpoint:
        """An empty bucket (versitygw takes every folder for one); what it held before is gone."""
        self.drop_bucket(name)
        (self.folder / name).mkdir()
        return Endpoint(self.url, name, *self._keys)

    def drop_bucket(self, name: str) -> None:
        """Forget a bucket and free its disk."""
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def folder_of(self, endpoint: Endpoint) -> Path:
        """The folder of a bucket's objects."""
        return self.folder / endpoint.bucket

    def stored_bytes(self, name: str) -> int:
        """The sizes of all files that the bucket holds now, unfinished uploads included."""
        return sum(file.stat().st_size for file in (self.folder / name).rglob("*") if file.is_file())

    def signal(self, number: int) -> None:
        """Stop it (`SIGSTOP`) and let it go on (`SIGCONT`)."""
        self._process.send_signal(number)

    def cpu_s(self) -> float:
        """User and system seconds that the server has used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def versitygw_binary() -> Path:
    """The server's binary in the cache of test servers. Raises `FileNotFoundError` with the command that brings it."""
    cache = Path(os.environ.get("SKYHOLD_SERVERS", "~/.cache/skyhold-servers")).expanduser()
    binary = cache / "bin" / "versitygw"
    if not binary.is_file():
        raise FileNotFoundError(f"No versitygw at {binary}: `make servers` builds it")
    return binary


def free_port(address: str) -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_gateway(
    folder: Path,
    address: str = "127.0.0.1",
    port: int | None = None,
    prefix: Sequence[str] = (),
    *,
    keep_alive: bool = False,
) -> Iterator[Gateway]:
    """Start a server over `folder` and end it afterwards; `prefix` goes before its command line (a network namespace,
    where `port` has to be given because this process cannot probe it). `keep_alive`: connections serve more than one
    request, as those of real stores do, and as this server's do not by default."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = (f"bench{secrets.token_hex(8)}", secrets.token_hex(20))
    port = free_port(address) if port is None else port
    log = folder.with_name(folder.name + ".log")
    options = ["--quiet", "--keep-alive"] if keep_alive else ["--quiet"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*prefix, str(versitygw_binary()), *options, "--port", f"{address}:{port}", "posix", str(folder)],
            env={**os.environ, "ROOT_ACCESS_KEY": keys[0], "ROOT_SECRET_KEY": keys[1]},
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        _wait_until_listening(process, address, port, log)
        yield Gateway(folder, address, port, keys, process)
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_listening(process: subprocess.Popen[bytes], address: str, port: int, log: Path) -> None:
    """Wait until the process listens. Asking the kernel's table works from outside its network namespace too."""
    deadline_s = time.monotonic() + START_DEADLINE_S
    wanted = f"{int.from_bytes(socket.inet_aton(address), 'little'):08X}:{port:04X}"
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise RuntimeError(f"versitygw ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
        with contextlib.suppress(OSError):
            table = Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()
            if any(line.split()[1] == wanted and line.split()[3] == "0A" for line in table[1:]):
                return
        time.sleep(0.05)
    raise RuntimeError(f"versitygw does not listen on {address}:{port}: {log.read_text(errors='replace')[-2000:]}")
