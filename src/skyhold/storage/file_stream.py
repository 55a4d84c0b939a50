"""A file of a stored version as a Python file: only the parts that are read are fetched and checked."""

from __future__ import annotations

import io
from contextlib import ExitStack
from hashlib import sha256
from typing import Final

from skyhold import error_codes
from skyhold.errors import Corrupt
from skyhold.storage.version_files import StoredFile
from skyhold.units import KIB, MIB

READ_BYTES_MAX: Final = 8 * MIB
"""Of one read, however large the buffer is: a few chunks, which are in memory twice while they are decoded."""
BUFFER_BYTES: Final = 256 * KIB


class FileStream(io.RawIOBase):
    """A read-only file that can be sought in. `resources` end when it is closed."""

    def __init__(self, file: StoredFile, resources: ExitStack) -> None:
        self._file, self._resources, self._position = file, resources, 0
        self._digest, self._digested_bytes = sha256(), 0

    @property
    def name(self) -> str:
        """The path in the version."""
        return self._file.path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size_bytes}.get(whence)
        if origin is None or origin + offset < 0:
            raise ValueError(f"Expected a place in the file but got {offset} ({whence})")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self.closed:
            raise ValueError("I/O operation on closed file")
        length = max(0, min(len(buffer), READ_BYTES_MAX, self._file.size_bytes - self._position))
        buffer[:length] = self._file.read(min(self._position, self._file.size_bytes), length)
        if self._position == self._digested_bytes and length:
            self._check(buffer[:length])
        self._position += length
        return length

    def _check(self, data: memoryview) -> None:
        """Check the file as a whole, once all of it was read in order."""
        self._digest.update(data)
        self._digested_bytes += len(data)
        if self._digested_bytes == self._file.size_bytes and self._digest.hexdigest() != self._file.sha256:
            raise Corrupt(
                f"File {self._file.path} is not the one that was pushed: its SHA-256 differs",
                code=error_codes.FILE_DAMAGED,
                hint="Run `skyhold verify --deep`",
                path=self._file.path,
            )

    def readall(self) -> bytes:
        pieces = iter(lambda: self.read(READ_BYTES_MAX), b"")
        return b"".join(piece for piece in pieces if piece)

    def close(self) -> None:
        if not self.closed:
            self._resources.close()
        super().close()


def open_stream(file: StoredFile, resources: ExitStack) -> io.BufferedReader:
    """The file, buffered. `resources` end when it is closed."""
    return io.BufferedReader(FileStream(file, resources), BUFFER_BYTES)
