"""Bodies of blobs that were read or written recently, in memory. A blob name is immutable, so an entry never becomes
stale. Maintenance, which checks what a bucket contains now, has a cache of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Final

from skyhold.units import KIB, MIB

BODY_BYTES_MAX: Final = 256 * KIB
"""Longer bodies, such as documents of versions with very many files, are not kept."""
CACHE_BYTES_MAX: Final = 32 * MIB


class BodyCache:
    """Thread-safe. It holds at most `CACHE_BYTES_MAX` bytes of bodies, those that were used last."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[str, bytes] = OrderedDict()
        self._size_bytes = 0
        self._reading: dict[str, Future[bytes]] = {}
        self._lock = Lock()

    def get(self, key: str, fetch: Callable[[], bytes]) -> bytes:
        """The body of a key; on a miss `fetch` returns it. If several threads miss at once, one fetches and the others
        wait. Raises what `fetch` raises."""
        with self._lock:
            if key in self._bodies:
                self._bodies.move_to_end(key)
                return self._bodies[key]
            reading = self._reading.get(key)
            first = reading is None
            if reading is None:
                reading = self._reading[key] = Future()
        if first:
            try:
                body = fetch()
                self.put(key, body)
                reading.set_result(body)
            except BaseException as error:  # noqa: BLE001 - `result` raises it
                reading.set_exception(error)
            finally:
                with self._lock:
                    del self._reading[key]
        return reading.result()

    def put(self, key: str, body: bytes) -> None:
        if len(body) > BODY_BYTES_MAX:
            return
        with self._lock:
            self._size_bytes += len(body) - len(self._bodies.pop(key, b""))
            self._bodies[key] = body
            while self._size_bytes > CACHE_BYTES_MAX:
                self._size_bytes -= len(self._bodies.popitem(last=False)[1])
