"""Trials of a store whose bucket `a` is a faulty S3 server. Most trials wait for a time limit, so many run in parallel,
each in its own process with its own server and store. `python -m tests.hostile --faults [NAME…]` runs them."""

from __future__ import annotations

import faulthandler
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Final
from unittest import mock

import skyhold
from skyhold.buckets import bounded
from skyhold.buckets import open as opening
from skyhold.buckets.retry import DEFAULT_POLICY, RetryPolicy
from tests.cli.models import contents
from tests.endtoend.machines import Machine
from tests.endtoend.stores import catch_up
from tests.faults.faulty_s3 import CREDENTIALS, FaultyS3
from tests.faults.s3_faults import ANY_FAULTS, LIST_FAULTS, LISTS, READ_FAULTS, READS, WRITE_FAULTS, WRITES, S3Fault
from tests.hostile.image import Image
from tests.hostile.judging import Court
from tests.hostile.restoring import SecondReader
from tests.hostile.running import Answer, little_memory, run
from tests.hostile.world import change_model, write_model

TARGET: Final = "team/target"
IMPATIENT: Final = RetryPolicy(
    attempts_max=2, total_s=1.0, first_delay_s=0.02, delay_s_max=0.05, connect_timeout_s=0.5, stall_timeout_s=0.5
)
"""How long a driver waits while the server is faulty. Correct replies may be late where a dozen trials share two cores:
without a fault the driver waits as long as in production, a minute and a half."""
LISTED_KEYS_MAX: Final = 20_000
"""Where an endless listing ends in these tests. In production it ends at two million keys, after a minute of work."""
DEADLINE_S: Final = 90.0
"""Of one command; other trials run in parallel."""
TRIAL_S: Final = 900.0
JOBS: Final = 12
FAULTY: Final = "a"
CORRECT: Final = ("b", "c")
OK: Final = frozenset({0})
ANY: Final = frozenset({0, 8, 10})


def _faults() -> dict[str, S3Fault]:
    """Every fault of the server by name; a fault of any request is there once for each kind of request."""
    of_objects = {kind: S3Fault(kind) for kind in (*READ_FAULTS, *WRITE_FAULTS, *LIST_FAULTS)}  # type: ignore[arg-type]
    of_objects["other"] = S3Fault("other", key="registers/", other_key="store.json")
    of_objects["hidden"] = S3Fault("hidden", other_key="packs/")
    sorts = {"reads": READS, "writes": WRITES, "listings": LISTS}
    of_any = {f"{kind}-{sort}": S3Fault(kind, calls=calls) for kind in ANY_FAULTS for sort, calls in sorts.items()}  # type: ignore[arg-type]
    stopped = {f"{kind}-everything": S3Fault(kind) for kind in ANY_FAULTS}  # type: ignore[arg-type]
    parts = {
        f"{kind}-of-{folder}": S3Fault(kind, key=key)  # type: ignore[arg-type]
        for kind in ("oversize", "flip", "stale", "empty", "missing", "sparse")
        for folder, key in (("registers", "registers/"), ("packs", "packs/"), ("store.json", "store.json"))
    }
    errors = {
        name: replace(fault, size_bytes=1 << 20) for name, fault in (of_any | stopped).items() if fault.kind == "error"
    }
    return of_objects | of_any | stopped | errors | parts | {"huge-error-everything": S3Fault("error")}


FAULTS: Final = _faults()


class FaultyStore:
    """A store whose bucket `a` is on the server, while `b` and `c` are folders; restored before each trial."""

    def __init__(self, place: Path, server: FaultyS3) -> None:
        self.place, self.server = place, server
        self.models = place / "models"
        write_model(self.models / "target", seed=1)
        with self.at_work():
            locations = [server.location(FAULTY), *(str(self.folder(name)) for name in CORRECT)]
            with skyhold.init(locations) as store:
                repository = store.repository(TARGET, create=True)
                repository.push(self.models / "target", message="One", tags=["v1"])
                change_model(self.models / "target", seed=2)
                self.head = repository.push(self.models / "target", message="Two").version
                store.sync()
                catch_up(store)
        self._image = Image(place)
        self._objects = dict(server.buckets[FAULTY].by_key)
        self._second = SecondReader(self.folder("b"))

    def folder(self, bucket: str) -> Path:
        return self.place / "clouds" / bucket

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with Machine(self.place / "machine").at_work():
            os.environ.update(CREDENTIALS)
            os.environ["SKYHOLD_STORE"] = str(self.folder("b"))
            yield

    def put_back(self) -> None:
        self.server.inject()
        self._image.put_back()
        self.server.buckets[FAULTY].by_key = dict(self._objects)

    def restores(self, version: str, bucket: str) -> bool:
        """Whether a version can be restored from this bucket alone, whatever the bucket reports."""
        folder = self.folder(bucket)
        if bucket == FAULTY:
            folder = self.place / "content-of-the-server"
            for key, stored in self.server.buckets[FAULTY].by_key.items():
                (folder / key).parent.mkdir(parents=True, exist_ok=True)
                (folder / key).write_bytes(stored.body)
        return version in self._second.restorable(folder)


