"""Epochs for tests: a configuration is the number of its epoch, and each is another engine in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from skyhold.consensus.epochs import StoreRegisters
from skyhold.consensus.memory import MemoryRegisters
from skyhold.consensus.migration import Succession
from skyhold.consensus.register import Registers, Versioned
from skyhold.consensus.sqlite import SqliteRegisters
from skyhold.errors import PermissionDenied, SkyholdError
from tests.consensus.fixtures import FlakyBucket, bucket_registers, new_buckets

REPOSITORY, DOCUMENT = "repository/" + "0" * 32, "document/" + "0" * 32


class Epochs(Succession):
    """In a dict, in buckets, in SQLite, and again. `listed` are the keys that `names` lists."""

    def __init__(self, keys: Sequence[str] = (REPOSITORY, DOCUMENT)) -> None:
        self.keys = keys
        self.buckets: dict[int, list[FlakyBucket]] = {}
        self.newest = 1
        self._folder = tempfile.TemporaryDirectory()
        self._memories: dict[int, MemoryRegisters] = {}

    def process(self, epoch: int = 1) -> StoreRegisters:
        """A process that knows the store as it was in an epoch."""
        return StoreRegisters(self.open(b"%d" % epoch), self)

    def next(self) -> bytes:
        return b"%d" % (self.newest + 1)

    def open(self, next_configuration: bytes) -> Registers:
        number = int(next_configuration)
        if number % 3 == 0:
            return self._memories.setdefault(number, MemoryRegisters())
        if number % 3 == 1:
            return bucket_registers(self.buckets.setdefault(number, new_buckets()), epoch=number)
        return SqliteRegisters(Path(self._folder.name) / f"{number}.sqlite")

    def listed(self, names: Versioned, configuration: bytes) -> Mapping[str, bool]:
        return dict.fromkeys(self.keys, False)

    def configuration(self, next_configuration: bytes) -> bytes:
        return b"epoch " + next_configuration

    def entered(self, next_configuration: bytes) -> None:
        self.newest = max(self.newest, int(next_configuration))

    def each(self, task: Callable[[str], None], keys: Sequence[str]) -> None:
        for key in keys:
            task(key)

    def close(self) -> None:
        self._folder.cleanup()


class Killed(BaseException):
    """The process ends here."""


class Mortal(Epochs):
    """Epochs whose mover is killed after some calls of its registers, and whose buckets may refuse to be written, or
    not report whether they were."""

    calls_left: int | None = None
    read_only = False
    writes_fail: SkyholdError | None = None

    def open(self, next_configuration: bytes) -> Registers:
        return Guarded(super().open(next_configuration), self.before)

    def before(self, writes: bool) -> None:
        if self.calls_left == 0:
            raise Killed
        if self.calls_left is not None:
            self.calls_left -= 1
        if writes and self.read_only:
            raise PermissionDenied("these credentials may only read")
        if writes and self.writes_fail is not None:
            raise self.writes_fail


class Guarded:
    """Registers with something that is done before each call."""

    def __init__(self, registers: Registers, before: Callable[[bool], None]) -> None:
        self._registers, self._before = registers, before

    def __getattr__(self, name: str) -> Callable[..., object]:
        method = getattr(self._registers, name)

        def guarded(*args: object, **kwargs: object) -> object:
            if name != "close":
                self._before(name in {"compare_and_set", "seal", "restore"})
            return method(*args, **kwargs)

        return guarded
