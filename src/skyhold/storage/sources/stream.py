"""Bytes in memory and open binary files as sources. An open file is not trusted: it may return less than was requested,
have another size than it reports, or raise anything.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from skyhold import error_codes
from skyhold.errors import InvalidInput, SkyholdError, Unavailable
from skyhold.storage.sources.disk import RangeFile
from skyhold.storage.sources.port import OpenFile, SourceFile, changed, filled
from skyhold.storage.sources.spool import Spool
from skyhold.units import MIB, Buffer

STEP_BYTES: Final = MIB


class Stream(Protocol):
    """What is needed of an open binary file. If it is seekable it is read in place, else it is spooled."""

    def read(self, size: int, /) -> bytes: ...


class SeekableStream(Stream, Protocol):
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...


@dataclass(frozen=True, slots=True)
class BytesFile:
    """Bytes in memory, which stay unchanged until the push has ended."""

    path: str
    data: memoryview
    executable: bool = False

    @classmethod
    def of(cls, path: str, data: Buffer) -> BytesFile:
        view = memoryview(data)
        return cls(path, (view if view.c_contiguous else memoryview(view.tobytes())).cast("B"))

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def open(self) -> OpenFile:
        return _OpenBytes(self)


class _OpenBytes:
    def __init__(self, file: BytesFile) -> None:
        self._file = file

    def read_into(self, view: memoryview, start: int) -> None:
        view[:] = self._file.data[start : start + len(view)]

    def check_unchanged(self) -> None:
        """Nothing: the caller keeps the bytes as they are."""

    def close(self) -> None:
        """Nothing: they are the caller's."""


@dataclass(frozen=True, slots=True)
class StreamFile:
    """An open file that can be sought in, from its position to its end. It stays open, and is the caller's."""

    path: str
    size_bytes: int
    stream: SeekableStream
    start: int
    mark: tuple[int, ...]
    """Size, times and inode of the file of its descriptor; empty where it has none."""
    executable: bool = False

    def open(self) -> OpenFile:
        return _OpenStream(self)


class _OpenStream:
    def __init__(self, file: StreamFile) -> None:
        self._file = file

    def read_into(self, view: memoryview, start: int) -> None:
        if not filled(view, start, self._read_at):
            raise changed(self._file.path, self._file.path, "became shorter")

    def check_unchanged(self) -> None:
        file = self._file
        with _Translated(file.path):
            size_bytes = file.stream.seek(0, io.SEEK_END) - file.start
        if size_bytes != file.size_bytes or self._read_at(memoryview(bytearray(1)), size_bytes):
            raise changed(file.path, file.path)
        if _mark(file.stream) != file.mark:
            raise changed(file.path, file.path)

    def close(self) -> None:
        """Nothing: it is the caller's."""

    def _read_at(self, view: memoryview, start: int) -> int:
        with _Translated(self._file.path):
            self._file.stream.seek(self._file.start + start)
        data = read_some(self._file.stream, len(view), self._file.path)
        view[: len(data)] = data
        return len(data)


def stream_file(path: str, stream: Stream, spool: Spool) -> SourceFile:
    """The rest of an open file, under this path. Raises `InvalidInput` for one that was opened as text."""
    place = _place(stream, path)
    if place is None:
        start, length = spool.append(pieces_of(stream, path), f"File {path}")
        return RangeFile(path, length, False, spool, start)
    return StreamFile(path, place[1] - place[0], stream, place[0], _mark(stream))  # type: ignore[arg-type]


def pieces_of(stream: Stream, path: str) -> Iterator[bytes]:
    """What is left of a stream."""
    while piece := read_some(stream, STEP_BYTES, path):
        yield piece


def read_some(stream: Stream, length: int, path: str) -> bytes:
    """At most `length` bytes of a stream, none at its end. Raises `InvalidInput` and `Unavailable`."""
    with _Translated(path):
        data: object = stream.read(length)
    if data is None:
        raise Unavailable(
            f"File {path} cannot be read: it does not wait for what is to come (it is non-blocking)",
            code=error_codes.SOURCE_UNREADABLE,
        )
    if not isinstance(data, bytes | bytearray | memoryview) or len(data) > length:
        raise InvalidInput(
            f"Expected at most {length} bytes from file {path} but it returned "
            + (f"{len(data)}" if isinstance(data, bytes | bytearray | memoryview) else f"a {type(data).__name__}"),
            code=error_codes.INVALID_SOURCE,
            hint='Open it as binary, such as open(path, "rb")',
        )
    return bytes(data)


def _place(stream: Stream, path: str) -> tuple[int, int] | None:
    """The position of a stream and its end, or None where it cannot be sought in."""
    seekable = getattr(stream, "seekable", None)
    if isinstance(stream, io.TextIOBase):
        raise InvalidInput(
            f"File {path} is open as text",
            code=error_codes.INVALID_SOURCE,
            hint='Open it as binary, such as open(path, "rb")',
        )
    with _Translated(path):
        if seekable is None or not seekable():
            return None
        start, end = stream.tell(), stream.seek(0, io.SEEK_END)  # type: ignore[attr-defined]
        stream.seek(start)  # type: ignore[attr-defined]
    if type(start) is not int or type(end) is not int or not 0 <= start <= end:
        raise InvalidInput(f"File {path} reports position {start!r} and end {end!r}", code=error_codes.INVALID_SOURCE)
    return start, end


def _mark(stream: object) -> tuple[int, ...]:
    with suppress(Exception):
        status = os.fstat(stream.fileno())  # type: ignore[attr-defined]
        return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return ()


class _Translated:
    """Whatever an open file of the caller raises becomes `Unavailable`, which names it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, SkyholdError):
            raise Unavailable(
                f"File {self._path} cannot be read: {error}", code=error_codes.SOURCE_UNREADABLE
            ) from error
