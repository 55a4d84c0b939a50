"""Which versions a bucket restores on its own, according to the second reader, which shares no code with ours."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.hostile.image import Signature, signature_of
from tests.second_reading import READER


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("second_reader", READER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


reader = _load()


class _Bucket(reader.Store):  # type: ignore[name-defined,misc]
    """One bucket to the second reader, which notes the keys of what was read of it."""

    def __init__(self, folder: Path, keys: Any, signatures: Mapping[str, Signature]) -> None:
        bucket = object.__new__(reader.Bucket)
        bucket.folder = folder
        self.keys, self.holders, self.source = keys, dict.fromkeys(signatures, bucket), None
        self.read: set[str] = set()

    def holder(self, key: str) -> Any:
        self.read.add(key)
        return super().holder(key)


class SecondReader:
    """The second reader with the keys of a store, which it took before anything was damaged.

    A version that was restored once is restored still as long as every object that was read for it is the same file:
    thousands of cells ask a dozen times each, and damage one object.
    """

    def __init__(self, bucket: Path, key_file: Path | None = None) -> None:
        key = None if key_file is None else reader.read_key_file(key_file)
        self._keys = reader.Bucket(bucket).load_document(key, None)
        self._restored: dict[tuple[Path, str], tuple[str, dict[str, Signature]]] = {}
        self._documents: dict[Path, tuple[Signature, str, Any]] = {}

    def restorable(self, folder: Path) -> frozenset[str]:
        """The digests of all versions that the bucket in this folder holds whole."""
        signatures = dict(_small_files(folder))
        found = set()
        for key in signatures:
            if key.startswith("layouts/"):
                digest, needed = self._restored.get((folder, key), ("", {"": ()}))
                if any(signatures.get(other) != signature for other, signature in needed.items()):
                    try:
                        digest = self._restore(folder, key, signatures)
                    except reader.BROKEN:
                        continue
                found.add(digest)
        return frozenset(found)

    def _restore(self, folder: Path, key: str, signatures: Mapping[str, Signature]) -> str:
        """The digest of the version with the layout under this key, which is restored in memory. Raises what the second
        reader raises."""
        bucket = _Bucket(folder, self._keys, signatures)
        name = key.rpartition("/")[2]
        digest = str(bucket.split_json(bucket.blob("layouts", name), "layout")[0]["version"])
        place, document = self._document(bucket, digest, signatures)
        bucket.read.add(place)
        reader.restore(reader.Layout(bucket, name, digest, document["files"]), document["files"], None)
        self._restored[folder, key] = digest, {other: signatures[other] for other in bucket.read}
        return digest

    def _document(self, bucket: _Bucket, digest: str, signatures: Mapping[str, Signature]) -> tuple[str, Any]:
        """The document of a version and its key, which does not follow from its digest."""
        for key, signature in signatures.items():
            if key.startswith("versions/"):
                path = bucket.holder(key).folder / key
                known, found, document = self._documents.get(path, ((), "", None))
                if known != signature:
                    try:
                        body = bucket.blob("versions", key.rpartition("/")[2])
                        found, document = hashlib.sha256(body).hexdigest(), reader.parse_object(body, "version")
                    except reader.BROKEN:
                        found, document = "", None
                    self._documents[path] = signature, found, document
                if found == digest:
                    return key, document
        raise reader.Damaged(f"the document of version {digest} is missing")


def _small_files(folder: Path, below: str = "") -> Iterator[tuple[str, Signature]]:
    """The keys of all files that the second reader, which takes objects whole, can take, with what each change of one
    changes."""
    with os.scandir(folder / below) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _small_files(folder, f"{below}{entry.name}/")
            elif (found := entry.stat(follow_symlinks=False)).st_size < 1 << 26:
                yield below + entry.name, signature_of(found)
