"""What only a holder of the store's keys can do: write a register whose parts are inconsistent."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import Any

from skyhold.registry.repositories import Repositories
from skyhold.registry.root import register_key
from skyhold.registry.snapshot import Snapshot
from skyhold.registry.store import Store
from skyhold.registry.version import VersionDocument, version_digest
from skyhold.storage.canonical import Json
from skyhold.storage.chunk_record import PackRef, RecordSealer, open_record
from skyhold.storage.index_segments import decode_segment, encode_segment
from skyhold.storage.layout import decode_head, encode_head
from skyhold.storage.pack import PackBuilder, footer_span, read_footer, read_header
from skyhold.storage.policy import Policy
from skyhold.store.connection import new_operation_id
from skyhold.store.event import event_key


def change_event(store: Store, repository: str, sequence: int, **fields: object) -> None:
    """Change fields of an event in the map, and leave the chain of events as it is."""
    connection = store._connection
    with connection.session(Policy()) as session:
        snapshot = Repositories(connection.registers, session.blobs).open(repository).read()
        key = event_key(sequence)
        event = snapshot.map.get(key)
        assert isinstance(event, dict)
    change_map(store, repository, {key: event | fields})


def change_map(store: Store, repository: str, changes: dict[str, object | None]) -> None:
    """Set entries of a repository's map as they could not come about by a change of refs or a push."""
    connection = store._connection
    with connection.session(Policy()) as session:
        snapshot = Repositories(connection.registers, session.blobs).open(repository).read()
        root = replace(snapshot.root, map=snapshot.map.update(changes).to_json())
        register = register_key(root.repository_id)
        connection.registers.compare_and_set(register, snapshot.register_version, root.encode(), new_operation_id())


def change_version_entry(store: Store, repository: str, digest: str, **fields: object) -> None:
    """Let another event enter a version, with other fields."""
    with store._connection.session(Policy()) as session:
        snapshot = Repositories(store._connection.registers, session.blobs).open(repository).read()
        part = snapshot.version(digest).to_json() | fields
        _enter(store, snapshot, digest, part)


def forge_sha256(store: Store, repository: str, digest: str) -> str:
    """A version like another one, whose document gives other SHA-256s of the files; returns its digest."""
    with store._connection.session(Policy()) as session:
        snapshot = Repositories(store._connection.registers, session.blobs).open(repository).read()
        entry = snapshot.version(digest)
        document = VersionDocument.decode(session.blobs.read("versions", entry.document), digest)
        files = tuple(replace(file, digests={"sha256": "0" * 64}) for file in document.files)
        forged = replace(document, files=files).encode()
        other = version_digest(forged)
        head = decode_head(session.blobs.read("layouts", entry.layout), "layout")
        _, rest = _split_head(session.blobs.read("layouts", entry.layout))
        runs, page = rest[: 24 * len(head.runs)], rest[24 * len(head.runs) :]
        assert len(runs) == 24 * len(head.runs)
        layout = encode_head(other, head.placement_class, head.runs, head.pages, head.tensors, page)
        names = session.blobs.write("versions", forged), session.blobs.write("layouts", layout)
        _enter(store, snapshot, other, replace(entry, digest=other, document=names[0], layout=names[1]).to_json())
    return other


def _enter(store: Store, snapshot: Snapshot, digest: str, part: Json) -> None:
    entries: dict[str, object | None] = {f"version/{digest}": {"event": snapshot.root.events + 1}}
    after = snapshot.after(store._connection.origin(), [part], entries)
    register = register_key(snapshot.root.repository_id)
    store._connection.registers.compare_and_set(register, snapshot.register_version, after.encode(), new_operation_id())


def shift_place(store: Store, repository: str, digest: str) -> None:
    """Give a version another layout, in which the first chunk begins 16 bytes later in its pack."""
    with store._connection.session(Policy()) as session:
        snapshot = Repositories(store._connection.registers, session.blobs).open(repository).read()
        body = bytearray(session.blobs.read("layouts", snapshot.version(digest).layout))
        document, rest = _split_head(bytes(body))
        page = len(body) - len(rest) + 24 * document["runs"]
        (packs,) = struct.unpack_from("<I", body, page)
        at = page + 12 + 32 * packs + 36
        struct.pack_into("<I", body, at, struct.unpack_from("<I", body, at)[0] + 16)
        layout = session.blobs.write("layouts", bytes(body))
    change_version_entry(store, repository, digest, layout=layout)


def _split_head(body: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON of a layout's head, and what follows it."""
    (length,) = struct.unpack_from("<I", body)
    return json.loads(body[4 : 4 + length]), body[4 + length :]


def forge_pack(store: Store, stored: bytes) -> bytes:
    """A pack written by a holder of the store's keys (of an open store, any client that can read a bucket): all is
    sealed again, and one byte of its first chunk that is stored raw differs."""
    connection = store._connection
    pack_id = stored[24:40]
    session = read_header(stored, pack_id, bytes.fromhex(connection.document.store))
    start, length = footer_span(stored[-8:], len(stored), pack_id)
    sealer = RecordSealer(connection.keys, session)
    builder = PackBuilder(bytearray(len(stored) + 4096), session, connection.keys)
    builder.pack = PackRef(pack_id, session.salt)
    builder._view[24:40] = pack_id
    changed = False
    for place in read_footer(stored[start : start + length], builder.pack, connection.keys):
        record = stored[place.offset : place.offset + place.record_length]
        encoded = bytearray(open_record(record, place, session, connection.keys))
        if place.codec == 0 and not changed:
            encoded[0] ^= 1
            changed = True
        builder.append(sealer.seal(place.chunk_id, place.codec, place.raw_length, place.base_id, encoded))
    assert changed
    return bytes(builder.finish())


def forge_segment(store: Store, wrong: str) -> None:
    """Write one more index segment, of the packs of another one, in which something is wrong."""
    connection = store._connection
    with connection.session(Policy()) as session:
        bucket = next(iter(connection.buckets().values()))
        key = next(info.key for info in bucket.list("indexes/"))
        folder, _, name = key.rpartition("/")
        segment = decode_segment(session.blobs.read(folder, name), name)
        packs, places = list(segment.packs), list(segment.places)
        if wrong == "place":
            places[0] = replace(places[0], offset=places[0].offset + 16)
        elif wrong == "size":
            packs[0] = replace(packs[0], size_bytes=packs[0].size_bytes + 1)
        else:
            places.pop()
        session.blobs.write(folder, encode_segment(segment.placement_class, packs, places, [name]))
