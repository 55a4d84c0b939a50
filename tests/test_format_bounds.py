"""What a reader of a document refuses, a writer refuses, and the other way round: both sides from one table.

Of each field the least and the greatest value that is allowed, a writer, and a forger, who is the writer without its
checks. One beyond either end must be refused by both; a value at an end by neither.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from skyhold.buckets.location import parse_location
from skyhold.codec import frame
from skyhold.codec.frame import BODY_BYTES_MAX, DataKey, FrameKeys, Kind, decode_frame, encode_frame
from skyhold.consensus import acceptor_object, etcd_records
from skyhold.consensus.acceptor import COUNTER_MAX, VOTERS_MAX, AcceptorState, Ballot
from skyhold.consensus.acceptor_object import AcceptorObject, decode_acceptor, encode_acceptor
from skyhold.consensus.checkpoint import EPOCH_MAX, Checkpoint, checkpoint_prefix
from skyhold.consensus.etcd_records import Record, decode_record, encode_record
from skyhold.consensus.register import CHANGES_KEPT, OPERATION_ID_BYTES_MAX, VERSION_MAX, RegisterChange, Versioned
from skyhold.errors import Corrupt, SkyholdError
from skyhold.registry.repository_names import RepositoryNames
from skyhold.registry.root import POLICY_BYTES_MAX, ROOT_BYTES_MAX, Root
from skyhold.registry.version import AUTHOR_BYTES_MAX, MESSAGE_BYTES_MAX, PARENTS_MAX, VersionDocument, VersionFile
from skyhold.security.key_bounds import DATA_KEYS_MAX, SCRYPT_WORK_MAX, WRAPS_MAX
from skyhold.security.keys import new_keys
from skyhold.storage import chunk_record, index_segments, layout, pack
from skyhold.storage.blobs import MemoryBlobs
from skyhold.storage.canonical import INTEGER_MAX, canonical
from skyhold.storage.chunk_index import KnownPack
from skyhold.storage.chunk_record import (
    CHUNK_BYTES_MAX,
    STORED_BYTES_MIN,
    STORED_BYTES_OVER_RAW_MAX,
    PackRef,
    PackSession,
    Place,
    RecordSealer,
    open_record,
)
from skyhold.storage.index_segments import decode_segment, encode_segment
from skyhold.storage.layout import PageBuilder, decode_page
from skyhold.storage.pack import PACK_BYTES_MAX, decode_entries, encode_entries
from skyhold.storage.paths import PART_BYTES_MAX, PATH_BYTES_MAX
from skyhold.store import configuration, features, node, store_document
from skyhold.store import document as document_of_store
from skyhold.store.configuration import (
    CONFIGURATION_BYTES_MAX,
    Configuration,
    ConfiguredBucket,
    decode_configuration,
    encode_configuration,
)
from skyhold.store.document import DocumentRoot
from skyhold.store.event import AUTHOR_BYTES_MAX as EVENT_AUTHOR_BYTES_MAX
from skyhold.store.event import REASON_BYTES_MAX, EventLog, Origin, first_chain, parse_event
from skyhold.store.features import FEATURES_MAX, Features
from skyhold.store.map import Map
from skyhold.store.node import KEY_BYTES_MAX, LEVEL_MAX, decode_node
from skyhold.store.store_document import (
    BUCKETS,
    Engine,
    StoreDocument,
    decode_store_document,
    encode_store_document,
    engine_from_json,
    engine_to_json,
)
from tests.second_reading import READER

KEYS = FrameKeys({0: DataKey(b"m" * 32, b"s" * 32)}, 0, sealed=False)
KEY, ID, VOTER = "repository/" + "5" * 32, "5" * 32, "a" * 32
DIGEST = "d" * 64
ANY = "f" * 32
"""A proposer."""


@dataclass(frozen=True)
class Bound:
    """`read` takes what `write` or `forge` make of a value of the field. There is no `least` of what may be empty.
    `second`: the second reader has this bound."""

    field: str
    least: int | None
    greatest: int
    write: Callable[[int], Any]
    forge: Callable[[int], Any]
    read: Callable[[Any], object]
    second: bool = True


@contextmanager
def without(where: Any, **checks: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, check in checks.items():
            patch.setattr(where, name, check)
        yield


# ---- acceptors


def acceptor(held: AcceptorObject) -> bytes:
    return encode_acceptor(held, 1, KEY, VOTER, KEYS)


def forged_acceptor(held: AcceptorObject) -> bytes:
    with without(acceptor_object, _checked=lambda held, *_: held):
        return acceptor(held)


def read_acceptor(stored: bytes) -> object:
    return decode_acceptor(stored, 1, KEY, VOTER, KEYS)


def held(
    *, counter: int = 2, version: int = 3, changes: int = 1, decided: int = 0, operation: str = "op"
) -> AcceptorObject:
    first = version - changes + 1
    value = tuple(RegisterChange(Versioned(first + place, b"x"), operation) for place in range(changes))
    accepted = Ballot(min(counter, 1), ANY)
    return AcceptorObject(AcceptorState(Ballot(counter, ANY), accepted, value), decided, "", "")


def of_acceptor(
    field: str, least: int | None, greatest: int, made: Callable[[int], AcceptorObject], second: bool
) -> Bound:
    return Bound(
        f"acceptor: {field}",
        least,
        greatest,
        lambda value: acceptor(made(value)),
        lambda value: forged_acceptor(made(value)),
        read_acceptor,
        second,
    )


ACCEPTORS = [
    of_acceptor("counter of a ballot", 1, COUNTER_MAX, lambda value: held(counter=value), True),
    of_acceptor("version", 1, VERSION_MAX, lambda value: held(version=value), True),
    of_acceptor("kept changes", None, CHANGES_KEPT, lambda value: held(version=100, changes=value), True),
    of_acceptor("decided", 0, 3, lambda value: held(decided=value), False),
    of_acceptor("operation", 1, OPERATION_ID_BYTES_MAX, lambda value: held(operation="o" * value), False),
]

# ---- checkpoints and etcd


def checkpoint(term: int, version: int) -> tuple[bytes, str]:
    prefix = checkpoint_prefix(KEY, term, version, b"n" * 32)
    return Checkpoint(KEY, term, Versioned(version, b"x"), "m", None).encode(), prefix + "0" * 32


def forged_checkpoint(term: int, version: int) -> tuple[bytes, str]:
    body, _ = checkpoint(1, 1)
    fields = json.loads(body) | {"term": term, "version": version}
    return json.dumps(fields).encode(), checkpoint_prefix(KEY, term, version, b"n" * 32) + "0" * 32


def read_checkpoint(stored: tuple[bytes, str]) -> object:
    return Checkpoint.decode(*stored, b"n" * 32)


def record(version: int, operations: int) -> bytes:
    return encode_record(Record(Versioned(version, b"x"), ("op",) * operations, "", ""))


def forged_record(version: int, operations: int) -> bytes:
    with without(etcd_records, _checked=lambda record: record):
        return record(version, operations)


REGISTERS = [
    Bound(
        "checkpoint: epoch",
        0,
        EPOCH_MAX,
        lambda value: checkpoint(value, 1),
        lambda value: forged_checkpoint(value, 1),
        read_checkpoint,
    ),
    Bound(
        "checkpoint: version",
        1,
        VERSION_MAX,
        lambda value: checkpoint(1, value),
        lambda value: forged_checkpoint(1, value),
        read_checkpoint,
    ),
    Bound(
        "etcd: version",
        1,
        VERSION_MAX,
        lambda value: record(value, 1),
        lambda value: forged_record(value, 1),
        lambda stored: decode_record(stored, "key"),
        second=False,
    ),
    Bound(
        "etcd: kept changes",
        1,
        CHANGES_KEPT,
        lambda value: record(100, value),
        lambda value: forged_record(100, value),
        lambda stored: decode_record(stored, "key"),
        second=False,
    ),
]

# ---- store.json

STORE_KEYS, WRAPS = new_keys(ID, [])


def document(**fields: Any) -> StoreDocument:
    made = StoreDocument(ID, "a", VOTER, False, Engine("", 1, BUCKETS, (("a", VOTER),)), (), tuple(WRAPS))
    return replace(made, **fields)


def of_store(field: str, least: int, greatest: int, made: Callable[[int], StoreDocument], second: bool = True) -> Bound:
    def forge(value: int) -> bytes:
        with without(store_document, _refuse_unreadable=lambda read: None):
            return encode_store_document(made(value), STORE_KEYS)

    return Bound(
        f"store.json: {field}",
        least,
        greatest,
        lambda value: encode_store_document(made(value), STORE_KEYS),
        forge,
        lambda stored: decode_store_document(stored, [], "here"),
        second,
    )


def voters(count: int) -> StoreDocument:
    return document(engine=Engine("", 1, BUCKETS, tuple((f"b{number}", f"{number:032x}") for number in range(count))))


def forged_engine(term: int) -> dict[str, object]:
    with without(store_document, _refuse_unreadable=lambda read: None):
        return engine_to_json(Engine(VOTER, term))


STORES = [
    of_store("term", 0, EPOCH_MAX, lambda value: document(engine=Engine(VOTER, value))),
    of_store("voters", 1, VOTERS_MAX, voters),
    of_store("name of the bucket", 1, 63, lambda value: document(bucket="b" * value), second=False),
    Bound(
        "epoch: number",
        0,
        EPOCH_MAX,
        lambda value: engine_to_json(Engine(VOTER, value)),
        forged_engine,
        lambda value: engine_from_json(value, "engine"),
    ),
]

# ---- what registers hold


def swapped(body: bytes, field: str, before: int, after: int) -> bytes:
    changed = body.replace(f'"{field}":{before}'.encode(), f'"{field}":{after}'.encode())
    assert changed != body or before == after
    return changed


def root(**fields: Any) -> bytes:
    return replace(Root.first(ID, gc_epoch=0, policy={}), **fields).encode()


def names(epoch: int) -> bytes:
    return replace(RepositoryNames.first(MemoryBlobs()), gc_epoch=epoch).encode()


def policy(size_bytes: int) -> dict[str, object]:
    return {"p": "x" * (size_bytes - len(canonical({"p": ""})))}


def forged_policy(size_bytes: int) -> bytes:
    fields = json.loads(root()) | {"policy": policy(size_bytes)}
    return canonical(fields)


def read_root(stored: bytes) -> object:
    return Root.decode(stored, ID)


def with_key(length: int) -> bytes:
    return canonical(Map(MemoryBlobs()).update({"k" * length: 1}).to_json())


def read_node(stored: bytes) -> object:
    return decode_node(stored, "node", level=json.loads(stored)["level"], first_key=None)


def at_level(level: int) -> bytes:
    return node._encode(level, [("k", DIGEST if level else 1)])


ROOTS = [
    Bound(
        "root: events",
        0,
        INTEGER_MAX,
        lambda value: root(events=value),
        lambda value: swapped(root(events=7), "events", 7, value),
        read_root,
    ),
    Bound(
        "root: gc_epoch",
        0,
        INTEGER_MAX,
        lambda value: root(gc_epoch=value),
        lambda value: swapped(root(gc_epoch=7), "gc_epoch", 7, value),
        read_root,
    ),
    Bound(
        "names: epoch of gc",
        0,
        INTEGER_MAX,
        names,
        lambda value: swapped(names(7), "epoch", 7, value),
        lambda stored: RepositoryNames.decode(stored, 1, MemoryBlobs()),
    ),
    Bound(
        "root: bytes of the policy",
        None,
        POLICY_BYTES_MAX,
        lambda value: root(policy=policy(value)),
        forged_policy,
        read_root,
        second=False,
    ),
    Bound(
        "map: bytes of a key",
        1,
        KEY_BYTES_MAX,
        with_key,
        lambda value: canonical({"level": 0, "entries": [["k" * value, 1]]}),
        read_node,
        second=False,
    ),
    Bound(
        "map: level",
        0,
        LEVEL_MAX,
        at_level,
        lambda value: canonical({"level": value, "entries": [["k", DIGEST if value else 1]]}),
        read_node,
    ),
]

# ---- documents, events and the configuration


def event(*, author: str = "a", reason: str = "") -> dict[str, object]:
    log = EventLog(KEY, 0, first_chain(KEY), Map(MemoryBlobs()), MemoryBlobs())
    made = log.append(Origin(author, "2026-11-30T12:00:00Z", reason), [{"kind": "deleted"}], {})
    return dict(made.map.get("event/0000000000000001"))  # type: ignore[call-overload]


def of_event(field: str, greatest: int) -> Bound:
    return Bound(
        f"event: {field}",
        None,
        greatest,
        lambda value: event(**{field: "x" * value}),
        lambda value: event() | {field: "x" * value},
        lambda value: parse_event(KEY, 1, value),
    )


def cluster(size_bytes: int) -> bytes:
    made = DocumentRoot(ID, "cluster", "prod", 0, DIGEST)
    entry = ["k", "x" * (size_bytes - len(made.encode()) - len('["k",""]'))]
    return replace(made, map={"level": 0, "entries": [entry]}).encode()


def forged_cluster(size_bytes: int) -> bytes:
    with without(document_of_store, ROOT_BYTES_MAX=2 * ROOT_BYTES_MAX):
        return cluster(size_bytes)


def settings(size_bytes: int) -> bytes:
    made = Configuration((ConfiguredBucket(parse_location("/tmp/a", name="a"), VOTER),))
    log = {"x": "x" * (size_bytes - len(encode_configuration(made)) - len('"x":""'))}
    return encode_configuration(replace(made, log=log))


def forged_settings(size_bytes: int) -> bytes:
    with without(configuration, CONFIGURATION_BYTES_MAX=2 * CONFIGURATION_BYTES_MAX):
        return settings(size_bytes)


def features_called(names: list[str]) -> bytes:
    return encode_store_document(document(features=Features(write=frozenset(names))), STORE_KEYS)


def forged_features(names: list[str]) -> bytes:
    with (
        without(features, FEATURES_MAX=10 * FEATURES_MAX, _NAME=re.compile(".*")),
        without(store_document, _refuse_unreadable=lambda read: None),
    ):
        return features_called(names)


def of_features(field: str, least: int | None, greatest: int, names: Callable[[int], list[str]]) -> Bound:
    return Bound(
        f"features: {field}",
        least,
        greatest,
        lambda value: features_called(names(value)),
        lambda value: forged_features(names(value)),
        lambda stored: decode_store_document(stored, [], "here"),
    )


DOCUMENTS = [
    of_event("author", EVENT_AUTHOR_BYTES_MAX),
    of_event("reason", REASON_BYTES_MAX),
    Bound(
        "document: bytes", None, ROOT_BYTES_MAX, cluster, forged_cluster, lambda stored: DocumentRoot.decode(stored, ID)
    ),
    Bound(
        "configuration: bytes",
        None,
        CONFIGURATION_BYTES_MAX,
        settings,
        forged_settings,
        decode_configuration,
        second=False,
    ),
    of_features("number", None, FEATURES_MAX, lambda count: [f"f{number}" for number in range(count)]),
    of_features("length of a name", 1, 32, lambda length: ["f" * length]),
]

# ---- versions


def file(path: str = "w", size_bytes: int = 1) -> VersionFile:
    return VersionFile(path, size_bytes, {"sha256": DIGEST})


def version(**fields: Any) -> VersionDocument:
    return replace(VersionDocument((file(),), "2026-11-23T20:05:02Z"), **fields)


def of_version(
    field: str,
    least: int | None,
    greatest: int,
    fields: Callable[[int], dict[str, Any]],
    forged: Callable[[int], object],
) -> Bound:
    """`forged` is the field as JSON has it."""
    (name,) = fields(greatest)

    def forge(value: int) -> bytes:
        return canonical(json.loads(version().encode()) | {name: forged(value)})

    return Bound(
        f"version: {field}",
        least,
        greatest,
        lambda value: version(**fields(value)).encode(),
        forge,
        VersionDocument.decode,
    )


def parents(count: int) -> list[str]:
    return [f"{number:064x}" for number in range(count)]


def path(size_bytes: int) -> str:
    whole = "/".join("p" * 250 for _ in range(10))
    return whole[: size_bytes - 1] + "q" if size_bytes > 250 else "q" * size_bytes


def files_of(path: str) -> list[object]:
    return [{"path": path, "size": 1, "digests": {"sha256": DIGEST}}]


VERSIONS = [
    of_version("author", None, AUTHOR_BYTES_MAX, lambda n: {"author": "a" * n}, lambda n: "a" * n),
    of_version("message", None, MESSAGE_BYTES_MAX, lambda n: {"message": "a" * n}, lambda n: "a" * n),
    of_version("parents", None, PARENTS_MAX, lambda n: {"parents": tuple(parents(n))}, parents),
    of_version(
        "bytes of a path", 1, PATH_BYTES_MAX, lambda n: {"files": (file(path(n)),)}, lambda n: files_of(path(n))
    ),
    of_version(
        "bytes of a part", 1, PART_BYTES_MAX, lambda n: {"files": (file("p" * n),)}, lambda n: files_of("p" * n)
    ),
    Bound(
        "version: size of a file",
        0,
        INTEGER_MAX,
        lambda value: version(files=(file(size_bytes=value),)).encode(),
        lambda value: swapped(version().encode(), "size", 1, value),
        VersionDocument.decode,
    ),
]

# ---- frames and pages


def zeros(length: int) -> bytes:
    return encode_frame(Kind.INDEX, bytes(length), context="indexes", keys=KEYS)


def forged_zeros(length: int) -> bytes:
    with without(frame, BODY_BYTES_MAX=2 * BODY_BYTES_MAX):
        return zeros(length)


def page(raw_length: int, stored_length: int) -> bytes:
    builder = PageBuilder()
    builder.append(Place(b"c" * 32, PackRef(b"p" * 16, b"s" * 16), 64, stored_length, raw_length, 0, None), None)
    return builder.finish()


def forged_page(raw_length: int, stored_length: int) -> bytes:
    with without(layout, check_lengths=lambda *_: None):
        return page(raw_length, stored_length)


PAGES = [
    Bound(
        "frame: bytes of the body",
        None,
        BODY_BYTES_MAX,
        zeros,
        forged_zeros,
        lambda stored: decode_frame(stored, kind=Kind.INDEX, context="indexes", keys=KEYS),
    ),
    Bound(
        "page: raw length",
        1,
        CHUNK_BYTES_MAX,
        lambda value: page(value, 17),
        lambda value: forged_page(value, 17),
        lambda stored: decode_page(stored, "page"),
    ),
    Bound(
        "page: stored length",
        STORED_BYTES_MIN,
        1000 + STORED_BYTES_OVER_RAW_MAX,
        lambda value: page(1000, value),
        lambda value: forged_page(1000, value),
        lambda stored: decode_page(stored, "page"),
        second=False,
    ),
]

# ---- packs and the index

PACK = PackRef(b"p" * 16, b"s" * 16)
SESSION = PackSession(b"t" * 16, bytes(8), PACK.salt)


def place(raw_length: int, stored_length: int) -> Place:
    return Place(b"c" * 32, PACK, 64, stored_length, raw_length, 0, None)


def packed(raw_length: int, stored_length: int) -> tuple[bytes, Place]:
    encoded = bytes(max(stored_length - 16, 0))
    made = RecordSealer(KEYS, SESSION).seal(b"c" * 32, 0, raw_length, None, encoded)
    return made.header + bytes(made.payload) + made.tag, place(raw_length, made.stored_length)


def forged_packed(raw_length: int, stored_length: int) -> tuple[bytes, Place]:
    with without(chunk_record, check_lengths=lambda *_: None):
        return packed(raw_length, stored_length)


def footer(raw_length: int, stored_length: int) -> bytes:
    return encode_entries([place(raw_length, stored_length)])


def forged_footer(raw_length: int, stored_length: int) -> bytes:
    with without(pack, check_lengths=lambda *_: None):
        return footer(raw_length, stored_length)


def segment(raw_length: int = 1000, stored_length: int = 1000, size_bytes: int = 2000) -> bytes:
    packs = [KnownPack(PACK, "0" * 16, size_bytes)]
    return encode_segment("0" * 16, packs, [place(raw_length, stored_length)], [])


def forged_segment(**fields: int) -> bytes:
    with without(index_segments, check_lengths=lambda *_: None, _check_size=lambda _: None):
        return segment(**fields)


def of_lengths(
    what: str, write: Callable[[int, int], Any], forge: Callable[[int, int], Any], read: Callable[[Any], object]
) -> list[Bound]:
    """The raw and the stored length of a chunk, in each place that contains both."""
    return [
        Bound(
            f"{what}: raw length",
            1,
            CHUNK_BYTES_MAX,
            lambda value: write(value, 17),
            lambda value: forge(value, 17),
            read,
        ),
        Bound(
            f"{what}: stored length",
            STORED_BYTES_MIN,
            1000 + STORED_BYTES_OVER_RAW_MAX,
            lambda value: write(1000, value),
            lambda value: forge(1000, value),
            read,
            second=False,
        ),
    ]


PACKS = [
    *of_lengths("record", packed, forged_packed, lambda stored: open_record(*stored, SESSION, KEYS)),
    *of_lengths("footer", footer, forged_footer, lambda body: decode_entries(body, PACK)),
    *of_lengths(
        "segment",
        segment,
        lambda raw, stored: forged_segment(raw_length=raw, stored_length=stored),
        lambda body: decode_segment(body, "segment"),
    ),
    Bound(
        "segment: size of a pack",
        1,
        PACK_BYTES_MAX,
        lambda value: segment(size_bytes=value),
        lambda value: forged_segment(size_bytes=value),
        lambda body: decode_segment(body, "segment"),
    ),
]

# ---- keys

CLEAR = WRAPS[0]["wraps"][0]  # type: ignore[index]


def of_keys(field: str, least: int | None, greatest: int, made: Callable[[int], list[dict[str, object]]]) -> Bound:
    def write(value: int) -> bytes:
        return encode_store_document(document(keys=tuple(made(value))), STORE_KEYS)

    def forge(value: int) -> bytes:
        with without(store_document, check_keys=lambda _: None, _refuse_unreadable=lambda read: None):
            return write(value)

    return Bound(f"keys: {field}", least, greatest, write, forge, lambda body: decode_store_document(body, [], "here"))


def wrapped(number: int, *others: dict[str, object]) -> dict[str, object]:
    return {"number": number, "wraps": [CLEAR, *others]}


def dear(work: int) -> dict[str, object]:
    return {"kind": "passphrase", "kdf": "scrypt", "n": work, "r": 1, "p": 1}


STORE_KEY_BOUNDS = [
    of_keys("data keys", 1, DATA_KEYS_MAX, lambda count: [wrapped(number) for number in range(count)]),
    of_keys("number of a key", None, (1 << 16) - 1, lambda number: [wrapped(0), wrapped(number)]),
    of_keys("wraps of a key", None, WRAPS_MAX, lambda count: [wrapped(0, *[{"kind": "other"}] * (count - 1))]),
    of_keys("work of a wrap", None, SCRYPT_WORK_MAX, lambda work: [wrapped(0, dear(work))]),
    of_keys(
        "work of all wraps",
        None,
        SCRYPT_WORK_MAX,
        lambda work: [wrapped(0, dear(SCRYPT_WORK_MAX // 2)), wrapped(1, dear(work - SCRYPT_WORK_MAX // 2))],
    ),
]

BOUNDS = {
    bound.field: bound
    for bound in (*ACCEPTORS, *REGISTERS, *STORES, *ROOTS, *DOCUMENTS, *VERSIONS, *PAGES, *PACKS, *STORE_KEY_BOUNDS)
}


@pytest.mark.parametrize("field", BOUNDS)
def test_value_at_a_bound_is_written_and_read(field: str) -> None:
    bound = BOUNDS[field]
    for value in (bound.greatest, *([] if bound.least is None else [bound.least])):
        bound.read(bound.write(value))
        bound.read(bound.forge(value))


@pytest.mark.parametrize("field", BOUNDS)
def test_value_beyond_a_bound_is_neither_written_nor_read(field: str) -> None:
    bound = BOUNDS[field]
    for value in (bound.greatest + 1, *([] if bound.least is None else [bound.least - 1])):
        with pytest.raises((SkyholdError, ValueError)):
            bound.write(value)
        forged = bound.forge(value)
        with pytest.raises(Corrupt):
            bound.read(forged)


# ---- the second reader


def second_reader() -> ModuleType:
    specification = importlib.util.spec_from_file_location("second_reader_of_bounds", READER)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def integers_of(source: str) -> set[int]:
    """Every integer that a source writes, products and shifts of them too."""
    found: set[int] = set()
    for part in ast.walk(ast.parse(source)):
        if isinstance(part, ast.Constant | ast.BinOp):
            try:
                value = eval(compile(ast.Expression(part), "", "eval"), {"MIB": 1 << 20, "__builtins__": {}})
            except Exception:  # noqa: BLE001 - it is no constant
                continue
            if isinstance(value, int):
                found.add(value)
    return found


@pytest.mark.parametrize("field", [bound.field for bound in BOUNDS.values() if bound.second])
def test_second_reader_has_the_bound(field: str) -> None:
    """It shares no code, so its numbers are looked for in its source: the greatest value, or the first beyond it."""
    written = integers_of(READER.read_text())
    assert {BOUNDS[field].greatest, BOUNDS[field].greatest + 1} & written


@pytest.mark.parametrize("field", [bound.field for bound in ACCEPTORS if bound.second])
def test_second_reader_takes_the_acceptors_that_the_product_takes(field: str) -> None:
    reader, bound = second_reader(), BOUNDS[field]
    store = SimpleNamespace(keys=SimpleNamespace(sealed=False, derive=lambda what, number: b"m" * 32))

    def read(value: int) -> object:
        stored = bound.forge(value)
        bucket = SimpleNamespace(document={"incarnation": VOTER}, read=lambda _: stored)
        return reader.Store.open_acceptor(store, bucket, f"registers/00000001/{KEY.replace('/', '-')}")

    read(bound.greatest)
    with pytest.raises(reader.Damaged):
        read(bound.greatest + 1)


def test_second_reader_takes_the_engines_that_the_product_takes() -> None:
    reader = second_reader()
    for term in (0, EPOCH_MAX):
        reader.check_engine(forged_engine(term))
    for term in (-1, EPOCH_MAX + 1):
        with pytest.raises(reader.Damaged):
            reader.check_engine(forged_engine(term))
    for count in (0, VOTERS_MAX + 1):
        with pytest.raises(reader.Damaged):
            reader.check_engine({"kind": BUCKETS, "term": 1, "voters": [["a", VOTER]] * count})


def test_second_reader_counts_as_far_as_the_product_does() -> None:
    reader = second_reader()
    assert reader.is_count(INTEGER_MAX)
    assert not reader.is_count(INTEGER_MAX + 1)
    assert not reader.is_count(-1)
