"""Names of the objects in a bucket (format.md, 2)."""

from __future__ import annotations

import re
from typing import Final

from blake3 import blake3

from skyhold.codec.frame import Kind
from skyhold.units import MIB

PUBLIC_ID_CHARACTERS: Final = 40
"""Of the digest of a version: they are displayed as its id."""
STORE_DOCUMENT: Final = "store.json"
STORE_DOCUMENT_BYTES_MAX: Final = 1 * MIB
PACKS: Final = "packs"
INDEXES: Final = "indexes"
CHECKPOINTS: Final = "checkpoints"
REGISTERS: Final = "registers"

KIND_OF_FOLDER: Final = {
    "versions": Kind.VERSION,
    "layouts": Kind.LAYOUT_HEAD,
    "pages": Kind.LAYOUT_PAGE,
    "tensors": Kind.TENSORS,
    "nodes": Kind.MAP_NODE,
    "attachments": Kind.ATTACHMENT,
    "records": Kind.RECORD,
    "indexes": Kind.INDEX,
    "tombstones": Kind.TOMBSTONES,
}

_BLOB_KEY: Final = re.compile(
    r"(?:versions|layouts|pages|tensors|nodes|attachments|records|tombstones)/([0-9a-f]{2})/(\1[0-9a-f]{62})|indexes/[0-9a-f]+/([0-9a-f]{64})"
)
_PACK_KEY: Final = re.compile(r"packs/([0-9a-f]{2})/(\1[0-9a-f]{30})")


def pack_key(pack_id: bytes) -> str:
    """Key of the pack with this 16-byte id."""
    name = pack_id.hex()
    return f"{PACKS}/{name[:2]}/{name}"


def pack_id_of(key: str) -> bytes | None:
    """The 16-byte id of the pack with this key, or None for another key."""
    match = _PACK_KEY.fullmatch(key)
    return bytes.fromhex(match[2]) if match else None


def blob_key(folder: str, name: str) -> str:
    """Key of a blob. `folder` is a kind's folder, or `indexes/<placement class>`."""
    return f"{folder}/{name}" if "/" in folder else f"{folder}/{name[:2]}/{name}"


def kind_of_folder(folder: str) -> Kind:
    """The kind of the blobs in a folder."""
    return KIND_OF_FOLDER[folder.split("/", 1)[0]]


def blob_name_of(key: str) -> str | None:
    """The 64-hex name in a blob's key, or None for another key."""
    match = _BLOB_KEY.fullmatch(key)
    return (match[2] or match[3]) if match else None


def blob_name(stored: bytes | bytearray | memoryview, name_key: bytes) -> str:
    """The name of a blob: the keyed hash of its stored bytes."""
    return blake3(stored, key=name_key).hexdigest()
