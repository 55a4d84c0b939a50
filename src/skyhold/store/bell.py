"""The bell: an object in a bucket that names the registers that changed last, so that a process need not poll each.

It is a hint: no guarantee depends on it. A process that waits for changes asks one bucket whether the bell rang, and
reads the registers that it names from a majority; it also reads every register once in a while, whatever the bell
contains. A forged bell costs requests: as many as without a bell.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from skyhold import error_codes
from skyhold.buckets.bucket import Bucket
from skyhold.codec.frame import HEADER_BYTES, FrameKeys, Kind, begins_frame, decode_frame, encode_frame
from skyhold.consensus.migration import CONFIG
from skyhold.consensus.register import check_register_key
from skyhold.errors import Conflict, Corrupt, InvalidInput, NotFound, PermissionDenied, SkyholdError
from skyhold.storage.canonical import canonical, decode, is_counter

BELL: Final = "bell"
RINGS_MAX: Final = 64
ATTEMPTS: Final = 3
RING_INTERVAL_S: Final = 1.0
"""The least time between two rings of one process: some clouds accept one write of an object per second."""
RING_S_MAX: Final = 2.0
"""The longest time that a caller waits for a ring."""

Rings = dict[str, int]
"""Versions by the key of the register, the newest ring last."""


def encode_bell(rings: Mapping[str, int], store_id: str, keys: FrameKeys) -> bytes:
    """The object for the last `RINGS_MAX` of these rings."""
    last = list(rings.items())[-RINGS_MAX:]
    body = canonical({"bell": 1, "rings": [[key, version] for key, version in last]})
    return encode_frame(Kind.BELL, body, context=_context(store_id), keys=keys)


def decode_bell(stored: bytes | bytearray | memoryview, store_id: str, keys: FrameKeys) -> Rings:
    """The rings in an object. Raises `Corrupt`."""
    value = decode(decode_frame(stored, kind=Kind.BELL, context=_context(store_id), keys=keys), BELL)
    rings = value.get("rings")
    if value.get("bell") != 1 or not isinstance(rings, list) or len(rings) > RINGS_MAX:
        raise Corrupt("The bell is malformed", code=error_codes.DOCUMENT_MALFORMED)
    found: Rings = {}
    for ring in rings:
        if not (isinstance(ring, list) and len(ring) == 2 and isinstance(ring[0], str) and is_counter(ring[1])):
            raise Corrupt("The bell is malformed: one of its rings is not a ring", code=error_codes.DOCUMENT_MALFORMED)
        try:
            found[check_register_key(ring[0])] = ring[1]
        except InvalidInput as error:
            raise Corrupt(f"The bell is malformed: {error.message}", code=error_codes.DOCUMENT_MALFORMED) from error
    return found


def holds_bell(bucket: Bucket) -> bool:
    """Whether the object `bell` of a bucket is that of a store, whichever it is, and not a file of its user; True also
    where it has just gone. Raises what the bucket raises."""
    try:
        header = bucket.read(BELL, 0, HEADER_BYTES)
    except InvalidInput:  # it is shorter
        return False
    except NotFound as error:
        if error.code != error_codes.OBJECT_NOT_FOUND:
            raise
        return True
    return begins_frame(header, Kind.BELL)


class Bell:
    """Rings and listens in the buckets that `buckets` gives. Thread-safe. `check_writable` raises where this program
    must not make a bell."""

    def __init__(
        self,
        store_id: str,
        keys: FrameKeys,
        buckets: Callable[[], Mapping[str, Bucket]],
        check_writable: Callable[[], None],
    ) -> None:
        self._store_id = store_id
        self._keys = keys
        self._buckets = buckets
        self._check_writable = check_writable
        self._lock = threading.Lock()
        self._pending: Rings = {}
        self._thread: threading.Thread | None = None
        self._ringing: set[str] = set()
        self._closing = threading.Event()
        self._rang_s = -RING_INTERVAL_S
        self._tags: dict[str, str] = {}
        self._heard: Rings = {}
        self._listening: str | None = None

    # ---- ringing

    def ring(self, key: str, version: int) -> None:
        """Announce that a register has this version now; returns at once. Nothing is written where no process has ever
        listened, or where the buckets do not answer."""
        with self._lock:
            self._pending.pop(key, None)
            self._pending[key] = version
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._ring_pending, name=BELL, daemon=True)
                self._thread.start()

    def ring_now(self, rings: Rings, buckets: Mapping[str, Bucket]) -> None:
        """As `ring`, in these buckets, and done when this returns, which is after `RING_S_MAX` at the latest. A bucket
        that has not answered the ring before is left out: the bell is only a hint, and no process may hang for it."""
        with self._lock:
            names = buckets.keys() - self._ringing
            self._ringing |= names
        threads = [
            threading.Thread(target=self._ring_in, args=(rings, name, buckets[name]), name=BELL, daemon=True)
            for name in names
        ]
        for thread in threads:
            thread.start()
        deadline_s = time.monotonic() + RING_S_MAX
        for thread in threads:
            thread.join(max(deadline_s - time.monotonic(), 0))

    def close(self) -> None:
        """Wait a short while for the last rings."""
        self._closing.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(RING_S_MAX)

    def _ring_pending(self) -> None:
        while True:
            with self._lock:
                if not self._pending:
                    self._thread = None
                    return
            # Changes in the meantime are announced together.
            self._closing.wait(max(self._rang_s + RING_INTERVAL_S - time.monotonic(), 0))
            with self._lock:
                rings, self._pending = self._pending, {}
                self._rang_s = time.monotonic()
            with suppress(SkyholdError):
                self.ring_now(rings, self._buckets())

    def _ring_in(self, rings: Rings, name: str, bucket: Bucket) -> None:
        try:
            self._add(rings, bucket)
        finally:
            with self._lock:
                self._ringing.discard(name)

    def _add(self, rings: Rings, bucket: Bucket) -> None:
        for _ in range(ATTEMPTS):
            try:
                tagged = bucket.read_tagged(BELL)
            except SkyholdError:  # no process has ever listened, or the bucket does not answer
                return
            if tagged is None:
                return
            try:
                known = decode_bell(tagged.body, self._store_id, self._keys)
            except (Corrupt, PermissionDenied):
                known = {}
            for key, version in rings.items():
                known[key] = max(version, known.pop(key, 0))
            body = encode_bell(known, self._store_id, self._keys)
            try:
                bucket.write_if(BELL, body, expected_tag=tagged.tag)
            except Conflict:
                continue  # another process rang
            except SkyholdError:
                pass  # the change is found later
            return

    # ---- listening

    def listen(self) -> Rings | None:
        """The registers that changed since the last call, by the bell of one bucket: at most one request while nothing
        changed. None where it is unknown what changed, so that all of them must be read."""
        try:
            buckets = self._in_order()
        except SkyholdError:
            return None
        for name, bucket in buckets:
            try:
                tagged = bucket.read_tagged(BELL, unless_tag=self._tags.get(name))
            except NotFound as error:
                if error.code != error_codes.OBJECT_NOT_FOUND or not self._create(bucket):
                    continue
                self._listening = name
                return None
            except SkyholdError:
                continue
            first, self._listening = name not in self._tags or name != self._listening, name
            if tagged is None:
                return {}
            self._tags[name] = tagged.tag
            try:
                rings = decode_bell(tagged.body, self._store_id, self._keys)
            except (Corrupt, PermissionDenied):
                return None
            news = {key: version for key, version in rings.items() if self._heard.get(key, 0) < version}
            missed = len(news) == RINGS_MAX
            self._heard |= rings
            # When the store has moved, this bucket may have left it, and its bell rings no more.
            return None if first or missed or CONFIG in news else news
        return None

    def _in_order(self) -> list[tuple[str, Bucket]]:
        buckets = self._buckets()
        return sorted(buckets.items(), key=lambda item: item[0] != self._listening)

    def _create(self, bucket: Bucket) -> bool:
        """Create the bell in a bucket without one: from then on other processes ring it."""
        with suppress(SkyholdError):
            self._check_writable()
            body = encode_bell({}, self._store_id, self._keys)
            bucket.write_if(BELL, body, expected_tag=None)
            return True
        return False


def _context(store_id: str) -> str:
    return f"bell/{store_id}"
