"""One small store of three folders with at least one object of each kind, made once and put back as it was before each
cell: in memory, since thousands of cells each need it whole."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unittest import mock

import numpy as np
from safetensors.numpy import save_file

import skyhold
from skyhold.consensus.checkpoint import checkpoint_prefix
from skyhold.registry.reading import open_version
from skyhold.registry.repositories import Repositories
from skyhold.registry.root import register_key
from skyhold.storage.canonical import canonical
from skyhold.storage.object_keys import blob_key, pack_key
from skyhold.storage.policy import Policy
from skyhold.store.configuration_log import ConfigurationLog
from skyhold.store.connection import new_operation_id
from skyhold.store.document import DocumentChange, document_key
from skyhold.store.documents import DocumentKind, Documents
from skyhold.store.event import event_key
from skyhold.store.map import Map
from skyhold.store.record import RecordKind, RecordUpdate, blobs_of
from tests.cli.models import contents
from tests.endtoend.machines import CLOUDS, Machine, Scene
from tests.endtoend.stores import catch_up
from tests.hostile.image import Image

TARGET: Final = "team/target"
OTHER: Final = "team/other"
LATE: Final = "team/late"
"""A repository without versions, which changed the register `names` last."""
READMITTED: Final = "c"
"""The bucket that was admitted anew, with another incarnation (in the engine `buckets`)."""
MESSAGE: Final = "Made for damage"
NOTE: Final = "A note that is too long for the map. " * 50
POOL: Final = RecordKind("pool", re.compile(r"[a-z]+"), lambda _id, _value: None)
CLUSTER: Final = DocumentKind("cluster", (POOL,))
CLUSTER_ID: Final = "c1" * 16
"""Of the document. No file of a version is made of it, nor of the bodies of its records."""
LONG_TAGS: Final = tuple(f"{'t' * 90}-{number}" for number in range(7))
"""Whose moves do not fit into the map together with the version that they were pushed with."""


@dataclass(frozen=True)
class Entry:
    """A version as its repository's map names it, and the files that were pushed."""

    repository: str
    digest: str
    document: str
    layout: str
    tree: Mapping[str, bytes]


