"""A store that is open: what it is, and how it is closed."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Self

from skyhold.registry import validate
from skyhold.store.configuration import Configuration
from skyhold.store.connection import Connection
from skyhold.store.event import Origin
from skyhold.store.unreadable_repositories import UnreadableRepository

if TYPE_CHECKING:
    from skyhold.store.engine_status import StaleRead


class OpenedStore:
    """See the module."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, buckets={self.bucket_names!r})"

    def close(self) -> None:
        """Release connections and local files."""
        self._connection.close()

    @property
    def id(self) -> str:
        return self._connection.document.store

    @property
    def sealed(self) -> bool:
        return self._connection.document.sealed

    @property
    def engine(self) -> str:
        """Where the registers live: `sqlite` (one machine), `buckets` or `etcd`."""
        return self._connection.document.engine.kind

    @property
    def unread(self) -> tuple[UnreadableRepository, ...]:
        """The repositories that the last look at all of them (`repositories`, `search`, `status`, `verify`, `sync`,
        `repair`) could not read and left out: the register of each is damaged, or a part of its map."""
        return self._connection.unread

    @property
    def configuration(self) -> Configuration:
        return self._connection.configuration

    @property
    def bucket_names(self) -> list[str]:
        return [location.name for location in self.configuration.locations]

    @property
    def stale(self) -> list[StaleRead]:
        """The reads of this store that may be stale (see `open`), of each register the last."""
        from skyhold.store.engine_status import StaleRead

        return [StaleRead.of(key, known) for key, known in sorted(self._connection.stale.items())]

    def _origin(self, author: str | None, reason: str) -> Origin:
        """The origin of a change of several registers, whose events belong together."""
        by = None if author is None else validate.text(author, "the author")
        return self._connection.origin(by, validate.text(reason, "the reason", long=True), secrets.token_hex(16))
