"""Objects as files of a folder: on this machine, on a mounted disk, or on a network file system with working locks.

An object's file has the object's key as its path, so a folder may be copied to a cloud bucket, or back, by any tool.
Our own files are in `.skyhold/`: `bucket.json`, which marks the folder as a bucket — without it the folder is *gone* (a
disk that is not mounted must not look like an empty bucket) —, `incoming/` for files being written, and `locks/`.

No symbolic link in the folder is followed, and a folder that its group may write is shared by that group
(`folder_tree`). Writes are atomic and durable: a file in `incoming/`, fsync, compare what the disk gives back, rename,
fsync of the folders. Conditional puts, puts and deletes of one key exclude each other between processes by `flock` on
one of 64 lock files. The tag is a hash of the content: inode and times do not do, because two writes within one tick
of the clock can reuse an inode.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from blake3 import blake3

from skyhold import error_codes
from skyhold.buckets.bounded import check_size
from skyhold.buckets.bucket import (
    OBJECT_BYTES_MAX,
    TAGGED_BYTES_MAX,
    WRITE_IF_DEADLINE_S,
    Bucket,
    ObjectInfo,
    Tagged,
    check_key,
    check_range,
)
from skyhold.buckets.folder_drafts import INCOMING, Drafts
from skyhold.buckets.folder_errors import (
    bucket_gone,
    key_is_folder,
    object_missing,
    translated,
)
from skyhold.buckets.folder_listing import Walk, stamp_of
from skyhold.buckets.folder_making import LOCK_FILES, LOCKS, MARKER, OWN_FOLDER
from skyhold.buckets.folder_tree import Tree, is_shared, share
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.retry import DEFAULT_POLICY, RetryPolicy
from skyhold.buckets.rules import BucketRules, no_rules
from skyhold.errors import Conflict, NotFound, OutcomeUnknown, PermissionDenied, Unavailable
from skyhold.units import Buffer


class FolderBucket(Bucket):
    """See the module. Raises `NotFound` code `bucket_not_found` while the marker is not there."""

    def __init__(self, location: BucketLocation, policy: RetryPolicy = DEFAULT_POLICY) -> None:
        self.name, self.url = location.name, location.url
        self._root = location.path
        self._tree = Tree(self._root, self.name)
        self._lock_s = policy.total_s
        self._drafts = Drafts(self.name)

    def read(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        with self._opened(key) as file:
            return self._read_range(key, file, start, self._end(key, file, start, length))

    def read_stream(
        self, key: str, start: int = 0, length: int | None = None, part_bytes: int = 4 << 20
    ) -> Iterator[Buffer]:
        with self._opened(key) as file:
            end = self._end(key, file, start, length)
            for offset in range(start, end, part_bytes):
                yield self._read_range(key, file, offset, min(end, offset + part_bytes))

    def read_tagged(self, key: str, *, unless_tag: str | None = None) -> Tagged | None:
        with self._opened(key) as file:
            size_bytes = os.fstat(file).st_size
            check_size(self.name, key, size_bytes, TAGGED_BYTES_MAX)
            body = self._read_range(key, file, 0, size_bytes)
        tag = _tag(body)
        return None if tag == unless_tag else Tagged(body, tag)

    def write(self, key: str, body: Buffer, *, md5: Callable[[], bytes] | None = None) -> str:  # noqa: ARG002 - bytes are compared
        check_key(key)
        with self._drafted(key, body, self._lock_s) as draft:
            return draft.publish()

    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        check_key(key)
        with self._drafted(key, body, deadline_s) as draft:
            if self._found_tag(key) != expected_tag:
                raise Conflict(
                    f"Object `{key}` in bucket `{self.name}` is not what was expected", bucket=self.name, key=key
                )
            draft.publish()
        return _tag(body)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        with translated(self.name, prefix):
            self._check_there()
            for key, status in Walk(self.name, prefix, after).below(self._root):
                yield ObjectInfo(key, status.st_size, "", _time(status), stamp_of(status))

    def delete(self, key: str) -> None:
        *folders, name = check_key(key).split("/")
        with self._writing(folders, key):
            self._check_there()
            try:
                with self._locked(key, self._lock_s), self._tree.folder(folders) as folder:
                    os.unlink(name, dir_fd=folder)
                    os.fsync(folder)
            except (FileNotFoundError, NotADirectoryError):
                return

    def rules(self) -> BucketRules:
        return no_rules("A folder has none")

    def _check_there(self) -> None:
        try:
            (self._root / OWN_FOLDER / MARKER).stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise bucket_gone(self.name, self._root) from error

    @contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        """The descriptor of an object's file. What is neither a file nor a link is no object, as in a listing."""
        *folders, name = check_key(key).split("/")
        with translated(self.name, key):
            try:
                with self._tree.folder(folders) as folder:
                    file = self._tree.open(name, os.O_RDONLY, folder)
            except (FileNotFoundError, NotADirectoryError) as error:
                self._check_there()
                raise object_missing(self.name, key) from error
            try:
                self._check_there()
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise object_missing(self.name, key)
                yield file
            finally:
                os.close(file)

    def _end(self, key: str, file: int, start: int, length: int | None) -> int:
        """Where a range of an object ends; all of one may be no longer than an object can be."""
        end = check_range(key, os.fstat(file).st_size, start, length)
        if length is None:
            check_size(self.name, key, end - start, OBJECT_BYTES_MAX)
        return end

    def _read_range(self, key: str, file: int, start: int, end: int) -> Buffer:
        body = bytearray(end - start)
        view, filled = memoryview(body), 0
        while filled < len(body):
            with translated(self.name, key):
                count = os.preadv(file, [view[filled:]], start + filled)
            if count == 0:
                raise Unavailable(
                    f"Object `{key}` in bucket `{self.name}` became shorter while it was read",
                    code=error_codes.TRUNCATED_REPLY,
                    hint="Try again: another process is replacing it",
                    bucket=self.name,
                    key=key,
                )
            filled += count
        return body

    def _found_tag(self, key: str) -> str | None:
        try:
            tagged = self.read_tagged(key)
        except NotFound as error:
            if error.code != error_codes.OBJECT_NOT_FOUND:
                raise
            return None
        return tagged.tag if tagged else None

    @contextmanager
    def _drafted(self, key: str, body: Buffer, deadline_s: float) -> Iterator[_Draft]:
        """The body as a draft, while other writers of this key are excluded."""
        with self._writing(key.split("/")[:-1], key):
            self._check_there()
            with (
                self._tree.folder([]) as root,
                self._tree.folder([OWN_FOLDER, INCOMING]) as incoming,
                self._drafts.of(body, incoming, shared=is_shared(root)) as name,
                self._locked(key, deadline_s),
            ):
                yield _Draft(name, incoming, key, self._tree, self.name)

    @contextmanager
    def _writing(self, folders: Sequence[str], key: str) -> Iterator[None]:
        """Translate the errors of a write; where access is denied, name the folder that denies it."""
        try:
            with translated(self.name, key):
                yield
        except PermissionDenied as error:
            if error.code != error_codes.PERMISSION_DENIED:
                raise
            own = self._tree.explain([OWN_FOLDER, INCOMING], error)
            raise (self._tree.explain(folders, error) if own is error else own) from error

    @contextmanager
    def _locked(self, key: str, deadline_s: float) -> Iterator[None]:
        """Exclude other writers of this key, in this and other processes; nothing has been changed when it fails."""
        file = self._lock_file(f"{zlib.crc32(key.encode()) % LOCK_FILES:02x}")
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
                            code=error_codes.LOCK_TIMEOUT,
                            bucket=self.name,
                            key=key,
                        ) from error
                    time.sleep(pause_s)
                    pause_s = min(0.02, pause_s * 2)
            yield
        finally:
            os.close(file)

    def _lock_file(self, name: str) -> int:
        """The descriptor of a lock, made where it is missing. To read it is enough, also another user's."""
        with self._tree.folder([]) as root, self._tree.folder([OWN_FOLDER, LOCKS]) as locks:
            try:
                return self._tree.open(name, os.O_RDONLY, locks)
            except FileNotFoundError:
                file = self._tree.open(name, os.O_RDONLY | os.O_CREAT, locks)
                if is_shared(root):
                    share(file)
                return file


