"""An open source as a Python file, for libraries that want one."""

from __future__ import annotations

import io

from skyhold.storage.sources.port import OpenFile


class HolderFile(io.RawIOBase):
    """A file for reading and seeking. With a `budget_bytes`, a reader of headers that asks for more raises
    `BudgetSpent`: what they claim as their own length is not relied on."""

    def __init__(self, opened: OpenFile, size_bytes: int) -> None:
        self._opened, self._size_bytes, self._position = opened, size_bytes, 0
        self.budget_bytes: int | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        if origin + offset < 0:
            raise OSError("seek before the beginning")
        self._position = origin + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size_bytes - self._position)
        length = left if size is None or size < 0 else min(size, left)
        if self.budget_bytes is not None:
            if length > self.budget_bytes:
                raise BudgetSpent
            self.budget_bytes -= length
        buffer = bytearray(length)
        self._opened.read_into(memoryview(buffer), self._position)
        self._position += length
        return bytes(buffer)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class BudgetSpent(Exception):
    """Headers of an archive are longer than any that are meant."""
