"""A store as this machine reaches it: its buckets, keys, registers and local state, opened once and shared.

Everything that one operation needs of the buckets is a `Session`: which of them take part, which have failed since it
began. A store that lives long begins a new session with each operation, so that a bucket that came back is asked again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

from skyhold import error_codes
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation
from skyhold.consensus.capabilities import Checkpointing, checkpointing
from skyhold.consensus.epochs import StoreRegisters
from skyhold.consensus.migration import CONFIG
from skyhold.consensus.no_majority import register_lost
from skyhold.consensus.pinned_registers import PinnedRegisters
from skyhold.consensus.register import Known, Registers
from skyhold.consensus.stale_registers import StaleRegisters
from skyhold.errors import Corrupt, OutcomeUnknown, SkyholdError, Unavailable
from skyhold.security.keys import StoreKeys
from skyhold.storage.blob_cache import BlobCache
from skyhold.storage.blobs import BucketBlobs
from skyhold.storage.body_cache import BodyCache
from skyhold.storage.chunk_index import ChunkIndex
from skyhold.storage.policy import Policy, copies_wanted, durability
from skyhold.storage.replicas import Replicas
from skyhold.storage.verified import LateNotes
from skyhold.store.configuration import Configuration, decode_configuration
from skyhold.store.context import StoreContext
from skyhold.store.epoch import Epoch
from skyhold.store.features import Features
from skyhold.store.session import Session
from skyhold.store.settings import Settings
from skyhold.store.state import StoreState
from skyhold.store.store_document import Engine, StoreDocument
from skyhold.store.succession import StoreSuccession, newest_engine, open_registers
from skyhold.store.unreadable_repositories import UnreadableRepository

if TYPE_CHECKING:
    from skyhold.store.bell import Bell
    from skyhold.store.watching import Waiter

PAUSE_S_MAX: Final = 0.5
RETIRED_MAX: Final = 2
"""How many registers of earlier epochs stay open, as a thread may still wait for a voter of them."""


def new_operation_id() -> str:
    """An id for one intent to change a register."""
    return secrets.token_hex(16)


def pause(attempt: int) -> None:
    """Wait before another attempt at a contended register, with jitter."""
    time.sleep(secrets.randbelow(1000) / 1000 * min(PAUSE_S_MAX, 0.005 * 2**attempt))


class Connection(StoreContext):
    """See the module. Thread-safe."""

    def __init__(
        self,
        document: StoreDocument,
        keys: StoreKeys,
        state: StoreState,
        settings: Settings,
        places: Iterable[BucketLocation] = (),
        *,
        max_age_s: float | None = None,
    ) -> None:
        """`places` are the store's buckets as far as they are known before its configuration is read. With `max_age_s`
        reads may be stale (`StaleRegisters`); `stale` lists which were. `unread` are the repositories that the last
        read of all of them skipped."""
        super().__init__(document, keys, state, settings, places)
        self._retired: list[Registers] = []
        self._registers: StoreRegisters | None = None
        self._configuration: Configuration | None = None
        self._configured: tuple[int, int] | None = None
        self._max_age_s = max_age_s
        self.stale: dict[str, Known] = {}
        self.unread: tuple[UnreadableRepository, ...] = ()

    # ---- configuration and buckets

    @property
    def configuration(self) -> Configuration:
        """The store's configuration. Where registers are shared, another one begins an epoch, and what was read holds
        until its end is met; on one machine another process may have changed it, so its version is asked each time."""
        with self._opened():
            known, engine = self._configuration, self.document.engine
            if known is not None and (self.shared or self._registers is None):
                return known
        try:
            value = self.registers.read(CONFIG)
        except (Unavailable, Corrupt):
            if not self.catch_up():
                raise
            engine = self.document.engine
            value = self.registers.read(CONFIG)
        if value is None and known is not None:
            return known  # the store is about to be made
        if value is None and self.registers.list():  # which are made after it
            raise register_lost(CONFIG)
        if value is None:
            raise Corrupt(
                f"Store {self.document.store} has no configuration: it was not completely made",
                code=error_codes.REGISTERS_MISSING,
                hint="Make it again: skyhold init URL…",
            )
        if known is not None and self._configured == (engine.epoch, value.version):
            return known
        configuration = decode_configuration(value.data)
        configuration.features.refuse_unread()
        with self._lock:
            if (self._configuration is None or not self.shared) and self.document.engine == engine:
                self._configuration, self._configured = configuration, (engine.epoch, value.version)
            # Where the store has moved on meanwhile, `enter` has noted what holds now.
            return self._configuration or configuration

    @property
    def features(self) -> Features:
        """The features that a program must know: those of the configuration, which a majority has; before it is read,
        those of the copy in the `store.json` of the bucket that was opened, which may be of an earlier epoch."""
        configuration = self._configuration
        return self.document.features if configuration is None else configuration.features

    def check_writable(self) -> None:
        """Raise `InvalidInput` code `feature_unknown` where this program must not change anything in the store. It is
        called before the first object is written. The registers themselves refuse changes, too."""
        with suppress(Corrupt, Unavailable):  # a store that is to be recovered: then by what was seen of it
            _ = self.configuration
        self.features.refuse_unwritten()

    def begin(self, configuration: Configuration) -> None:
        """Go on from this configuration: the store is about to be made, or made anew."""
        with self._lock:
            self._configuration = configuration

    def catch_up(self) -> bool:
        """Whether some bucket reports a later epoch than the one that was opened, whose voters may be gone since."""
        newest, places = newest_engine(self)
        if newest.epoch == self.document.engine.epoch:
            return False
        self.adopt(newest, places)
        return True

    def adopt(self, engine: Engine, places: Sequence[BucketLocation]) -> None:
        """Go on with the engine of a later epoch, whose buckets are at these places."""
        self.document = replace(self.document, engine=engine)
        self.known_places = (*self.known_places, *places)
        self.reopen()

    @property
    def locations(self) -> tuple[BucketLocation, ...]:
        """The store's buckets as this machine reaches them."""
        return tuple(self.reach(location) for location in self.configuration.locations)

    def bucket(self, name: str) -> Bucket:
        """A bucket of the store by name. Raises `NotFound`."""
        return self.bucket_at(self.configuration.bucket(name).location)

    def buckets(self, names: Iterable[str] | None = None) -> dict[str, Bucket]:
        """Buckets by name, all of them by default."""
        wanted = [location.name for location in self.configuration.locations] if names is None else list(names)
        return {name: self.bucket(name) for name in wanted}

    def _open_buckets(self) -> dict[str, Bucket]:
        """The buckets that this machine can open, by name."""
        found = {}
        for location in self.configuration.locations:
            with suppress(SkyholdError):
                found[location.name] = self.bucket_at(location)
        return found

    def reconfigured(self) -> None:
        """Read the configuration anew when it is needed next."""
        with self._lock:
            self._configuration = None

    # ---- registers

    @property
    def registers(self) -> StoreRegisters:
        """The registers of the store, in whichever epoch it is.

        What a crash left without a checkpoint is completed first, as far as the buckets allow: where they do not,
        reading goes on, and the next change of such a register completes it or reports that it cannot.
        """
        with self._opened():
            if self._registers is None:
                self._registers = self._open_registers()
            return self._registers

    def _open_registers(self) -> StoreRegisters:
        first = open_registers(self, self.document.engine, self._configuration)
        with_checkpoints = checkpointing(first)
        if with_checkpoints is not None:
            with suppress(OutcomeUnknown):
                with_checkpoints.flush()
        if self._max_age_s is None:
            return StoreRegisters(first, self.succession)
        return StaleRegisters(first, self.succession, max_age_s=self._max_age_s, on_stale=self.stale.__setitem__)

    @property
    def was_stale(self) -> bool:
        """Whether a read of this connection, or of this block of `within`, may have missed moves."""
        return self._max_age_s is not None and bool(self.stale)

    @property
    def succession(self) -> StoreSuccession:
        """How the store goes from one epoch to the next."""
        return StoreSuccession(self, lambda: self.features, self.enter)

    @property
    def checkpoints(self) -> Checkpointing:
        """The registers of this machine. Not for an engine that is `shared`, whose changes outlive the machine."""
        found = checkpointing(self.registers.current)
        if found is None:
            raise AssertionError("a shared engine has no checkpoints")
        return found

    def reopen(self) -> None:
        """Open the registers anew when they are needed next, and read the configuration from them."""
        with self._lock:
            if self._configuration is not None:  # it contains where the voters are
                self.known_places = tuple(dict.fromkeys((*self.known_places, *self._configuration.locations)))
            self._configuration = None
            if self._registers is not None:
                self._retired.append(self._registers)
                self._registers = None
                while len(self._retired) > RETIRED_MAX:
                    with suppress(SkyholdError):
                        self._retired.pop(0).close()

    def enter(self, epoch: Epoch) -> None:
        """The store is in another epoch from now on."""
        with self._lock:
            if epoch.engine.epoch > self.document.engine.epoch:
                self.document = replace(self.document, engine=epoch.engine)
                self._configuration = epoch.configuration

    # ---- objects

    def pinned(self) -> PinnedRegisters:
        """The registers, for changes that are right with the buckets of now alone."""
        return PinnedRegisters(self.registers, self._ring if self.shared else None)

    def session(
        self,
        policy: Policy | None = None,
        *,
        registers: PinnedRegisters | None = None,
        keep: bool = False,
        fresh: bool = False,
    ) -> Session:
        """The beginning of one operation under a policy, by default that of the store; with `registers` that were
        pinned before it was known. With `keep` the blobs of versions that it reads or writes go into this machine's
        cache. `fresh`: it reads each blob from a bucket, also one that this connection has read before."""
        lagging: dict[str, SkyholdError] = {}
        # First, so that they are of the configuration that is read next, or of one before it.
        registers = registers or self.pinned()
        configuration = self.configuration
        policy, locations = policy or configuration.policy, configuration.locations
        # Blobs have no placement class, and are never in fewer buckets than the registers that name them.
        copies = max(copies_wanted(policy, locations), copies_wanted(Policy(), locations))
        everywhere = replace(policy, regions=(), copies=copies)
        replicas = self.replicas(everywhere, locations, lagging, self.document.engine.voters)
        blobs = BucketBlobs(
            replicas,
            self.keys,
            self.store_keys.name_key(),
            self.blob_cache if keep else None,
            bodies=BodyCache() if fresh else self.bodies,
        )
        return Session(registers, blobs, replicas, lagging, [replicas])

    @contextmanager
    def within(self, max_age_s: float | None) -> Iterator[Connection]:
        """This connection, for reads that may be so old (see `StaleRegisters`; None: as those of this one). What it has
        opened is shared; `stale` has the reads of this block."""
        if max_age_s is None:
            yield self
            return
        with suppress(Corrupt, Unavailable):  # of which the view may know enough
            _ = self.configuration
        _ = self.bodies, self.blob_cache  # which are shared then
        view = copy(self)
        view.stale, view._max_age_s = {}, max_age_s
        view._retired = []  # what it opens itself, where the store has moved on, is closed with it
        view._registers = StaleRegisters(
            self.registers.current, view.succession, max_age_s=max_age_s, on_stale=view.stale.__setitem__, lent=True
        )
        try:
            yield view
        finally:
            self.stale |= view.stale
            for registers in (*view._retired, view._registers):
                if registers is not None:
                    registers.close()

    def known_buckets(self) -> list[Bucket]:
        """The store's buckets as far as they are known without a request."""
        places = self.known_places if self._configuration is None else self._configuration.locations
        return [self.bucket_at(location) for location in {location.name: location for location in places}.values()]

    @cached_property
    def chunk_index(self) -> ChunkIndex:
        return ChunkIndex(self.state.folder)

    def _ring(self, key: str, version: int) -> None:
        self.bell.ring(key, version)

    @cached_property
    def bell(self) -> Bell:
        from skyhold.store.bell import Bell

        return Bell(self.document.store, self.keys, self._open_buckets, self.check_writable)

    @cached_property
    def waiter(self) -> Waiter:
        from skyhold.store.watching import Waiter

        return Waiter(self)

    @cached_property
    def bodies(self) -> BodyCache:
        return BodyCache()

    @cached_property
    def blob_cache(self) -> BlobCache:
        return BlobCache(self.cache)

    def replicas(
        self,
        policy: Policy,
        locations: Sequence[BucketLocation],
        lagging: dict[str, SkyholdError],
        voters: Sequence[tuple[str, str]] = (),
    ) -> Replicas:
        """The replicas of objects at these places, durable as a policy wants it, and in a majority of `voters`."""
        every = self.configuration.locations

        def enough(names: Collection[str]) -> bool:
            held = sum(name in names for name, _ in voters)
            return durability(policy, every, names).met and (not voters or held > len(voters) // 2)

        buckets = [self.bucket_at(location) for location in locations]
        return Replicas(buckets, enough, lagging=lagging, notes=LateNotes(lambda: self.chunk_index))

    def close(self) -> None:
        if "bell" in self.__dict__ and not self.inherited:
            self.bell.close()
        super().close()

    def _release(self) -> None:
        super()._release()
        if "chunk_index" in self.__dict__:
            self.chunk_index.close()
        for registers in (*self._retired, self._registers):
            if registers is not None:
                registers.close()