@dataclass(frozen=True, slots=True)
class _Draft:
    """A durable file of the open folder `incoming` that may become the object `key`."""

    name: str
    incoming: int
    key: str
    tree: Tree
    bucket: str

    def publish(self) -> str:
        """Make the draft the object, in the place of what is there; a link there is replaced, not followed. Returns its
        stamp: under the lock no other process has replaced it yet."""
        *folders, name = self.key.split("/")
        try:
            with self.tree.folder(folders, make=True) as folder:
                os.rename(self.name, name, src_dir_fd=self.incoming, dst_dir_fd=folder)
                self._sync(folder)
                return stamp_of(os.stat(name, dir_fd=folder, follow_symlinks=False))
        except (NotADirectoryError, IsADirectoryError) as error:
            raise key_is_folder(self.bucket, self.key) from error

    def _sync(self, folder: int) -> None:
        try:
            os.fsync(folder)
        except OSError as error:
            raise OutcomeUnknown(
                f"Object `{self.key}` was put into bucket `{self.bucket}`, but the disk did not confirm that it will "
                "stay",
                code=error_codes.NOT_DURABLE,
                hint="Check the disk, then write again",
                bucket=self.bucket,
                key=self.key,
            ) from error


def _tag(body: Buffer) -> str:
    return blake3(body).hexdigest(32)


def _time(status: os.stat_result) -> datetime:
    return datetime.fromtimestamp(status.st_mtime, UTC)