class World:
    """A store of the engine `buckets` or `sqlite`, open or sealed, with the machine that made it (`owner`).

    `subjects` maps each kind of object to the key of one, which the head of `TARGET` needs where versions need such a
    thing at all; `others` to one more of the kind; `older` to the bytes that each bucket held under that key before
    (of what is ever replaced).
    """

    def __init__(self, place: Path, *, engine: str, sealed: bool) -> None:
        self.scene, self.engine, self.sealed = Scene(place), engine, sealed
        self.entries: dict[str, Entry] = {}
        self.subjects: dict[str, str] = {}
        self.others: dict[str, str] = {}
        self.older: dict[str, dict[str, bytes]] = {}
        place.mkdir(parents=True)
        with self.at_work(self.scene.machine):
            self._make()
        self._image = Image(place)

    @property
    def key_file(self) -> Path:
        return self.scene.place / "team.key"

    @property
    def models(self) -> Path:
        return self.scene.place / "models"

    def url(self, cloud: str) -> str:
        return str(self.scene.cloud(cloud))

    @contextmanager
    def at_work(self, machine: Machine, cloud: str = "a") -> Iterator[None]:
        """Be a machine of this store, which reaches it by one of its buckets."""
        with machine.at_work():
            if self.sealed:
                os.environ["SKYHOLD_KEY_FILE"] = str(self.key_file)
            os.environ["SKYHOLD_STORE"] = self.url(cloud)
            yield

    @property
    def trees(self) -> dict[str, Mapping[str, bytes]]:
        """The files of every version that was pushed, by its digest."""
        return {digest: entry.tree for digest, entry in self.entries.items()}

    def heads(self) -> dict[str, str]:
        """The version that each repository's `main` points to."""
        return {entry.repository: digest for digest, entry in self.entries.items()}

    def put_back(self) -> None:
        """Everything as it was when it was made."""
        self._image.put_back()

    def forget_cache(self, machine: Machine) -> None:
        """The next reads must come from the buckets."""
        shutil.rmtree(machine.folder / "cache", ignore_errors=True)

    # ---- made once

    def _make(self) -> None:
        from skyhold.security.keys import KeyFile

        keys = [KeyFile.generate(self.key_file)] if self.sealed else []
        urls = self.scene.clouds()
        for seed, folder in enumerate(("other", "target", "late"), 1):
            write_model(self.models / folder, seed=seed)
        with skyhold.init(urls, engine=self.engine, encrypt_with=keys) as store:
            self._push(store, OTHER, "other", tags=["v1"])
            self._push(store, TARGET, "target", tags=["v1"])
            _make_document(store)
            self._remember(["store.json"])
            if self.engine == "buckets":
                catch_up(store)
            with mock.patch("skyhold.store.configuration_log.RECENT_BYTES_MAX", 0):  # its history leaves blobs
                for role in ("packs", "voter"):
                    if self.engine == "sqlite":
                        store.set_roles({READMITTED: role})
                    else:
                        store.replace_voter(READMITTED)
        if self.engine == "sqlite":
            skyhold.recover(urls[0])[0].close()
        with skyhold.open(urls[0]) as store:
            target = store.repository(TARGET)
            target.attach("main", notes=[NOTE])
            # Few entries, but long: the map does not fit into the register, so that it has nodes; nor does the event.
            target.set_refs({f"branch/{'x' * 60}/{'y' * 50}-{number:02}": "main" for number in range(45)})
            _set_tombstones(store)
            store.sync()
            if self.engine == "buckets":
                catch_up(store)
            self._remember(key for key in self._keys() if key.startswith("registers/"))
            store.create_repository(LATE)
            _change_document(store, "late", b"A body of later")
            change_model(self.models / "target", seed=3)
            target = self._push(store, TARGET, "target", tags=["v2", *LONG_TAGS], aliases=["champion"])
            target.attach("main", notes=[NOTE])
            store.sync()
            if self.engine == "buckets":
                catch_up(store)
            self._find_subjects(store)
            if not store.verify(deep=True).sound:
                raise AssertionError("the store is not sound before anything is damaged")

    def _push(self, store: skyhold.Store, name: str, folder: str, **options: object) -> skyhold.Repository:
        repository = store.repository(name, create=True)
        with mock.patch("skyhold.storage.layout.PAGE_BYTES_MAX", 400):  # a layout of several pages
            pushed = repository.push(self.models / folder, message=MESSAGE, **options)  # type: ignore[arg-type]
        connection = store._connection
        with connection.session(Policy()) as session:
            snapshot = Repositories(session.registers, session.blobs).open(name).read()
            entry = snapshot.version(pushed.version)
        tree = contents(self.models / folder)
        self.entries[pushed.version] = Entry(name, pushed.version, entry.document, entry.layout, tree)
        return repository

    def _remember(self, keys: object) -> None:
        """Keep the present state of objects, to replay it later."""
        for key in list(keys):  # type: ignore[call-overload]
            self.older[key] = {cloud: (self.scene.cloud(cloud) / key).read_bytes() for cloud in CLOUDS}

    def _keys(self) -> list[str]:
        folder = self.scene.cloud("a")
        return sorted(
            key
            for path in folder.rglob("*")
            if path.is_file() and not (key := path.relative_to(folder).as_posix()).startswith(".skyhold")
        )

    def _find_subjects(self, store: skyhold.Store) -> None:
        connection = store._connection
        head = next(entry for entry in reversed(self.entries.values()) if entry.repository == TARGET)
        with connection.session(Policy()) as session:
            register = Repositories(session.registers, session.blobs).open(TARGET)
            snapshot = register.read()
            _, files = open_version(session, snapshot, head.digest)
            way = snapshot.map.way_to(f"version/{head.digest}")  # every command needs it, for any digests
            attached = [item.blob for item in snapshot.attached(head.digest) if item.blob]
            entered = event_key(snapshot.version_event(head.digest) or 0)
            events = [blob for key, value in snapshot.map.scan("event/") for blob in blobs_of(key, value)]
            entering = list(blobs_of(entered, snapshot.map.get(entered)))
            document = Documents(session.registers, session.blobs, CLUSTER).read(CLUSTER_ID)
            history = ConfigurationLog.of(connection.configuration)
            parts = list(history.blob_names(lambda name: session.blobs.read("records", name)))
            blobs = dict.fromkeys(files.blobs())
            packs = [pack_key(pack) for pack in files.pack_ids()]
        keys = self._keys()
        of_head = {
            "pack": packs[-1],
            "version": blob_key("versions", head.document),
            "layout": blob_key("layouts", head.layout),
            "page": next(blob_key(folder, name) for folder, name in blobs if folder == "pages"),
            "tensors": next(blob_key(folder, name) for folder, name in blobs if folder == "tensors"),
            "node": blob_key("nodes", way[-1]),
            "attachment": blob_key("attachments", attached[-1]),  # type: ignore[arg-type]
            "entering event": blob_key("records", entering[0]),
            "event": blob_key("records", events[0]),
            "record": blob_key("records", _bodies(document.map)[0]),
            "history": blob_key("records", parts[0]),
        }
        if len(parts) < 2 or events[0] in entering:
            raise AssertionError("the history of the configuration is too short, or there is no event but the entering")
        self.subjects = {"store.json": "store.json", **of_head}
        for kind, folder in (("index", "indexes"), ("tombstones", "tombstones")):
            self.subjects[kind] = next(key for key in keys if key.startswith(f"{folder}/"))
        registers = {
            "config": "config",
            "names": "names",
            "repository": register_key(register.repository_id),
            "document": document_key(CLUSTER_ID),
        }
        if self.engine == "buckets":
            epoch = connection.document.engine.epoch
            for kind, key in registers.items():
                self.subjects[kind] = f"registers/{epoch:08x}/{key.replace('/', '-')}"
            self.subjects["ended register"] = f"registers/{1:08x}/config"
        else:
            for kind, key in registers.items():
                folder = checkpoint_prefix(key, 1, 1, connection.store_keys.name_key()).rpartition("/")[0]
                self.subjects[f"checkpoint of {kind}"] = max(key for key in keys if key.startswith(folder))
        self.others = {kind: _sibling(key, keys) for kind, key in self.subjects.items()}


