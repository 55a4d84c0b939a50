"""A cursor over the head of a file which holds only a small window of it in memory."""

from __future__ import annotations

from skyhold.codec.formats.tensor import Malformed, Read

WINDOW_BYTES_MIN, WINDOW_BYTES_MAX = 4 << 10, 256 << 10
"""Small after a jump (over a tensor, to the next header), doubled while reading continues without one."""


class Window:
    """Reads forward through `[start, end)` of a file. Anything past the end, or past the limit, raises `Malformed`.

    `limit_bytes` bounds the bytes that are fetched with `take`; skipped bytes are not fetched.
    """

    def __init__(self, size_bytes: int, read: Read, *, limit_bytes: int) -> None:
        self.position = 0
        self.size_bytes = size_bytes
        self._read = read
        self._fetchable_bytes = limit_bytes
        self._data = b""
        self._data_start = 0
        self._window_bytes = WINDOW_BYTES_MIN

    @property
    def bytes_left(self) -> int:
        """Bytes between the cursor and the end of the file."""
        return self.size_bytes - self.position

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        offset = self.position - self._data_start
        if not 0 <= offset <= len(self._data) - length:
            self._fetch(length)
            offset = 0
        self.position += length
        return self._data[offset : offset + length]

    def skip(self, length: int) -> None:
        """Move the cursor without reading."""
        if not 0 <= length <= self.bytes_left:
            raise Malformed
        self.position += length

    def _fetch(self, length: int) -> None:
        goes_on = self.position <= self._data_start + len(self._data)
        self._window_bytes = min(2 * self._window_bytes, WINDOW_BYTES_MAX) if goes_on else WINDOW_BYTES_MIN
        wanted = min(max(length, self._window_bytes), self.bytes_left)
        if length > self.bytes_left or wanted > self._fetchable_bytes:
            raise Malformed
        self._fetchable_bytes -= wanted
        self._data, self._data_start = self._read(self.position, wanted), self.position
        if len(self._data) != wanted:
            raise Malformed
