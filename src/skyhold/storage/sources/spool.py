"""A temporary file without a name for what can be read only once, or only from its beginning."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable

from skyhold import error_codes
from skyhold.errors import QuotaExceeded, Unavailable
from skyhold.storage.sources.port import changed, filled


class Spool:
    """One temporary file; each `append` returns the range that it has got. An `OpenFile` that only we change."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self.size_bytes = 0

    def append(self, pieces: Iterable[bytes], what: str) -> tuple[int, int]:
        """Start and length of the pieces, in the file. Raises `QuotaExceeded` code `no_space`, which names `what`, and
        what `pieces` raises."""
        start = self.size_bytes
        for piece in pieces:
            try:
                self._file.write(piece)
                self._file.flush()
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                    raise QuotaExceeded(
                        f"{what} does not fit into the temporary folder {tempfile.gettempdir()}; nothing was changed",
                        code=error_codes.NO_SPACE,
                        hint="Free space there, or set TMPDIR to a folder that has more",
                    ) from error
                raise Unavailable(
                    f"{what} cannot be written to the temporary folder {tempfile.gettempdir()}: {error.strerror}",
                    code=error_codes.TEMPORARY_FOLDER,
                ) from error
            self.size_bytes += len(piece)
        return start, self.size_bytes - start

    def read_into(self, view: memoryview, start: int) -> None:
        if not filled(view, start, self._read_at):
            raise changed("", "in the temporary folder", "became shorter")

    def check_unchanged(self) -> None:
        """Nothing: the file has no name."""

    def close(self) -> None:
        self._file.close()

    def _read_at(self, view: memoryview, start: int) -> int:
        try:
            return os.preadv(self._file.fileno(), [view], start)
        except OSError as error:
            raise Unavailable(
                f"The temporary folder cannot be read: {error.strerror}", code=error_codes.TEMPORARY_FOLDER
            ) from error
