"""Objects as files of a folder: on this machine, on a mounted disk, or on a network file system with working locks.

An object's file has the object's key as its path, so a folder may be copied to a cloud bucket, or back, by any tool.
Our own things lie in `.skyhold/`: `bucket.json`, which marks the folder as a bucket — without it the folder is *gone*
(a disk that is not mounted must not look like an empty bucket) —, `incoming/` for files being written, and `locks/`.

Writes are atomic and durable: a file in `incoming/`, fsync, compare what the disk gives back, rename, fsync of the
folders. Conditional puts, puts and deletes of one key exclude each other between processes by `flock` on one of 64
lock files. The tag is a hash of the content: inode and times do not do, because two writes within one tick of the
clock can reuse an inode.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from blake3 import blake3

from skyhold.buckets.bucket import (
    WRITE_IF_DEADLINE_S,
    Bucket,
    Capabilities,
    ObjectInfo,
    Tagged,
    check_key,
    check_range,
)
from skyhold.buckets.folder_drafts import INCOMING, Drafts, sync
from skyhold.buckets.folder_errors import (
    bucket_gone,
    folder_not_made,
    key_is_folder,
    not_a_folder,
    object_missing,
    translated,
)
from skyhold.buckets.folder_listing import stamp_of, walk
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.retry import RetryPolicy, retrying
from skyhold.buckets.rules import BucketRules, no_rules
from skyhold.errors import Conflict, Corrupt, InvalidInput, NotFound, OutcomeUnknown, Unavailable
from skyhold.units import Buffer

OWN_FOLDER: Final = ".skyhold"
MARKER: Final = "bucket.json"
LOCKS: Final = 64


def create_folder_bucket(path: Path) -> None:
    """Make `path` a bucket, with its parents; a folder that is one already is left as it is.

    Raises `InvalidInput` code `folder_not_empty` where other files are, which might be taken for objects, or
    `not_a_folder`; `PermissionDenied` code `folder_not_made`.
    """
    with translated(path.name, str(path)):
        _make_folder(path)
        own = path / OWN_FOLDER
        if (own / MARKER).exists():
            return
        _refuse_files(path)
        for folder in (own, own / INCOMING, own / "locks"):
            folder.mkdir(exist_ok=True)
        draft = own / f"{MARKER}.{secrets.token_hex(8)}"
        draft.write_text(json.dumps({"format": 1, "kind": "skyhold folder bucket"}) + "\n")
        sync(draft)
        draft.rename(own / MARKER)
        for folder in (own, path, path.parent):
            sync(folder)


def would_create_folder_bucket(path: Path) -> bool:
    """Whether `create_folder_bucket` would make `path` a bucket, or it is one. Changes nothing, and raises as that
    does, as far as can be foreseen."""
    with translated(path.name, str(path)):
        if (path / OWN_FOLDER / MARKER).exists():
            return False
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        if not there.is_dir():
            raise not_a_folder(there)
        if there == path:
            _refuse_files(path)
        if not os.access(there, os.W_OK | os.X_OK):
            raise folder_not_made(path, f"{there} does not let us in")
        return True


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise not_a_folder(next(folder for folder in (path, *path.parents) if folder.exists())) from error
    except FileNotFoundError as error:  # a file system such as /proc, where nobody makes folders
        raise folder_not_made(path, "its file system takes no new folders") from error


def _refuse_files(path: Path) -> None:
    if any(entry.name != OWN_FOLDER for entry in os.scandir(path)):
        raise InvalidInput(
            f"Folder {path} holds files and is not a bucket",
            code="folder_not_empty",
            hint="Name an empty or new folder",
        )


class FolderBucket(Bucket):
    """See the module. Raises `NotFound` code `bucket_not_found` while the marker is not there."""

    capabilities = Capabilities()

    def __init__(self, location: BucketLocation, policy: RetryPolicy | None = None) -> None:
        self.name, self.url = location.name, location.url
        self._root = location.path
        self._own = self._root / OWN_FOLDER
        self._policy = policy or RetryPolicy()
        self._drafts = Drafts(self._own / INCOMING, self.name)

    def read(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        with self._opened(key) as file:
            end = check_range(key, os.fstat(file).st_size, start, length)
            return self._read_range(key, file, start, end)

    def read_stream(
        self, key: str, start: int = 0, length: int | None = None, part_bytes: int = 4 << 20
    ) -> Iterator[Buffer]:
        with self._opened(key) as file:
            end = check_range(key, os.fstat(file).st_size, start, length)
            for offset in range(start, end, part_bytes):
                yield self._read_range(key, file, offset, min(end, offset + part_bytes))

    def read_tagged(self, key: str, *, unless_tag: str | None = None) -> Tagged | None:
        body = self.read(key)
        tag = _tag(body)
        return None if tag == unless_tag else Tagged(body, tag)

    def write(self, key: str, body: Buffer, *, md5: bytes | None = None) -> str:  # noqa: ARG002 - bytes are compared
        path = self._path(key)

        def attempt() -> str:
            with self._drafted(key, body, self._policy.total_s) as draft:
                self._publish(draft, path, key)
                with translated(self.name, key):
                    return stamp_of(path.stat(follow_symlinks=False))  # under the lock: nobody has replaced it yet

        return retrying(self._policy, attempt)

    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        path = self._path(key)
        with self._drafted(key, body, deadline_s) as draft:
            try:
                found: str | None = _tag(self.read(key))
            except NotFound as error:
                if error.code != "object_not_found":
                    raise
                found = None
            if found != expected_tag:
                raise Conflict(
                    f"Object `{key}` in bucket `{self.name}` is not what was expected", bucket=self.name, key=key
                )
            self._publish(draft, path, key)
        return _tag(body)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        with translated(self.name, prefix):
            self._check_there()
            for key, status in walk(self._root, prefix, after):
                if key.split("/", 1)[0] != OWN_FOLDER:
                    yield ObjectInfo(key, status.st_size, "", _time(status), stamp_of(status))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with translated(self.name, key):
            self._check_there()
            with self._locked(key, self._policy.total_s), suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
                sync(path.parent)

    def rules(self) -> BucketRules:
        return no_rules("A folder has none")

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _check_there(self) -> None:
        try:
            (self._own / MARKER).stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise bucket_gone(self.name, self._root) from error

    @contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        path = self._path(key)
        with translated(self.name, key):
            try:
                file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            except (FileNotFoundError, NotADirectoryError) as error:
                self._check_there()
                raise object_missing(self.name, key) from error
            try:
                self._check_there()
                if path.is_dir():
                    raise object_missing(self.name, key)
                yield file
            finally:
                os.close(file)

    def _read_range(self, key: str, file: int, start: int, end: int) -> Buffer:
        body = bytearray(end - start)
        view, filled = memoryview(body), 0
        while filled < len(body):
            with translated(self.name, key):
                count = os.preadv(file, [view[filled:]], start + filled)
            if count == 0:
                raise Corrupt(
                    f"Object `{key}` in bucket `{self.name}` became shorter while it was read",
                    code="truncated_reply",
                    bucket=self.name,
                    key=key,
                )
            filled += count
        return body

    @contextmanager
    def _drafted(self, key: str, body: Buffer, deadline_s: float) -> Iterator[Path]:
        """The body as a draft, while other writers of this key are excluded."""
        with translated(self.name, key):
            self._check_there()
            with self._drafts.of(body) as draft, self._locked(key, deadline_s):
                yield draft

    def _publish(self, draft: Path, path: Path, key: str) -> None:
        """Make the draft the object. Folders are made below the root only: `mkdir(parents=True)` would quietly put a
        vanished root back."""
        made: list[Path] = []
        folder = self._root
        for part in key.split("/")[:-1]:
            folder = folder / part
            try:
                folder.mkdir()
                made.append(folder)
            except FileExistsError as error:
                if not folder.is_dir():
                    raise key_is_folder(self.name, key) from error
        if path.is_dir():
            raise key_is_folder(self.name, key)
        draft.rename(path)
        try:
            for folder in {path.parent, *(made_folder.parent for made_folder in made)}:
                sync(folder)
        except OSError as error:
            raise OutcomeUnknown(
                f"Object `{key}` was put into bucket `{self.name}`, but the disk did not confirm that it will stay",
                code="not_durable",
                hint="Check the disk, then write again",
                bucket=self.name,
                key=key,
            ) from error

    @contextmanager
    def _locked(self, key: str, deadline_s: float) -> Iterator[None]:
        """Exclude other writers of this key, in this and other processes; nothing has been changed when it fails."""
        shard = self._own / "locks" / f"{zlib.crc32(key.encode()) % LOCKS:02x}"
        file = os.open(shard, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            give_up_s, pause_s = time.monotonic() + deadline_s, 0.001
            while True:  # bounded by the deadline
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() + pause_s > give_up_s:
                        raise Unavailable(
                            f"Another process kept the lock of `{key}` in bucket `{self.name}` past the deadline",
                            code="lock_timeout",
                            bucket=self.name,
                            key=key,
                        ) from error
                    time.sleep(pause_s)
                    pause_s = min(0.02, pause_s * 2)
            yield
        finally:
            os.close(file)


def _tag(body: Buffer) -> str:
    return blake3(body).hexdigest(32)


def _time(status: os.stat_result) -> datetime:
    return datetime.fromtimestamp(status.st_mtime, UTC)
