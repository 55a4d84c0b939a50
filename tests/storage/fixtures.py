"""A store of memory buckets, assembled as the layers above do it, and buckets that fail on purpose."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import parse_location
from skyhold.buckets.memory import MemoryBucket
from skyhold.codec.frame import DataKey, FrameKeys
from skyhold.errors import SkyholdError
from skyhold.security.keys import StoreKeys
from skyhold.storage.bases import DeltaBases
from skyhold.storage.blobs import BucketBlobs
from skyhold.storage.cache import CacheFolder, PackCache
from skyhold.storage.chunk_index import ChunkIndex
from skyhold.storage.chunks import ChunkReader, PackSpace
from skyhold.storage.index_segments import write_segments
from skyhold.storage.linked_files import LinkedFiles
from skyhold.storage.object_check import ObjectChecker
from skyhold.storage.progress import Silence
from skyhold.storage.pull import Pull, Pulled
from skyhold.storage.push import Push, Pushed, PushOptions
from skyhold.storage.replicas import Replicas
from skyhold.storage.resume import resume
from skyhold.storage.sources.folder import find_source
from skyhold.storage.target_state import Stored
from skyhold.storage.version_files import VersionFiles
from skyhold.units import Buffer

CLASS = bytes(8)


def frame_keys(*, sealed: bool, seed: int = 1) -> FrameKeys:
    return FrameKeys({0: DataKey(bytes([seed]) * 32, bytes([seed + 1]) * 32)}, 0, sealed)


def memory_bucket(name: str) -> MemoryBucket:
    return MemoryBucket(parse_location(f"memory://{secrets.token_hex(8)}", name=name))


class FlakyBucket(MemoryBucket):
    """A memory bucket with hooks: `on_write` and `on_read` get the key and may raise, wait, or give other bytes."""

    def __init__(self, name: str) -> None:
        super().__init__(parse_location(f"memory://{secrets.token_hex(8)}", name=name))
        self.on_write: Callable[[str], None] = lambda _key: None
        self.on_read: Callable[[str], None] = lambda _key: None
        self.damage: Callable[[bytes], bytes] = lambda body: body
        self.written: list[str] = []
        self.reads = 0

    def write(self, key: str, body: Buffer, *, md5: Callable[[], bytes] | None = None) -> str:
        self.on_write(key)
        stamp = super().write(key, body, md5=md5)
        self.written.append(key)
        return stamp

    def read(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        self.reads += 1
        self.on_read(key)
        return self.damage(bytes(super().read(key, start, length)))

    def read_stream(
        self, key: str, start: int = 0, length: int | None = None, part_bytes: int = 4 << 20
    ) -> Iterator[Buffer]:
        self.on_read(key)
        return super().read_stream(key, start, length, part_bytes)

    def keys(self, prefix: str = "") -> list[str]:
        return [info.key for info in self.list(prefix)]

    def flip(self, key: str, at: int) -> None:
        body = bytearray(super().read(key))
        body[at] ^= 1
        super().write(key, body)


class Setup:
    """One machine with a state folder, and a set of buckets that may outlive it."""

    def __init__(
        self,
        folder: Path,
        buckets: Sequence[Bucket],
        *,
        sealed: bool = False,
        copies: int = 1,
        cache_bytes: int = 0,
        store: bytes = b"s" * 16,
    ) -> None:
        self.keys = StoreKeys(store.hex(), {0: b"k" * 32}, sealed)
        frames = FrameKeys({0: DataKey(self.keys.mac_key(0), self.keys.seal_key(0))}, 0, sealed)
        folder.mkdir(parents=True, exist_ok=True)
        self.chunk_index = ChunkIndex(folder)
        self.replicas = Replicas(buckets, lambda names: len(names) >= copies, notes=self.chunk_index)
        cache = CacheFolder(folder / "cache", cache_bytes)
        files = LinkedFiles(cache, sealed=sealed)
        self.space = PackSpace(store, CLASS, frames, self.keys.chunk_id_key(), self.replicas, PackCache(cache), files)
        self.blobs = BucketBlobs(self.replicas, frames, self.keys.name_key())
        self.checker = ObjectChecker(store, frames, self.keys.name_key())
        self._numbers = itertools.count()

    def push(
        self, path: Path, *, parent: VersionFiles | None = None, options: PushOptions | None = None
    ) -> tuple[VersionFiles, Pushed]:
        resume(self.space, self.chunk_index)
        bases = DeltaBases([] if parent is None else [parent], CLASS.hex(), ChunkReader(self.space))
        with Push(self.space, self.chunk_index, bases, options or PushOptions(), Silence()) as push:
            pushed = push.run(find_source(path).files)
            if not (options and options.dry_run):
                write_segments(
                    self.chunk_index, self.blobs, CLASS.hex(), pushed.packs_sent.keys() | pushed.packs_reused
                )
            version = secrets.token_hex(32)
            return VersionFiles(self.blobs, push.write_layout(self.blobs, version), version, pushed.files), pushed

    def pull(self, version: VersionFiles, root: Path, stored: Stored | None = None) -> Pulled:
        with Pull(self.space, Silence()) as pull:
            return pull.run(version, range(len(version.files)), root, stored)

    def close(self) -> None:
        self.replicas.close()
        self.chunk_index.close()


def refusing(error: SkyholdError) -> Callable[[str], None]:
    def refuse(_key: str) -> None:
        raise error

    return refuse


class Killed(BaseException):
    """A power cut, for a test."""


def killed_from_call(number: int, matching: str = "") -> Callable[[str], None]:
    """A hook that kills at every call from this number on, counted over the keys that begin with `matching`."""
    calls = itertools.count()
    lock = threading.Lock()

    def hook(key: str) -> None:
        with lock:
            dead = next(calls) >= number if key.startswith(matching) else False
        if dead:
            raise Killed

    return hook
