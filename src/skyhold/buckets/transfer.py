"""Reading an object as it comes, by one request that can be followed by another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from skyhold.units import Buffer


class Transfer(Iterator[Buffer]):
    """The parts of an object, or of a range of it, by one request. `begin(done_bytes)` makes a request for what follows
    after so many bytes of it, of the same object as the request before: a driver knows it by its tag or generation.
    """

    def __init__(self, begin: Callable[[int], Iterator[Buffer]]) -> None:
        self.begin: Final = begin
        self._parts = begin(0)

    def __next__(self) -> Buffer:
        return next(self._parts)

    def close(self) -> None:
        end(self._parts)


def end(parts: Iterator[object]) -> None:
    """End a transfer now rather than when the collector finds it: a generator holds its connection until then."""
    close = getattr(parts, "close", None)
    if close is not None:
        close()
