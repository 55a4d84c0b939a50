"""A listing that a store gives in pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from skyhold.buckets.bounded import Pages
from skyhold.buckets.bucket import ObjectInfo
from skyhold.buckets.retry import RetryPolicy


@dataclass(frozen=True, slots=True)
class Page:
    """Some objects, and what the next page is asked for by, empty at the end."""

    found: Sequence[ObjectInfo]
    token: str


class Listing(Iterator[ObjectInfo]):
    """The objects of all pages that sort after `after`, each page by one request: `fetch(token)` asks for one, and an
    empty token for the first."""

    def __init__(self, bucket: str, policy: RetryPolicy, fetch: Callable[[str], Page], after: str) -> None:
        self._bucket, self._policy, self._after = bucket, policy, after
        self._fetch: Final = fetch
        self._found = self.fetched_by(lambda ask: ask())

    def __next__(self) -> ObjectInfo:
        return next(self._found)

    def fetched_by(self, fetch: Callable[[Callable[[], Page]], Page]) -> Iterator[ObjectInfo]:
        """The objects, where `fetch` is given each request to make, as often as it takes. What it waits counts as time
        of the listing. Raises `Unavailable` code `bucket_misbehaves` as `Pages` does."""
        pages, token = Pages(self._bucket, self._policy), ""
        while True:  # bounded by `pages`, and by the check of what is listed
            page = pages.fetch(partial(fetch, partial(self._fetch, token)))
            yield from (info for info in page.found if info.key > self._after)
            if not page.token:
                return
            pages.turn(page.token, len(page.found))
            token = page.token
