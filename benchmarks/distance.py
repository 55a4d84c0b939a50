"""Distance on loopback: a TCP proxy in a process of its own that holds every byte back as a far server would.

    python benchmarks/distance.py LISTEN:TARGET:ROUND_TRIP_MS …

Half a round trip passes before bytes arrive, in either direction, and bandwidth is not limited. A new connection costs
a round trip before its first byte leaves, as TCP's handshake does. The process ends when its standard input does, so
that it never outlives who started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway import free_port

READ_BYTES = 1 << 16
START_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Path:
    """From `listen` (a port on loopback) to `target` (another), `round_trip_ms` apart."""

    listen: int
    target: int
    round_trip_ms: float


@contextlib.contextmanager
def running_paths(paths: Sequence[Path]) -> Iterator[None]:
    """Run a proxy for all `paths` in one process, and end it afterwards."""
    arguments = [f"{path.listen}:{path.target}:{path.round_trip_ms}" for path in paths]
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdin=subprocess.PIPE)
    try:
        for path in paths:
            _wait_until_listening(path.listen)
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def far(targets: Sequence[int], round_trips_ms: Sequence[float]) -> Iterator[list[int]]:
    """Ports at which these servers are `round_trips_ms` away."""
    paths = [
        Path(free_port("127.0.0.1"), target, far_ms) for target, far_ms in zip(targets, round_trips_ms, strict=True)
    ]
    with running_paths(paths):
        yield [path.listen for path in paths]


def _wait_until_listening(port: int) -> None:
    deadline_s = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"the proxy does not listen on port {port}")


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float, not_before_s: float
) -> None:
    """Carry bytes in one direction until it ends. `not_before_s` is when the first may leave."""
    loop = asyncio.get_running_loop()

    def deliver(part: bytes) -> None:
        if writer.is_closing():
            return
        if part:
            writer.write(part)
        else:
            with contextlib.suppress(OSError, RuntimeError):
                writer.write_eof()

    part, last_s = b"-", 0.0
    while part:
        try:
            part = await reader.read(READ_BYTES)
        except OSError:
            part = b""
        # Timers of equal times fire in any order, and bytes have to keep theirs.
        last_s = max(max(loop.time(), not_before_s) + delay_s, last_s + 1e-6)
        loop.call_at(last_s, deliver, part)
    await asyncio.sleep(delay_s)


async def _serve(path: Path) -> asyncio.Server:
    one_way_s = path.round_trip_ms / 2000
    serving: set[asyncio.Task[None] | None] = set()  # the loop itself holds tasks weakly

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted_s = asyncio.get_running_loop().time()
        serving.add(asyncio.current_task())
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", path.target)
        except OSError:
            await asyncio.sleep(2 * one_way_s)
            writer.close()
            serving.discard(asyncio.current_task())
            return
        try:
            await asyncio.gather(
                _carry(reader, far_writer, one_way_s, accepted_s + 2 * one_way_s),
                _carry(far_reader, writer, one_way_s, 0.0),
            )
        finally:
            far_writer.close()
            writer.close()
            serving.discard(asyncio.current_task())

    return await asyncio.start_server(connected, "127.0.0.1", path.listen)


async def _main(paths: Sequence[Path]) -> None:
    servers = [await _serve(path) for path in paths]
    await asyncio.to_thread(sys.stdin.read)
    del servers
    os._exit(0)  # without waiting for what is on its way: no client is left


def main(arguments: Sequence[str]) -> None:
    """Serve until standard input ends."""
    paths = []
    for argument in arguments:
        listen, target, round_trip_ms = argument.split(":")
        paths.append(Path(int(listen), int(target), float(round_trip_ms)))
    # `select` waits for microseconds; the default, epoll, for whole milliseconds.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(_main(paths))


if __name__ == "__main__":
    main(sys.argv[1:])
