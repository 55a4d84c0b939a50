"""Which versions a bucket gives back on its own, as the second reader sees it, which shares no code with ours."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

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


class SecondReader:
    """The second reader with the keys of a store, which it took before anything was damaged."""

    def __init__(self, bucket: Path, key_file: Path | None = None) -> None:
        key = None if key_file is None else reader.read_key_file(key_file)
        self._keys = reader.Bucket(bucket).load_document(key, None)

    def restorable(self, folder: Path) -> frozenset[str]:
        """The digests of all versions that the bucket in this folder holds whole."""
        store = object.__new__(reader.Store)
        bucket = object.__new__(reader.Bucket)
        bucket.folder = folder
        keys = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if _is_small(path)]
        store.keys, store.holders, store.source = self._keys, dict.fromkeys(keys, bucket), None
        documents: dict[str, Any] = {}
        layouts: list[tuple[str, str]] = []
        for key in keys:
            kind, _, name = key.partition("/")
            if kind in {"versions", "layouts"}:
                try:
                    body = store.blob(kind, name.partition("/")[2])
                    if kind == "versions":
                        documents[hashlib.sha256(body).hexdigest()] = reader.parse_object(body, "version")
                    else:
                        layouts.append((store.split_json(body, "layout")[0]["version"], name.partition("/")[2]))
                except reader.BROKEN:
                    continue
        return frozenset(
            digest for digest, layout in layouts if digest in documents and _restores(store, digest, layout, documents)
        )


def _restores(store: Any, digest: str, layout: str, documents: dict[str, Any]) -> bool:
    files = documents[digest]["files"]
    try:
        reader.restore(reader.Layout(store, layout, digest, files), files, None)
    except reader.BROKEN:
        return False
    return True


def _is_small(path: Path) -> bool:
    """Whether it is a file that the second reader, which takes objects whole, can take."""
    return path.is_file() and path.stat().st_size < 1 << 26
