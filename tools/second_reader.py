#!/usr/bin/env python3
"""A second reader of Skyhold's storage format, written from docs/format.md alone.

    python tools/second_reader.py --verify BUCKET...            check everything, restore from each bucket into nothing
    python tools/second_reader.py --output DIR BUCKET...        restore every version of every repository into DIR

A BUCKET is a folder that holds a bucket's objects under their keys: a folder bucket, or a copy of a cloud's bucket. Of
an object that several of them hold each copy is checked. --verify restores every version from each bucket on its own,
as far as it has all of it, and from all together where none has. --output restores from the first bucket that has an
object; a damaged copy is never replaced by another one's. A file that is not an object of the store is named, and is
no damage. A sealed store needs --key-file (or SKYHOLD_KEY_FILE), or
SKYHOLD_PASSPHRASE.

It imports nothing of Skyhold, shares no code with it, and is slow and plain on purpose: where the two readers disagree,
the document, this file or Skyhold is wrong. Numbers in comments are sections of the document.

Exit code: 0 all is sound; 1 something is damaged, and named; 2 it could not begin (no bucket, no key, two stores,
or the newest registers are not available).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import math
import os
import re
import struct
import sys
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MIB = 1 << 20
CHUNK_MAX = 4 * MIB
ZERO32 = bytes(32)
HEX = {length: re.compile(f"[0-9a-f]{{{length}}}") for length in (16, 24, 32, 40, 64, 96)}
ACTOR = re.compile(r"[a-z](?:[a-z-]{0,30}[a-z])?")
ATTACHMENT_KIND = re.compile(r"[a-z][a-z0-9-]{0,31}")
FEATURE = re.compile(r"[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
KINDS = {
    "versions": 1,
    "layouts": 2,
    "pages": 3,
    "indexes": 4,
    "nodes": 5,
    "attachments": 6,
    "records": 13,
    "tombstones": 8,
    "tensors": 11,
}
BLOB_KEY = re.compile(
    r"(versions|layouts|pages|tensors|nodes|attachments|records|tombstones)/([0-9a-f]{2})/(\2[0-9a-f]{62})"
)
INDEX_KEY = re.compile(r"(indexes)/([0-9a-f]{16})/([0-9a-f]{64})")
PACK_KEY = re.compile(r"packs/([0-9a-f]{2})/(\1[0-9a-f]{30})")
ACCEPTOR_FIELDS = {"key", "epoch", "promised", "accepted", "changes", "decided", "nonce", "writer", "time"}
EPOCHS_MAX = 1_000
ENGINE_FIELDS = {"sqlite": "machine", "buckets": "voters"}
ACCEPTOR_KEY = re.compile(r"registers/([0-9a-f]{8})/(config|names|(?:repository|document)-[0-9a-f]{32})")
CHECKPOINT_KEY = re.compile(r"checkpoints/([0-9a-f]{32})/([0-9a-f]{8})-([0-9a-f]{16})-[0-9a-f]{32}")


class Damaged(Exception):
    """An object violates the document."""

    def __repr__(self) -> str:
        return str(self)


class Lacking(Exception):
    """A bucket does not hold an object that is needed."""


class CannotBegin(Exception):
    """What was given is no store, or does not open."""


BROKEN = (Damaged, KeyError, IndexError, TypeError, ValueError, AttributeError, struct.error, RecursionError)
"""What reading a malformed value may raise: a field that is not there, or of another type, is damage as any other."""


def check(holds: object, why: str) -> None:
    if not holds:
        raise Damaged(why)


# ---- JSON in the form of RFC 8785


def canonical(value: object) -> bytes:
    return _canonical(value).encode("utf-8")


def _canonical(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    check(isinstance(value, dict), "a value that JSON does not know")
    names = sorted(value, key=lambda name: name.encode("utf-16-be"))
    return "{" + ",".join(_canonical(name) + ":" + _canonical(value[name]) for name in names) + "}"


def _number(value: float) -> str:
    """A number as ECMAScript writes it: the shortest digits, plain from 1e-6 up to 1e21."""
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    point = len(whole) + int(exponent or 0)
    digits = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    if 0 < point <= 21:
        text = digits.ljust(point, "0")
        return sign + text[:point] + ("." + text[point:] if len(digits) > point else "")
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    power = f"e{point - 1:+d}"
    return sign + digits[0] + ("." + digits[1:] if len(digits) > 1 else "") + power


def parse_json(body: bytes, what: str) -> object:
    """A JSON value, whose bytes must be in canonical form."""

    def pairs(found: list[tuple[str, object]]) -> dict[str, object]:
        check(len(dict(found)) == len(found), f"{what}: a name comes twice")
        return dict(found)

    def integer(text: str) -> int | float:
        return int(text) if abs(int(text)) < 1 << 53 else float(text)

    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=pairs, parse_int=integer)
        check(depth(value) <= 33, f"{what}: nested too deep")
        same = canonical(value) == body
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{what}: not JSON: {error}") from error
    check(same, f"{what}: not in canonical form")
    return value


def depth(value: object) -> int:
    if isinstance(value, dict | list):
        return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)
    return 0


def parse_object(body: bytes, what: str) -> dict:
    value = parse_json(body, what)
    check(isinstance(value, dict), f"{what}: not an object")
    return value


def is_hex(value: object, length: int) -> bool:
    return isinstance(value, str) and HEX[length].fullmatch(value) is not None


def is_count(value: object, below: int = 1 << 53) -> bool:
    return type(value) is int and 0 <= value < below


def is_ballot(value: object) -> bool:
    counter, proposer = value if isinstance(value, list) and len(value) == 2 else (None, None)
    return is_count(counter) and counter > 0 and isinstance(proposer, str) and bool(HEX[32].fullmatch(proposer))


# ---- 4 keys


class Keys:
    """The data keys of a store, and what is derived from them."""

    def __init__(self, store: str, sealed: bool, data_keys: dict[int, bytes]) -> None:
        self.store, self.sealed, self.data_keys = bytes.fromhex(store), sealed, data_keys
        self.chunk_id = self.derive("chunk id", 0)
        self.name = self.derive("object name", 0)

    def derive(self, purpose: str, number: int) -> bytes:
        check(number in self.data_keys, f"data key {number} is not in store.json")
        return blake3(self.data_keys[number], derive_key_context=f"skyhold 2026-11-23 {purpose}").digest()


def read_key_file(path: Path) -> bytes:
    text = path.read_text("ascii").strip()
    digits = text.removeprefix("skyhold-key-1:")
    if digits == text or not is_hex(digits, 64):
        raise CannotBegin(f"{path} is not a key file")
    return bytes.fromhex(digits)


def unwrap(wrap: dict, associated: bytes, sealed: bool, key_file: bytes | None, passphrase: str | None) -> bytes | None:
    """The data key in a wrap, or None where it needs another key."""
    kind = wrap.get("kind")
    if kind == "clear":
        return bytes.fromhex(wrap["key"]) if not sealed and is_hex(wrap.get("key"), 64) else None
    if kind == "file" and key_file is not None and wrap.get("kek") == hashlib.sha256(key_file).hexdigest()[:16]:
        kek = key_file
    elif kind == "passphrase" and passphrase is not None and wrap.get("kdf") == "scrypt":
        n, r, p = wrap.get("n"), wrap.get("r"), wrap.get("p")
        check(is_count(n) and is_count(r) and is_count(p), "a wrap has no parameters")
        memory_bytes = 128 * r * (n + p + 2)
        check(n > 1 and n & (n - 1) == 0 and r > 0 and 1 <= p <= 16, "scrypt is asked for what it cannot do")
        check(memory_bytes <= 512 * MIB, "scrypt asks too much")
        text, salt = unicodedata.normalize("NFC", passphrase).encode(), bytes.fromhex(wrap["salt"])
        kek = hashlib.scrypt(text, salt=salt, n=n, r=r, p=p, maxmem=memory_bytes, dklen=32)
    else:
        return None
    try:
        return AESGCM(kek).decrypt(
            bytes.fromhex(wrap["nonce"]), bytes.fromhex(wrap["sealed"]), associated + kind.encode()
        )
    except InvalidTag:
        raise CannotBegin(f"the store does not open with this {kind}") from None


def check_wraps(keys: list) -> None:
    """Bounds on untrusted input, before the first wrap is tried."""
    check(len(keys) <= 256 and all(len(entry["wraps"]) <= 64 for entry in keys), "store.json: too many keys or wraps")
    dear = [wrap for entry in keys for wrap in entry["wraps"] if wrap.get("kind") == "passphrase"]
    work = sum(wrap["n"] * wrap["r"] * wrap["p"] for wrap in dear)
    check(work <= 1 << 25, "store.json: its passphrases ask for too much work")


def open_keys(document: dict, key_file: bytes | None, passphrase: str | None) -> Keys:
    given = key_file is not None or passphrase is not None
    if given and not document["sealed"]:
        raise CannotBegin("a key was given, but the store is not sealed")
    check_wraps(document["keys"])
    opened: dict[int, bytes] = {}
    for entry in document["keys"]:
        number, wraps = entry["number"], entry["wraps"]
        check(is_count(number, 1 << 16) and number not in opened, "store.json: a key's number")
        associated = b"skyhold wrap\0" + bytes.fromhex(document["store"]) + struct.pack("<H", number)
        found = (unwrap(wrap, associated, document["sealed"], key_file, passphrase) for wrap in wraps)
        key = next((key for key in found if key is not None), None)
        if key is None:
            raise CannotBegin(f"no key was given that opens data key {number}")
        opened[number] = key
    check(0 in opened, "store.json: data key 0 is missing")
    return Keys(document["store"], document["sealed"], opened)


# ---- 3 store.json

STORE_FIELDS = {
    "skyhold", "format", "features", "store", "bucket", "incarnation", "sealed", "engine", "hints", "keys", "mac",
}  # fmt: skip
HINT_FIELDS = {"name", "url", "provider", "region", "endpoint", "path_style", "allow_http"}


def check_engine(engine: dict) -> None:
    fields = {"kind", "term", ENGINE_FIELDS[engine["kind"]]}
    check(engine.keys() == fields and is_count(engine["term"], 1 << 32), "the engine's fields")
    check(1 <= len(engine.get("voters", "_")) <= 7, "the engine's voters")


def check_features(features: dict) -> None:
    check(features.keys() == {"read", "write"}, "the fields of the features")
    for names in features.values():
        check(names == sorted(set(names)) and all(FEATURE.fullmatch(name) for name in names), "a feature's name")
    check(len(features["read"]) + len(features["write"]) <= 64, "too many features")
    if features["read"]:  # to read needs none of those that are for writers
        raise CannotBegin(f"the store has features that this reader does not know: {features['read']}")


class Bucket:
    """A folder with the objects of one bucket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "store.json").is_file():
            raise CannotBegin(f"{folder} is no bucket: it has no store.json")
        self.keys = sorted(self.walk())
        self.held = set(self.keys)
        self.restored = 0
        self.document: dict = {}

    def walk(self):
        for path in self.folder.rglob("*"):
            key = path.relative_to(self.folder).as_posix()
            own = key.split("/", 1)[0] in {".skyhold", ".skyhold-check"}  # a folder bucket's own files, and scratch
            if not own and not path.is_dir():
                yield key

    def read(self, key: str) -> bytes:
        return (self.folder / key).read_bytes()

    def load_document(self, key_file: bytes | None, passphrase: str | None) -> Keys:
        body = self.read("store.json")
        check(len(body) <= MIB, "store.json: over 1 MiB")
        document = parse_object(body, "store.json")
        check(document.get("skyhold") == "store", "store.json: it is that of something else")
        if document.get("format") != 1:
            raise CannotBegin(f"{self.folder}: format {document.get('format')}")
        check(document.keys() == STORE_FIELDS, "store.json: its fields")
        check_features(document["features"])
        check(is_hex(document["store"], 32) and is_hex(document["incarnation"], 32), "store.json: an id")
        check(isinstance(document["sealed"], bool), "store.json: sealed")
        engine = document["engine"]
        kind = engine.get("kind")
        if kind not in {"sqlite", "buckets"}:
            raise CannotBegin(f"{self.folder}: the registers live in {kind}, not in the buckets")
        check_engine(engine)
        check(all(hint.keys() <= HINT_FIELDS for hint in document["hints"]), "store.json: a hint has other fields")
        keys = open_keys(document, key_file, passphrase)
        mac = document.pop("mac")
        expected = blake3(b"store.json\0" + canonical(document), key=keys.derive("mac", 0)).hexdigest()
        check(mac == expected, "store.json: its MAC does not match")
        self.document = document
        return keys


