"""The progress of a long operation; the CLI draws it, a program may ignore it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of one long operation. Methods may be called from several threads and must be cheap."""

    def begin(self, phase: str, total_bytes: int | None) -> None:
        """A phase begins: `push`, `pull`, `verify`, `repair`, `sync` or `diff`; `total_bytes` of it where known."""

    def advance(self, done_bytes: int, *, stored_bytes: int = 0) -> None:
        """`done_bytes` more of the total are done, `stored_bytes` of them had to be stored or fetched."""

    def note(self, message: str) -> None:
        """A sentence for the user, such as that a bucket is lagging."""

    def end(self) -> None:
        """The phase is over, done or not."""


class Silence:
    """Progress that is discarded."""

    def begin(self, phase: str, total_bytes: int | None) -> None:
        pass

    def advance(self, done_bytes: int, *, stored_bytes: int = 0) -> None:
        pass

    def note(self, message: str) -> None:
        pass

    def end(self) -> None:
        pass
