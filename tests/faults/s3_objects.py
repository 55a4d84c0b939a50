"""The correct part of `faulty_s3`: the objects of some S3 buckets in memory, with every state that they had."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Stored:
    """One state of an object. `etag` is quoted, as S3 gives it."""

    body: bytes
    etag: str
    modified_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def of(cls, body: bytes) -> Stored:
        return cls(body, etag_of(body))


def etag_of(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


class Objects:
    """The objects of one bucket. Thread-safe; `lock` spans a condition and its put."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.by_key: dict[str, Stored] = {}
        self.history: dict[str, list[Stored]] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}

    def put(self, key: str, body: bytes) -> Stored:
        with self.lock:
            stored = self.by_key[key] = Stored.of(body)
            self.history.setdefault(key, []).append(stored)
            return stored

    def get(self, key: str) -> Stored | None:
        with self.lock:
            return self.by_key.get(key)

    def first(self, key: str) -> Stored | None:
        """The object as it was in the beginning."""
        with self.lock:
            return self.history[key][0] if key in self.history else None

    def delete(self, key: str) -> None:
        with self.lock:
            self.by_key.pop(key, None)

    def listed(self, prefix: str, after: str) -> Sequence[tuple[str, Stored]]:
        with self.lock:
            return sorted(item for item in self.by_key.items() if item[0].startswith(prefix) and item[0] > after)

    def fill(self, folder: Path, prefix: str = "") -> None:
        """Take in the objects of a folder bucket."""
        for path in sorted(folder.rglob("*")):
            key = path.relative_to(folder).as_posix()
            if path.is_file() and not key.startswith(".skyhold/"):
                self.put(prefix + key, path.read_bytes())