# ---- 5 the frame


def open_frame(data: bytes, kind: int, context: str, keys: Keys) -> bytes:
    check(len(data) >= 36, "a frame shorter than its header")
    header = data[:36]
    magic, form, found, flags, zero1, number, zero2, length, salt, stored = struct.unpack("<4sBBBBHHI16sI", header)
    check(magic == b"SKYF" and form == 1 and found == kind, "not a frame of this kind")
    check(zero1 == 0 and zero2 == 0 and flags < 4, "a reserved field of the frame is set")
    check(length <= 64 * MIB, "the frame's body is too long")
    sealed = bool(flags & 2)
    check(len(data) == 36 + stored + (0 if sealed else 32), "the frame has another length than in its header")
    payload = data[36 : 36 + stored]
    if sealed:
        key = blake3(b"frame" + salt, key=keys.derive("seal", number)).digest()
        payload = open_gcm(key, bytes(12), payload, context.encode() + b"\0" + header)
    else:
        check(not keys.sealed, "a frame in clear in a sealed store")
        mac = blake3(context.encode() + b"\0" + header + payload, key=keys.derive("mac", number)).digest()
        check(mac == data[36 + stored :], "the frame's MAC does not match")
    if flags & 1:
        payload = unzstd(payload, length)
    check(len(payload) == length, "the frame's body has another length than in its header")
    return payload


