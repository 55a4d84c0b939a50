"""Many calls at once, each of which waits for clouds most of its time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

CALLS_AT_ONCE: Final = 16


def at_once(call: Callable[[T], R], items: Iterable[T], name: str, *, calls: int = CALLS_AT_ONCE) -> list[R]:
    """What `call` gives of each item, in their order, at most so many `calls` at a time; the threads bear the `name`.
    Raises what the first of the items raises for which it fails; those that were not begun by then are left."""
    everything = list(items)
    with ThreadPoolExecutor(calls, thread_name_prefix=name) as threads:
        tasks = [threads.submit(call, item) for item in everything]
        try:
            return [task.result() for task in tasks]
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
