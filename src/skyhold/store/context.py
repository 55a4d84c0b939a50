"""What a machine has of a store before its first request: its document and keys, the settings and the state on this
machine, and its buckets, each opened once."""

from __future__ import annotations

import getpass
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from skyhold import error_codes
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.open import open_bucket
from skyhold.consensus.sightings import SightingsFile
from skyhold.errors import InvalidInput
from skyhold.security.keys import StoreKeys
from skyhold.storage.blobs import BucketBlobs
from skyhold.storage.cache import CacheFolder
from skyhold.storage.object_check import ObjectChecker
from skyhold.storage.replicas import Replicas
from skyhold.store.configuration import Configuration
from skyhold.store.consents import Consents
from skyhold.store.event import PERSON, Origin
from skyhold.store.settings import Settings
from skyhold.store.state import StoreState, cache_folder
from skyhold.store.store_document import StoreDocument
from skyhold.store.store_keys import frame_keys
from skyhold.store.time import now


class StoreContext:
    """Thread-safe, in the process that made it: in a child that was forked from it, every use is refused, and `close`
    does nothing (docs/decisions/031-fork.md). `document` is the newest that is known; its engine is that of the epoch
    in which the store is."""

    def __init__(
        self,
        document: StoreDocument,
        keys: StoreKeys,
        state: StoreState,
        settings: Settings,
        places: Iterable[BucketLocation] = (),
    ) -> None:
        """`places` are the store's buckets as far as they are known before its configuration is read."""
        self.document = document
        self.store_keys = keys
        self.keys = frame_keys(keys)
        self.state = state
        self.settings = settings
        self.known_places = (*document.hints, *places)
        self.consents = Consents(settings, state)
        self._lock = threading.RLock()
        self._buckets: dict[BucketLocation, Bucket] = {}
        self._process_id = os.getpid()
        self._closed = False

    @property
    def shared(self) -> bool:
        """Whether the registers live where every machine reaches them, and not on this one."""
        return self.document.engine.shared

    @property
    def author(self) -> str:
        """The author of a change where the caller gives none: the setting, else user and host."""
        if self.settings.author is not None:
            return self.settings.author
        try:
            return f"{getpass.getuser()}@{os.uname().nodename}"
        except (KeyError, OSError):  # a user id without a name, as in a container
            return os.uname().nodename

    def origin(self, author: str | None = None, reason: str = "", group: str | None = None) -> Origin:
        """The origin of a change made now, by the settings: the actor, and the author where the caller names none."""
        return Origin(self.author if author is None else author, now(), reason, self.settings.actor or PERSON, group)

    def reach(self, location: BucketLocation) -> BucketLocation:
        """A bucket as this machine reaches it: see `Consents.reach`."""
        return self.consents.reach(location)

    def bucket_at(self, location: BucketLocation) -> Bucket:
        """The bucket at a place, opened once."""
        with self._opened():
            if location not in self._buckets:
                self._buckets[location] = open_bucket(self.reach(location))
            return self._buckets[location]

    def blobs_of(self, configuration: Configuration) -> BucketBlobs:
        """The blobs in the buckets of a configuration, also of an epoch that ends. What is written is durable in one of
        them, which is all that can be required while a store is recovered."""
        buckets = [self.bucket_at(location) for location in configuration.locations]
        return BucketBlobs(Replicas(buckets, bool), self.keys, self.store_keys.name_key())

    @cached_property
    def sightings(self) -> SightingsFile:
        return SightingsFile(self.state.sightings)

    @cached_property
    def cache(self) -> CacheFolder:
        folder = self.settings.cache_folder or cache_folder()
        return CacheFolder(Path(folder) / self.document.store, self.settings.cache_size_bytes)

    @property
    def checker(self) -> ObjectChecker:
        return ObjectChecker(bytes.fromhex(self.document.store), self.keys, self.store_keys.name_key())

    def close(self) -> None:
        """Close what was opened. Every later use is refused. In a forked child, all of it belongs to the parent, and
        stays open until the child ends."""
        if not self.inherited:
            with self._lock:
                self._release()

    @property
    def inherited(self) -> bool:
        """Whether another process opened the store, and forked this one."""
        return self._process_id != os.getpid()

    def _release(self) -> None:
        """Close what was opened, under the lock."""
        self._closed = True
        for bucket in self._buckets.values():
            bucket.close()
        self._buckets.clear()
        if "sightings" in self.__dict__:
            self.sightings.close()

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Hold the lock of a store that may be used. Every operation enters here first.

        Raises `InvalidInput` code `store_closed`, and code `store_forked` where another process opened it: a thread of
        that process may have held the lock when it forked, and no thread would release it here.
        """
        if self.inherited:
            raise InvalidInput(
                f"Store {self.document.store} was opened by process {self._process_id}; a child that it forked "
                "cannot use it",
                code=error_codes.STORE_FORKED,
                hint="Open it in the child, or start workers by `spawn` or `forkserver`",
            )
        with self._lock:
            if self._closed:
                raise InvalidInput(
                    "The store was closed; it cannot be used any more",
                    code=error_codes.STORE_CLOSED,
                    hint="Open it again",
                )
            yield