@dataclass
class Trial:
    """What each command did with one fault of the server; `complaints` are sentences."""

    fault: str
    complaints: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        return "\n- ".join([f"{self.fault}, {self.seconds:.0f} s", *(text[:600] for text in self.complaints)])


def try_faults(names: Sequence[str], jobs: int = JOBS) -> Iterator[Trial]:
    """The trials of these faults, in their order."""
    processes = get_context("forkserver")
    processes.set_forkserver_preload([__name__])  # which imports once for all
    with (
        tempfile.TemporaryDirectory(dir=Court.memory_folder(), prefix="skyhold-hostile-") as folder,
        ProcessPoolExecutor(min(jobs, len(names)), processes, _open, (folder,)) as pool,
    ):
        yield from pool.map(_try, names)


_stores: list[FaultyStore] = []


def _open(folder: str) -> None:
    """In each process of a pool, before its first trial."""
    mock.patch.object(opening, "DEFAULT_POLICY", IMPATIENT).start()
    mock.patch.object(bounded, "LISTED_KEYS_MAX", LISTED_KEYS_MAX).start()
    _stores.append(FaultyStore(Path(tempfile.mkdtemp(dir=folder)), FaultyS3()))


def _try(name: str) -> Trial:
    trial, store, fault = Trial(name), _stores[0], replace(FAULTS[name])
    started_s = time.monotonic()
    faulthandler.dump_traceback_later(TRIAL_S, exit=True)  # what not even the deadline of a command ends
    store.put_back()
    with store.at_work(), little_memory():
        commands = _Commands(store, trial.complaints, trusted=fault.kind in {"stored_other", "not_stored"})
        store.server.inject(fault)
        commands.read()
        commands.look()
        commands.push()
        commands.read()
        commands.expect(ANY, "repair")
        store.server.inject()
        with mock.patch.object(opening, "DEFAULT_POLICY", DEFAULT_POLICY):
            commands.repair()
    faulthandler.cancel_dump_traceback_later()
    trial.seconds = time.monotonic() - started_s
    return trial


class _Commands:
    """`trusted`: the server confirms the right checksum and stores other bytes, or none. A later listing or read
    detects that; the push does not."""

    def __init__(self, store: FaultyStore, complaints: list[str], *, trusted: bool) -> None:
        self.store, self.complaints, self.head, self.trusted = store, complaints, store.head, trusted

    def expect(self, allowed: frozenset[int], *arguments: object) -> Answer:
        answer = run(*arguments, deadline_s=DEADLINE_S)
        if answer.failure is not None:
            self.complaints.append(f"`{' '.join(answer.command)}` {answer.failure}")
        elif answer.status not in allowed:
            self.complaints.append(f"expected {sorted(allowed)}, but {answer}")
        return answer

    def read(self) -> None:
        """All commands that only read: the majority answers them as without a fault."""
        listed = self.expect(OK, "list")
        if [item["name"] for item in listed.document.get("repositories", [])] != [TARGET]:
            self.complaints.append(f"list shows {listed.document.get('repositories')}")
        logged = self.expect(OK, "log", TARGET)
        if len(logged.document.get("versions", [])) < len({self.store.head, self.head}) + 1:
            self.complaints.append("log lacks versions")
        target = self.store.place / "pulled"
        shutil.rmtree(self.store.place / "machine" / "cache", ignore_errors=True)
        pulled = self.expect(OK, "pull", TARGET, target)
        if pulled.status == 0:
            if pulled.document["version"] != self.head:
                self.complaints.append("pull returned another version than the newest")
            if contents(target) != contents(self.store.models / "target"):
                self.complaints.append("pull returned other bytes than were pushed")
        shutil.rmtree(target, ignore_errors=True)

    def look(self) -> None:
        """The commands that check every bucket report the faulty one only."""
        self.expect(OK, "status")
        for arguments in (["verify"], ["verify", "--deep"]):
            report = self.expect(ANY, *arguments).document
            named = {finding["bucket"] for finding in report.get("findings", [])} | set(report.get("unreachable", {}))
            if named - {FAULTY}:
                self.complaints.append(f"{' '.join(arguments)} names {sorted(named)}")

    def push(self) -> None:
        change_model(self.store.models / "target", seed=7)
        pushed = self.expect(OK, "push", TARGET, self.store.models / "target", "-m", "Three")
        if pushed.status:
            return
        self.head = pushed.document["version"]
        counted = {FAULTY, *CORRECT} - set(pushed.document["lagging"])
        for bucket in counted - ({FAULTY} if self.trusted else set()):
            if not self.store.restores(self.head, bucket):
                self.complaints.append(f"the push was acknowledged, and bucket {bucket}, which counts, lacks it")

    def repair(self) -> None:
        """The server works correctly again."""
        repaired = self.expect(ANY, "repair")
        if repaired.status != 0:  # nothing in the bucket proves that it is the one that was admitted
            again = ["store", "voters", "replace", FAULTY]
            if f"skyhold {' '.join(again)}" in repaired.text:
                self.expect(OK, *again)
            elif "empty it, then run `skyhold repair`" in repaired.text:  # its store.json does not even name the store
                self.store.server.buckets[FAULTY].by_key = {}
            else:
                self.complaints.append(f"repair does not name the next command: {repaired.document}")
        self.expect(OK, "repair")
        self.expect(OK, "verify", "--deep")
        self.read()