def _sibling(key: str, keys: list[str]) -> str:
    """Another object of the same kind, of the same epoch where it is a register; "" where there is none."""
    folder, epoch = [*key.split("/"), ""][:2]
    prefix = f"registers/{epoch}/" if folder == "registers" else f"{folder}/"
    return max((other for other in keys if other.startswith(prefix) and other != key), default="")


def write_model(folder: Path, *, seed: int) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    weights = {f"layer.{number}": random.normal(size=(8, 8)).astype(np.float32) for number in range(2)}
    save_file(weights, folder / "model.safetensors")
    for number in range(6):
        (folder / f"part-{number}").write_bytes(random.bytes(300 + 10 * number))
    (folder / "README.md").write_text(f"# Model {seed}\n")


def change_model(folder: Path, *, seed: int) -> None:
    random = np.random.default_rng(seed)
    for number in range(3):
        (folder / f"part-{number}").write_bytes(random.bytes(300 + 10 * number))


def _make_document(store: skyhold.Store) -> None:
    connection = store._connection
    with connection.session(Policy()) as session:
        documents = Documents(session.registers, session.blobs, CLUSTER)
        documents.create("prod", CLUSTER_ID, connection.origin(), new_operation_id())
    _change_document(store, "first", b"A body that is too long for the map")


def _change_document(store: skyhold.Store, pool: str, body: bytes) -> None:
    """Give the document a record whose body is a blob."""
    connection = store._connection
    with connection.session(Policy()) as session:
        update = RecordUpdate(POOL, pool, {"blobs": {"body": session.blobs.write("records", body)}})
        change = DocumentChange(connection.origin(), (update,), gc_epoch=0)
        Documents(session.registers, session.blobs, CLUSTER).apply(CLUSTER_ID, change, new_operation_id())


def _bodies(map_: Map) -> list[str]:
    return [blob for key, value in map_.scan("pool/") for blob in blobs_of(key, value)]


def _set_tombstones(store: skyhold.Store) -> None:
    """Tombstones as gc will write them, of a pack that never was, named by the register `names`."""
    connection = store._connection
    body = canonical({"tombstones": 1, "epoch": 1, "packs": [secrets.token_hex(16)], "blobs": []})
    with connection.session(Policy()) as session:
        name = session.blobs.write("tombstones", body)
        names = Repositories(session.registers, session.blobs).read()
        what = {"kind": "gc", "epoch": names.gc_epoch, "tombstones": [name]}
        after = names.after(connection.origin(), [what], {}, tombstones=(name,))
        registers = connection.registers
        registers.compare_and_set("names", names.register_version, after.encode(), new_operation_id())