def open_gcm(key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(nonce, sealed, associated)
    except InvalidTag:
        raise Damaged("a seal does not open") from None


def unzstd(frame: bytes, length: int) -> bytes:
    """The content of exactly one frame of RFC 8878 that declares this size."""
    try:
        check(zstandard.frame_content_size(frame) == length, "a zstd frame does not declare the expected size")
        plain = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Damaged(f"zstd: {error}") from error
    check(len(plain) == length, "a zstd frame has another size than it declares")
    return plain


# ---- 6 the pack


class Record(NamedTuple):
    """A record's header, as footers, indexes and layouts repeat it."""

    chunk: bytes
    base: bytes
    offset: int
    stored: int
    raw: int
    codec: int


class PackHeader(NamedTuple):
    sealed: bool
    number: int
    class_: bytes
    salt: bytes


RECORD_HEADER = struct.Struct("<4sBBHII32s32s12sI")


def parse_pack_header(data: bytes, name: str, keys: Keys) -> PackHeader:
    check(len(data) >= 64, "a pack shorter than its header")
    magic, form, flags, number, store, pack, class_, salt = struct.unpack("<4sBBH16s16s8s16s", data[:64])
    check(magic == b"SKYP" and form == 1, "not a pack")
    check(store == keys.store and pack.hex() == name, "the pack of another store or name")
    check(flags == 2 if keys.sealed else flags in (0, 2), "the pack's flags")
    check(number in keys.data_keys, "the pack's data key is not in store.json")
    return PackHeader(flags == 2, number, class_, salt)


def open_record(data: bytes, offset: int, header: PackHeader, keys: Keys) -> tuple[Record, bytes]:
    """The record that begins at the start of `data`, and its encoded chunk."""
    check(len(data) >= 96, "a record shorter than its header")
    head = data[:96]
    magic, codec, flags, number, raw, stored, chunk, base, nonce, zero = RECORD_HEADER.unpack(head)
    check(magic == b"SKYC" and zero == 0 and flags == (2 if header.sealed else 0), "not a record")
    check(number == header.number, "a record under another data key than its pack")
    check(1 <= raw <= CHUNK_MAX and 17 <= stored <= raw + 1024, "a record's lengths")
    payload = data[96 : 96 + stored]
    check(len(payload) == stored, "a record that ends early")
    session = keys.store + header.class_ + header.salt
    if header.sealed:
        key = blake3(b"pack" + header.salt, key=keys.derive("seal", number)).digest()
        encoded = open_gcm(key, nonce, payload, session + head)
    else:
        check(not keys.sealed and nonce == bytes(12), "a record in clear in a sealed store")
        encoded = payload[:-16]
        tag = blake3(session + head + encoded, key=keys.derive("mac", number)).digest()[:16]
        check(tag == payload[-16:], "a record's tag does not match")
    return Record(chunk, base, offset, stored, raw, codec), encoded


def check_pack(data: bytes, name: str, keys: Keys) -> list[Record]:
    """Walk a whole pack: every record must open, and the footer must list exactly these."""
    check(len(data) <= 64 * MIB, "a pack over 64 MiB")
    header = parse_pack_header(data, name, keys)
    length, magic = struct.unpack("<I4s", data[-8:])
    end = len(data) - 8 - length
    check(magic == b"SKYE" and end >= 64, "the pack does not end with a footer")
    body = open_frame(data[end:-8], 9, f"packs/{name}", keys)
    check(len(body) % 80 == 0, "the footer's length")
    records, at = [], 64
    while at < end:
        record, _ = open_record(data[at:end], at, header, keys)
        records.append(record)
        at += 96 + record.stored
    listed = b"".join(
        struct.pack("<32s32sIIIB3x", r.chunk, r.base, r.offset, r.stored, r.raw, r.codec) for r in records
    )
    check(listed == body, "the footer does not list the records that are there")
    return records


# ---- 13 the codecs

PLANES = {0x11: 2, 0x12: 4, 0x13: 8}
DELTA = {0x20: 1, 0x21: 2, 0x22: 4, 0x23: 8}


def decode_chunk(codec: int, payload: bytes, raw: int, base: bytes | None) -> bytes:
    if codec == 0x00:
        check(len(payload) == raw, "a raw chunk of another length")
        return payload
    if codec == 0x01:
        return unzstd(payload, raw)
    width = PLANES.get(codec) or DELTA.get(codec)
    check(width, f"unknown codec {codec:#04x}")
    count, tail = divmod(raw, width)
    check(len(payload) >= 4 * width, "the lengths of the planes are missing")
    elements, at = np.zeros((count, width), np.uint8), 4 * width
    for k, stored in enumerate(struct.unpack(f"<{width}I", payload[: 4 * width])):
        plane = payload[at : at + stored]
        check(stored <= count and len(plane) == stored, "a plane is too long, or ends early")
        elements[:, k] = np.frombuffer(plane if stored == count else unzstd(plane, count), np.uint8)
        at += stored
    check(len(payload) - at == tail, "the tail has another length")
    words = elements.reshape(-1).view(f"<u{width}")
    if codec in DELTA:
        check(base is not None and len(base) == raw, "a delta needs a base of its own length")
        against = np.frombuffer(base, f"<u{width}", count)
        words = against + words - words.dtype.type(int.from_bytes(b"\x80" * width, "little"))
    return words.tobytes() + payload[at:]


# ---- the whole store


class Place(NamedTuple):
    """The place of a chunk, as a page contains it."""

    record: Record
    pack: str
    salt: bytes
    base: Place | None


class Store:
    """All buckets that were given, as one, or where `source` is set that one alone. `problems` collects what is
    damaged, `unknown` what is no object of the store."""

    source: Bucket | None = None

    def __init__(self, folders: list[Path], key_file: bytes | None, passphrase: str | None) -> None:
        self.problems: list[str] = []
        self.unknown: list[str] = []
        self.buckets = [Bucket(folder) for folder in folders]
        self.holders: dict[str, Bucket] = {}
        self.footers: dict[str, set[Record]] = {}
        self.segments: dict[str, tuple[str, bytes]] = {}
        opened = [self.opened(bucket, key_file, passphrase) for bucket in self.buckets]
        self.keys = opened[0]
        for bucket, keys in zip(self.buckets, opened, strict=True):
            if (keys.store, keys.sealed, keys.data_keys[0]) != (
                self.keys.store,
                self.keys.sealed,
                self.keys.data_keys[0],
            ):
                raise CannotBegin(f"{bucket.folder} belongs to another store than {folders[0]}")
            self.keys.data_keys.update(keys.data_keys)
            for key in bucket.keys:
                self.holders.setdefault(key, bucket)

    @staticmethod
    def opened(bucket: Bucket, key_file: bytes | None, passphrase: str | None) -> Keys:
        try:
            return bucket.load_document(key_file, passphrase)
        except BROKEN as error:
            raise Damaged(f"{bucket.folder}: {error!r}") from error

    # Every copy of every object, whether a version needs it or not.

    def check_objects(self) -> None:
        for bucket in self.buckets:
            for key in bucket.keys:
                try:
                    self.check_object(bucket, key)
                except BROKEN as error:
                    self.problems.append(f"{bucket.folder}: {key}: {error!r}")
        replaced: set[str] = set()
        wrong: dict[str, str] = {}
        for segment, (class_, body) in self.segments.items():
            try:
                replaced |= self.check_segment(class_, body)
            except BROKEN as error:
                wrong[segment] = f"indexes/{class_}/{segment}: {error!r}"
        self.problems += [problem for segment, problem in wrong.items() if segment not in replaced]

    def check_object(self, bucket: Bucket, key: str) -> None:
        data = b"" if key == "store.json" else bucket.read(key)
        if match := PACK_KEY.fullmatch(key):
            self.footers[match[2]] = set(check_pack(data, match[2], self.keys))
        elif match := BLOB_KEY.fullmatch(key) or INDEX_KEY.fullmatch(key):
            body = self.open_blob(data, match[1], match[3])
            if match[1] == "indexes":
                self.segments[match[3]] = (match[2], body)
        elif CHECKPOINT_KEY.fullmatch(key):
            self.open_checkpoint(data, key)
        elif match := ACCEPTOR_KEY.fullmatch(key):
            # One that the bucket wrote as an earlier member, under another incarnation, is no longer anyone's.
            if int(match[1], 16) == bucket.document["engine"]["term"]:
                self.open_acceptor(bucket, key)
        elif key != "store.json":
            self.unknown.append(f"{bucket.folder}: {key}")

    def open_blob(self, data: bytes, folder: str, name: str) -> bytes:
        check(blake3(data, key=self.keys.name).hexdigest() == name, "its bytes do not match its name")
        return open_frame(data, KINDS[folder], folder, self.keys)

    def blob(self, folder: str, name: object) -> bytes:
        check(is_hex(name, 64), f"{name!r} is not the name of a blob")
        key = f"{folder}/{name[:2]}/{name}"
        return self.open_blob(self.holder(key).read(key), folder, name)

    def holder(self, key: str) -> Bucket:
        """The bucket from which an object is read."""
        check(key in self.holders, f"{key} is missing")
        if self.source is None:
            return self.holders[key]
        if key not in self.source.held:
            raise Lacking(key)
        return self.source

    # ---- 8 the index: it must agree with the packs that are there

    def check_segment(self, class_: str, body: bytes) -> set[str]:
        """Check one, and return the names of those that it replaces, which need not agree any more."""
        head, at = self.split_json(body, "index")
        fields = {"index", "class", "packs", "chunks", "first", "last", "replaces"}
        check(head.keys() == fields and head["index"] == 1 and head["class"] == class_, "the segment's head")
        packs = [struct.unpack_from("<16s16sQ", body, at + 40 * i) for i in range(head["packs"])]
        entries = list(struct.iter_unpack("<32s32sIIIB3xI", body[at + 40 * len(packs) :]))
        check(len(entries) == head["chunks"] > 0, "the segment's counts")
        chunks = [entry[0] for entry in entries]
        check(chunks == sorted(chunks), "the segment is not sorted")
        check((chunks[0].hex(), chunks[-1].hex()) == (head["first"], head["last"]), "the segment's bounds")
        for chunk, base, offset, stored, raw, codec, number in entries:
            check(number < len(packs), "an entry names a pack that the segment does not list")
            footer = self.footers.get(packs[number][0].hex())  # one that was deleted is no error
            known = footer is None or Record(chunk, base, offset, stored, raw, codec) in footer
            check(known, "an entry that its pack does not have")
        return set(head["replaces"])

    @staticmethod
    def split_json(body: bytes, what: str) -> tuple[dict, int]:
        check(len(body) >= 4, f"the {what} is too short")
        (length,) = struct.unpack_from("<I", body)
        return parse_object(body[4 : 4 + length], what), 4 + length

    # ---- 11 the registers, from the checkpoints

    def open_checkpoint(self, data: bytes, key: str) -> dict:
        value = parse_object(open_frame(data, 7, key, self.keys), "checkpoint")
        fields = {"key", "term", "version", "data", "machine", "previous"}
        check(value.keys() - {"next_configuration"} == fields, "the checkpoint's fields")
        check(is_count(value["term"], 1 << 32) and is_count(value["version"]), "the checkpoint's term or version")
        folder = blake3(f"register/{value['key']}".encode(), key=self.keys.name).hexdigest()[:32]
        prefix = f"checkpoints/{folder}/{value['term']:08x}-{value['version']:016x}-"
        check(key.startswith(prefix), "the checkpoint of another register or change")
        return value

    def registers(self) -> dict[str, bytes]:
        """The newest known value of every register: of the epoch that a store.json names, or of one that it led to."""
        engine = max((bucket.document["engine"] for bucket in self.buckets), key=lambda engine: engine["term"])
        # A recovery may have left registers that have not changed since in checkpoints of an earlier term.
        values = self.checkpointed(0) if engine["kind"] == "sqlite" else self.accepted(engine)
        for _ in range(EPOCHS_MAX):
            following = values.get("config", {}).get("next")
            moved = {} if following is None else self.next_epoch(following)
            if "config" not in moved:  # created last of all: without it that epoch has not begun
                return {key: value["data"] for key, value in values.items() if value["data"]}
            values = moved
        raise Damaged(f"register config was sealed in {EPOCHS_MAX} epochs, one after the other")

    # ---- 11b the registers, from one epoch to the next

    def next_epoch(self, following: bytes) -> dict[str, dict]:
        """The last change of every register in the epoch that a seal names, as far as it has begun."""
        epoch = parse_object(following, "epoch")
        check(epoch.keys() == {"epoch", "engine", "configuration"} and epoch["epoch"] == 1, "the epoch's fields")
        engine = epoch["engine"]
        if engine.get("kind") == "etcd":
            raise CannotBegin(
                f"the store moved to the etcd cluster {engine.get('cluster')}, or was about to: newer registers may be "
                "there, not in the buckets"
            )
        check_engine(engine)
        if engine["kind"] == "buckets":
            return self.accepted(engine)
        values = self.checkpointed(engine["term"])
        members = {b["location"]["name"]: b["incarnation"] for b in epoch["configuration"]["buckets"]}
        here = len(self.among(members))
        if "config" not in values and here <= len(members) // 2:
            raise CannotBegin(
                f"the store was moved to the engine sqlite in epoch {engine['term']}, of which the {here} of its "
                f"{len(members)} buckets that are here have no checkpoints, and a majority is needed"
            )
        return values

    def among(self, members: dict[str, str]) -> list[Bucket]:
        """The available buckets that have one of these names, and its incarnation."""
        return [b for b in self.buckets if members.get(b.document["bucket"]) == b.document["incarnation"]]

    # ---- 11a the registers, from the acceptors

    def open_acceptor(self, bucket: Bucket, key: str) -> dict:
        match = ACCEPTOR_KEY.fullmatch(key)
        epoch, register = int(match[1], 16), match[2].replace("-", "/")
        context = f"acceptor/{bucket.document['incarnation']}/{epoch}/{register}"
        body = open_frame(bucket.read(key), 12, context, self.keys)
        start = 4 + struct.unpack_from("<I", body)[0]
        held = json.loads(body[4:start])
        check(isinstance(held, dict) and held.keys() == ACCEPTOR_FIELDS, "the acceptor's fields")
        for change in held["changes"]:
            check(change.keys() == {"version", "bytes", "next_bytes", "operation"}, "the fields of a change")
            change["data"] = body[start : start + change["bytes"]]
            start += change["bytes"]
            change["next"] = None if change["next_bytes"] is None else body[start : start + change["next_bytes"]]
            start += change["next_bytes"] or 0
        check(start == len(body), "the acceptor's length")
        check((held["key"], held["epoch"]) == (register, epoch), "the acceptor of another register or epoch")
        for ballot in (held["promised"], held["accepted"]):
            check(ballot == [0, ""] or is_ballot(ballot), "a ballot of the acceptor")
        check(held["accepted"] <= held["promised"], "an acceptor that accepted above its promise")
        versions = [change["version"] for change in held["changes"]]
        check(all(is_count(version) and version > 0 for version in versions), "a version of the acceptor")
        check(
            versions == list(range(versions[0], versions[0] + len(versions))) if versions else True, "a gap in changes"
        )
        check(len(versions) <= 64 and (not versions or held["accepted"] != [0, ""]), "the acceptor's changes")
        return held

    def accepted(self, engine: dict) -> dict[str, dict]:
        """The last change of every register, as a prepare at the available voters would adopt it."""
        found: dict[str, dict] = {}
        epoch, voters = engine["term"], dict(engine["voters"])
        here = self.among(voters)
        if len(here) <= len(voters) // 2:
            raise CannotBegin(
                f"{len(here)} of the {len(voters)} voters of epoch {epoch} are here, and a majority is needed"
            )
        for bucket in here:
            for key in bucket.keys:
                match = ACCEPTOR_KEY.fullmatch(key)
                if match is None or int(match[1], 16) != epoch:
                    continue
                try:
                    held = self.open_acceptor(bucket, key)
                except BROKEN as error:
                    if epoch != bucket.document["engine"]["term"]:  # else it is named already
                        self.problems.append(f"{bucket.folder}: {key}: {error!r}")
                    continue
                other = found.setdefault(held["key"], held)
                same = other["accepted"] == held["accepted"]
                check(
                    not same or other["changes"] == held["changes"], f"register {held['key']}: two values of a ballot"
                )
                if held["accepted"] > other["accepted"]:
                    found[held["key"]] = held
        return {key: held["changes"][-1] for key, held in found.items() if held["changes"]}

    def checkpointed(self, term: int) -> dict[str, dict]:
        """The last change of every register that was checkpointed in this term or since."""
        newest: dict[str, tuple[int, int]] = {}
        values: dict[str, dict] = {}
        for key in sorted(self.holders, reverse=True):  # a greater term and version sort later
            match = CHECKPOINT_KEY.fullmatch(key)
            change = (int(match[2], 16), int(match[3], 16)) if match else None
            if match is None or change[0] < term or newest.get(match[1], change) != change:
                continue
            newest[match[1]] = change
            try:
                value = self.open_checkpoint(self.holders[key].read(key), key)
            except BROKEN:
                continue  # named already; another copy, else an older one, must do
            other = values.setdefault(value["key"], value)
            same = all(other.get(field) == value.get(field) for field in ("data", "next_configuration"))
            check(same, f"register {value['key']}: two values of one change")
        return {key: self.change(value) for key, value in values.items()}

    @staticmethod
    def change(checkpoint: dict) -> dict:
        """Data and next configuration of a checkpoint, as those of an acceptor's change."""
        data, following = checkpoint["data"], checkpoint.get("next_configuration")
        return {
            "data": base64.b64decode(data, validate=True),
            "next": None if following is None else base64.b64decode(following, validate=True),
        }

    # ---- 10 the maps

    def read_map(self, top: object) -> dict[str, object]:
        check(isinstance(top, dict), "a map without a top node")
        return dict(self.entries(top, top.get("level"), None))

    def entries(self, node: dict, level: object, first: str | None):
        check(node.keys() == {"level", "entries"} and is_count(level, 16) and node["level"] == level, "a node's level")
        keys = [entry[0] for entry in node["entries"]]
        ordered = [key.encode() for key in keys]
        check(all(a < b for a, b in pairwise(ordered)), "a node's keys do not increase")
        check(first is None or keys[:1] == [first], "a node does not begin with the key that its parent gives")
        for key, value in node["entries"]:
            check(1 <= len(key.encode()) <= 512, "a key's length")
            if level:
                body = self.blob("nodes", value)
                check(len(body) <= 128 * 1024 + 64, "a node is too long")
                yield from self.entries(parse_object(body, "map node"), level - 1, key)
            else:
                check(value is not None and len(canonical(value)) <= 2048, "a value's length")
                yield key, value


# ---- 10 events and records

EVENT_FIELDS = {"what", "author", "time", "chain"}
EVENT_MAY = {"actor", "reason", "group", "signature"}
NO_RECORDS = {"event", "ref", "version", "attached"}


def quoted(text: str) -> int:
    """The bytes of a text in JSON, without the quotation marks."""
    return len(canonical(text)) - 2


def check_event(event: dict, chain: bytes, where: str) -> bytes:
    """The chain after an event, which it must give."""
    check(event.keys() >= EVENT_FIELDS and event.keys() <= EVENT_FIELDS | EVENT_MAY, f"{where}: its fields")
    check(TIME.fullmatch(event["time"]) and quoted(event["author"]) <= 256, f"{where}: its author or time")
    check(0 < quoted(event.get("reason", "x")) <= 1024, f"{where}: its reason")
    check(ACTOR.fullmatch(event.get("actor", "agent")) and event.get("actor") != "person", f"{where}: its actor")
    check(is_hex(event.get("group", "0" * 32), 32), f"{where}: its group")
    rest = {name: value for name, value in event.items() if name not in {"chain", "signature"}}
    chain = hashlib.sha256(chain + canonical(rest)).digest()
    check(chain.hex() == event["chain"], f"{where}: the chain is broken")
    return chain


def read_events(store: Store, register: str, root: dict, entries: dict) -> list[dict]:
    """The events of a register with a map, oldest first, the chain over them checked; their parts in place."""
    chain = hashlib.sha256(b"skyhold events\0" + register.encode()).digest()
    events = []
    found = sorted((key, value) for key, value in entries.items() if key.startswith("event/"))
    for count, (key, event) in enumerate(found, 1):
        where = f"{register}, event {count}"
        check(key == f"event/{count:016x}", f"{where} is missing")
        chain = check_event(event, chain, where)
        what = event["what"]
        if isinstance(what, dict):
            body = store.blob("records", what["blob"])
            check(hashlib.sha256(body).hexdigest() == what["sha256"], f"{where}: its parts have another hash")
            what = parse_object(body, where)["what"]
        check(isinstance(what, list) and all(isinstance(part["kind"], str) for part in what), f"{where}: its parts")
        events.append({**event, "what": what})
    check((len(events), chain.hex()) == (root["events"], root["chain"]), f"{register} ends in another chain")
    return events


def check_records(store: Store, entries: dict, made: dict[str, str | None]) -> None:
    """The records are those that the events made, and the blobs that they name are there."""
    found = {key: value for key, value in entries.items() if key.partition("/")[0] not in NO_RECORDS}
    hashes = {key: hashlib.sha256(canonical(value)).hexdigest() for key, value in found.items()}
    check(hashes == {key: hash_ for key, hash_ in made.items() if hash_}, "records that the events did not make so")
    for key, value in found.items():
        check(isinstance(value, dict) and len(value.get("blobs", {})) <= 8, f"record {key}")
        for name in value.get("blobs", {}).values():
            store.blob("records", name)


def check_document(store: Store, kind: str, name: str, id_: str, data: bytes) -> None:
    check(len(data) <= 16 * 1024, "the register is too long")
    root = parse_object(data, "document")
    fields = {"document", "id", "kind", "name", "gc_epoch", "deleted", "events", "chain", "map"}
    check(root.keys() == fields and root["document"] == 1, "the document's fields")
    check((root["id"], root["kind"], root["name"]) == (id_, kind, name), "another document than the named one")
    entries = store.read_map(root["map"])
    records = {
        part["record"]: part["sha256"]
        for event in read_events(store, f"document/{id_}", root, entries)
        for part in event["what"]
        if part["kind"] == "record"
    }
    check_records(store, entries, records)


def check_configuration_log(store: Store, log: dict) -> None:
    check(log.keys() == {"events", "chain", "recent", "earlier"}, "the fields of the history of the configuration")
    events, earlier, until = list(log["recent"]), log["earlier"], log["events"]
    while earlier is not None:
        until = log["events"] - len(events)
        body = parse_object(store.blob("records", earlier), "history of the configuration")
        check(body["until"] == until and body["events"], "the history of the configuration has a gap")
        events, earlier = body["events"] + events, body["earlier"]
    check(len(events) == log["events"], "the history of the configuration has a gap")
    chain = hashlib.sha256(b"skyhold events\0config").digest()
    for count, event in enumerate(events, 1):
        chain = check_event(event, chain, f"config, event {count}")
    check(chain.hex() == log["chain"], "config ends in another chain")


# ---- 10 repositories


class Repository:
    """Everything of one repository. Reading it checks its history."""

    def __init__(self, store: Store, name: str, id_: str, data: bytes) -> None:
        self.store, self.name, self.id = store, name, id_
        check(len(data) <= 16 * 1024, "the register is too long")
        self.root = parse_object(data, "root")
        fields = {"root", "repository", "gc_epoch", "policy", "deleted", "events", "chain", "map"}
        check(self.root.keys() == fields and self.root["root"] == 1, "the root's fields")
        check(self.root["repository"] == id_, "the root of another repository")
        self.map = store.read_map(self.root["map"])
        self.versions: dict[str, dict] = {}  # by digest, the parts of the events that entered them

    def under(self, prefix: str) -> dict[str, dict]:
        return {key.removeprefix(prefix): value for key, value in self.map.items() if key.startswith(prefix)}

    def check_history(self) -> int:
        """The hash chain over all events, the links between the moves of a ref, and that the map holds what the events
        have made."""
        moved: dict[str, tuple[str | None, int | None]] = {}
        entered, attached, records = {}, {}, {}
        events = read_events(self.store, f"repository/{self.id}", self.root, self.map)
        for count, event in enumerate(events, 1):
            for part in event["what"]:
                what = f"event {count}, {part['kind']}"
                if part["kind"] == "ref":
                    before = moved.get(part["ref"], (None, None))
                    check(before == (part["old"], part["previous"]), f"{what}: its links")
                    moved[part["ref"]] = (part["new"], count)
                elif part["kind"] == "version":
                    entered[part["version"]] = count
                    self.versions[part["version"]] = part
                elif part["kind"] == "attached":
                    check(part["first"] == attached.get(part["version"], 0) + 1, f"{what}: its first")
                    attached[part["version"]] = part["first"] - 1 + part["count"]
                elif part["kind"] == "record":
                    records[part["record"]] = part["sha256"]
        refs = {ref: (value["version"], value["event"]) for ref, value in self.under("ref/").items()}
        check(refs == moved, "a ref does not point to where its last move left it")
        versions = self.under("version/")
        made = {digest: {"event": count} for digest, count in entered.items() if digest in versions}
        check(versions == made, "a version that no event entered so")
        gone = entered.keys() - versions.keys()
        check(all(f"deleted/{digest}" in self.map for digest in gone), "a version is gone that no record calls deleted")
        check(all(version in versions for version, _ in refs.values() if version), "a ref to no version")
        found: dict[str, int] = {}
        for key in self.under("attached/"):
            digest = key.partition("/")[0]
            found[digest] = found.get(digest, 0) + 1
        check(found == attached, "what is attached is not what the events attached")
        check_records(self.store, self.map, records)
        for key, value in self.under("follow/").items():
            check(is_hex(key, 32) and value.keys() == {"ref", "mode", "target"}, f"follow/{key}: its fields")
            if value["mode"] == "follow" and refs.get(value["ref"], (None,))[0] is not None:
                check(value["target"] == refs[value["ref"]][0], f"follow/{key}: its target is not where its ref points")
        check(all(key.partition("/")[0] in versions for key in self.under("pin/")), "a pin of no version")
        return len(events)

    def refs(self) -> dict[str, str]:
        return {ref: value["version"] for ref, value in self.under("ref/").items() if value["version"] is not None}

    def check_attachments(self) -> int:
        found = self.under("attached/")
        versions = self.under("version/")
        for key, value in found.items():
            digest, _, sequence = key.partition("/")
            check(digest in versions and is_hex(sequence, 16) and int(sequence, 16) > 0, f"attachment {key}: its key")
            check(value.keys() == {"kind", "name", "value", "author", "time"}, f"attachment {key}: its fields")
            content, number = value["value"], value["kind"] == "metric"
            if isinstance(content, dict):
                content = self.store.blob("attachments", content.get("blob")).decode("utf-8")
            right = isinstance(content, int | float) and math.isfinite(content) if number else isinstance(content, str)
            check(right and ATTACHMENT_KIND.fullmatch(value["kind"]), f"attachment {key}: its value")
        return len(found)


# ---- 9 the version document

DOCUMENT_FIELDS = {"skyhold", "files", "parents", "message", "author", "time", "parameters", "metadata", "lineage"}


def read_document(repository: Repository, digest: str, entry: dict) -> dict:
    body = repository.store.blob("versions", entry["document"])
    check(hashlib.sha256(body).hexdigest() == digest, "the document does not match its digest")
    check(len(body) <= 32 * MIB, "the document is too long")
    document = parse_object(body, "version document")
    check(document.keys() == DOCUMENT_FIELDS and document["skyhold"] == "version/1", "the document's fields")
    check(TIME.fullmatch(document["time"]), "the document's time")
    lengths = len(document["author"].encode()), len(document["message"].encode())
    check(lengths[0] <= 256 and lengths[1] <= 64 * 1024, "the document's author or message is too long")
    parents = document["parents"]
    check(len(parents) <= 16 and len(set(parents)) == len(parents), "the document's parents")
    named = [parent for parent, _ in entry["parents"]]
    check((document["parents"], document["time"]) == (named, entry["time"]), "the event's parents or time differ")
    check(all(f"version/{parent}" in repository.map for parent in document["parents"]), "a parent is not there")
    before = [repository.versions[parent]["generation"] for parent in document["parents"]]
    check(entry["generation"] == 1 + max(before, default=0), "the event gives another generation")
    files = document["files"]
    paths = [file["path"] for file in files]
    check(paths == sorted(paths, key=str.encode) and len(files) <= 100_000, "the files' order or number")
    for file in files:
        check_path(file["path"])
        check(file.keys() - {"executable"} == {"path", "size", "digests"} and is_count(file["size"]), "a file's fields")
        check(file.get("executable", True) is True and is_hex(file["digests"].get("sha256"), 64), "a file's fields")
    folded = {fold(path) for path in paths}
    check(len(folded) == len(paths), "two paths that a file system may take for one")
    folders = {path[:end] for path in folded for end in range(len(path)) if path[end] == "/"}
    check(not folders & folded, "a path that is also a folder of another")
    return document


def check_path(path: str) -> None:
    parts = path.split("/")
    check(not {"", ".", ".."} & set(parts) and "\\" not in path, f"the path {path!r}")
    check(not any(unicodedata.category(character) == "Cc" for character in path), f"the path {path!r}")
    check(len(path.encode()) <= 1024 and all(len(part.encode()) <= 255 for part in parts), f"the path {path!r}")
    check(not any(plainest(part).endswith(".skyhold-part") for part in parts), f"the path {path!r}, which is reserved")


def plainest(part: str) -> str:
    ignored = [*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF]
    return fold(part.translate(dict.fromkeys(ignored)).partition(":")[0].rstrip(" ."))


def fold(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


# ---- 7 the layout


class Layout:
    """The places of the bytes of a version's files."""

    def __init__(self, store: Store, name: str, version: str, files: list[dict]) -> None:
        self.store = store
        body = store.blob("layouts", name)
        head, at = store.split_json(body, "layout")
        fields = {"layout", "version", "class", "runs", "pages"}
        check(head.keys() - {"tensors"} == fields and head["layout"] == 1, "the layout's fields")
        check(head["version"] == version and is_hex(head["class"], 16), "the layout of another version")
        self.class_, self.page_names = head["class"], head["pages"]
        end = at + 24 * head["runs"]
        check(end <= len(body), "the layout's runs")
        self.runs: dict[int, list[tuple[int, ...]]] = {}
        last = 0
        for run in struct.iter_unpack("<IIIIQ", body[at:end]):
            check(last <= run[0] < len(files) and run[3] >= 1, "a run that is out of order")
            last = run[0]
            self.runs.setdefault(run[0], []).append(run)
        self.pages = {0: self.parse_page(body[end:])}
        self.check_tensors(head.get("tensors"), {file["path"]: file["size"] for file in files})

    def page(self, number: int) -> list[Place]:
        if number not in self.pages:
            check(number <= len(self.page_names), "a run names a page that is not there")
            kept = self.pages[0]
            self.pages = {0: kept, number: self.parse_page(self.store.blob("pages", self.page_names[number - 1]))}
        return self.pages[number]

    @staticmethod
    def parse_page(body: bytes) -> list[Place]:
        check(12 <= len(body) <= MIB, "a page's length")
        packs_count, chunks_count, bases_count = struct.unpack_from("<III", body)
        check(len(body) == 12 + 32 * packs_count + 56 * (chunks_count + bases_count), "a page's counts")
        packs = [(bytes(p).hex(), s) for p, s in struct.iter_unpack("<16s16s", body[12 : 12 + 32 * packs_count])]
        rows = list(struct.iter_unpack("<32sIIIIIB3x", body[12 + 32 * packs_count :]))

        def place(row: tuple, bases: list[Place]) -> Place:
            chunk, pack, offset, stored, raw, base_index, codec = row
            check(pack < len(packs), "a place names a pack that its page does not list")
            base = None
            if base_index != 0xFFFFFFFF:
                check(base_index < len(bases), "a place names a base that its page does not list")
                base = bases[base_index]
            base_id = ZERO32 if base is None else base.record.chunk
            return Place(Record(chunk, base_id, offset, stored, raw, codec), *packs[pack], base)

        bases = [place(row, []) for row in rows[chunks_count:]]
        return [place(row, bases) for row in rows[:chunks_count]]

    def check_tensors(self, name: object, sizes: dict[str, int]) -> None:
        if name is None:
            return
        for path, tensors in parse_object(self.store.blob("tensors", name), "tensors").items():
            check(path in sizes, f"tensors of a file {path!r} that is not there")
            for tensor, dtype, shape, start, end in tensors:
                check(isinstance(tensor, str) and isinstance(dtype, str) and all(map(is_count, shape)), "a tensor")
                check(0 <= start <= end <= sizes[path], f"tensor {tensor!r} is outside its file")

    def chunks(self, file: int, size: int):
        """The chunks of a file in order; they must cover it exactly."""
        position = 0
        for _, page, first, count, start in self.runs.get(file, []):
            check(start == position, "the runs of a file leave a gap")
            places = self.page(page)[first : first + count]
            check(len(places) == count, "a run names chunks that its page does not list")
            for place in places:
                check(position + place.record.raw <= size, "the runs of a file are too long")
                yield self.chunk(place)
                position += place.record.raw
        check(position == size, "the runs do not cover a file")

    def chunk(self, place: Place) -> bytes:
        base = None
        if place.base is not None:
            check(
                place.base.base is None and place.base.record.raw == place.record.raw, "a base that is itself a delta"
            )
            base = self.chunk(place.base)
        key = f"packs/{place.pack[:2]}/{place.pack}"
        bucket, keys = self.store.holder(key), self.store.keys
        with (bucket.folder / key).open("rb") as file:
            header = parse_pack_header(file.read(64), place.pack, keys)
            check((header.class_.hex(), header.salt) == (self.class_, place.salt), f"{key}: another class or session")
            file.seek(place.record.offset)
            record, encoded = open_record(file.read(96 + place.record.stored), place.record.offset, header, keys)
        check(record == place.record, f"{key}: the record at {place.record.offset} is another than in the layout")
        check((record.base != ZERO32) == (record.codec in DELTA), f"{key}: a base without a delta, or the reverse")
        chunk = decode_chunk(record.codec, encoded, record.raw, base)
        check(blake3(chunk, key=keys.chunk_id).digest() == record.chunk, f"{key}: a chunk does not match its id")
        return chunk


def restore(layout: Layout, files: list[dict], target: Path | None) -> int:
    """Restore a version's files, or only check them where `target` is None. Returns their bytes."""
    for index, file in enumerate(files):
        digest = hashlib.sha256()
        sink = None
        if target is not None:
            path = target / file["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            sink = path.open("xb")
        try:
            for chunk in layout.chunks(index, file["size"]):
                digest.update(chunk)
                if sink is not None:
                    sink.write(chunk)
        finally:
            if sink is not None:
                sink.close()
        check(digest.hexdigest() == file["digests"]["sha256"], f"{file['path']}: SHA-256 does not match")
        if sink is not None and file.get("executable"):
            path.chmod(0o755)
    return sum(file["size"] for file in files)


# ---- the command


class Row(NamedTuple):
    repository: str
    version: str
    files: int
    size: int
    refs: str
    result: str


def find_repositories(store: Store) -> list[tuple[str, str, bytes]]:
    """Name (or that of a deleted one), id and register of every repository; checks the two registers of the store."""
    registers = store.registers()
    check("config" in registers, "no bucket holds the register config")
    configuration = parse_object(registers["config"], "configuration")
    fields = {"configuration", "buckets", "policy", "features", "log"}
    check(configuration.keys() == fields and configuration["configuration"] == 1, "the configuration's fields")
    check_features(configuration["features"])
    check_configuration_log(store, configuration["log"])
    members = {bucket["location"]["name"]: bucket["incarnation"] for bucket in configuration["buckets"]}
    for bucket in store.buckets:
        name, incarnation = bucket.document["bucket"], bucket.document["incarnation"]
        if members.get(name) != incarnation:
            store.problems.append(
                f"{bucket.folder}: its store.json is not that of bucket {name!r} of the configuration"
            )
    if "names" not in registers:
        check(registers.keys() == {"config"}, "there are repositories, but no register of names")
        return []
    names = parse_object(registers["names"], "names")
    check(names.keys() == {"names", "gc", "events", "chain", "map"} and names["names"] == 1, "the fields of names")
    check(names["gc"].keys() == {"epoch", "tombstones"}, "the gc part of names")
    entries = store.read_map(names["map"])
    read_events(store, "names", names, entries)
    entered = {key.removeprefix("register/") for key in entries if key.startswith("register/")}
    check(entered >= registers.keys() - {"config", "names"}, "a register was not entered in names")
    found = []
    for key, value in entries.items():
        kind, _, rest = key.partition("/")
        id_ = value.get("repository") if kind == "name" else rest
        if kind == "document" or (kind == "deleted" and "kind" in value):
            of, name = rest.split("/", 1) if kind == "document" else (value["kind"], value["name"])
            id_ = value["document"] if kind == "document" else rest
            check(f"document/{id_}" in registers, f"no bucket holds the register of {key}")
            check_document(store, of, name, id_, registers[f"document/{id_}"])
        elif kind in {"name", "deleted"}:
            check(is_hex(id_, 32), f"entry {key!r} of names")
            check(f"repository/{id_}" in registers, f"no bucket holds the register of {key}")
            name = rest if kind == "name" else f".deleted/{id_}"
            found.append((name, id_, registers[f"repository/{id_}"]))
    return found


def read_repository(store: Store, name: str, id_: str, data: bytes, output: Path | None) -> list[Row]:
    repository = Repository(store, name, id_, data)
    events, attached = repository.check_history(), repository.check_attachments()
    print(f"{name}: {events} events, chain intact; {attached} attached")
    rows = []
    for digest in repository.under("version/"):
        entry = repository.versions[digest]
        refs = ", ".join(ref for ref, version in repository.refs().items() if version == digest)
        target = None if output is None else output / name / digest[:40]
        results = [
            read_version(repository, digest, entry, target, source)
            for source in ([None] if output is not None else store.buckets)
        ]
        if all(result == "lacking" for *_, result in results):
            results = [read_version(repository, digest, entry, target, None)]
        files, size, result = next((found for found in results if found[2] == "damaged"), max(results))
        rows.append(Row(name, digest[:40], files, size, refs, result))
    return rows


def read_version(
    repository: Repository, digest: str, entry: dict, target: Path | None, source: Bucket | None
) -> tuple[int, int, str]:
    """Restore a version from one bucket alone, or from all: how many files and bytes it has, and with which result."""
    store, files, size = repository.store, [], 0
    store.source = source
    try:
        files = read_document(repository, digest, entry)["files"]
        size = restore(Layout(store, entry["layout"], digest, files), files, target)
    except Lacking:
        return 0, 0, "lacking"
    except BROKEN as error:
        where = "" if source is None else f" from {source.folder}"
        store.problems.append(f"{repository.name}, version {digest[:40]}{where}: {error!r}")
        return len(files), size, "damaged"
    finally:
        store.source = None
    if source is not None:
        source.restored += 1
    return len(files), size, "sound"


def print_table(rows: list[Row]) -> None:
    table = [("repository", "version", "files", "bytes", "result", "refs")]
    table += [(r.repository, r.version[:10], str(r.files), f"{r.size:,}", r.result, r.refs) for r in rows]
    widths = [max(len(line[column]) for line in table) for column in range(5)]
    for line in table:
        cells = [
            cell.rjust(width) if column in {2, 3} else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line[:5], widths, strict=True))
        ]
        print("  ".join([*cells, line[5]]).rstrip())


def read_store(store: Store, output: Path | None) -> list[Row]:
    rows: list[Row] = []
    store.check_objects()
    try:
        repositories = find_repositories(store)
    except BROKEN as error:
        store.problems.append(f"registers: {error!r}")
        return rows
    for name, id_, data in repositories:
        try:
            rows += read_repository(store, name, id_, data, output)
        except BROKEN as error:
            store.problems.append(f"{name}: {error!r}")
    return rows


def check_vacant(output: Path | None) -> None:
    if output is not None and output.exists() and any(output.iterdir()):
        raise CannotBegin(f"{output} is not empty")


def main() -> int:
    parser = argparse.ArgumentParser(description="Read a Skyhold store by docs/format.md alone.")
    parser.add_argument("buckets", nargs="+", type=Path, metavar="BUCKET", help="folder with the objects of a bucket")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--verify", action="store_true", help="check everything and restore into nothing")
    mode.add_argument("--output", type=Path, metavar="DIR", help="restore every version into this new folder")
    parser.add_argument("--key-file", type=Path, default=os.environ.get("SKYHOLD_KEY_FILE"), help="of a sealed store")
    options = parser.parse_args()
    try:
        check_vacant(options.output)
        key_file = read_key_file(Path(options.key_file)) if options.key_file else None
        store = Store(options.buckets, key_file, os.environ.get("SKYHOLD_PASSPHRASE") or None)
    except (CannotBegin, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BROKEN as error:
        print(f"damaged: {error!r}", file=sys.stderr)
        return 1
    try:
        rows = read_store(store, options.output)
    except CannotBegin as error:
        for problem in store.problems:
            print(f"damaged: {problem}", file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table(rows)
    for bucket in store.buckets:
        size = sum((bucket.folder / key).stat().st_size for key in bucket.keys)
        alone = f"; {bucket.restored} of {len(rows)} versions restored from it alone" if options.verify else ""
        print(f"{bucket.folder}: {len(bucket.keys)} objects, {size:,} bytes{alone}")
    if options.output:
        others = sum(holder is not store.buckets[0] for holder in store.holders.values())
        beside = f", and {others} objects that it lacks from the others" if others else ""
        print(f"Restored from {store.buckets[0].folder}{beside}")
    for key in store.unknown:
        print(f"unaccounted: {key}")
    for problem in store.problems:
        print(f"damaged: {problem}", file=sys.stderr)
    versions = sum(row.result == "sound" for row in rows)
    print(f"{versions} of {len(rows)} versions sound, {len(store.problems)} problems")
    return 1 if store.problems else 0


if __name__ == "__main__":
    sys.exit(main())
