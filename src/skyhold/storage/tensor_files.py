"""The named tensors of a set of source files, also where one file describes the tensors of another (ONNX)."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from skyhold.codec.formats.onnx import read_external_tensors
from skyhold.codec.tensors import Tensor, read_tensors
from skyhold.storage.sources.port import OpenFile, SourceFile, read_bytes


def find_tensors(files: Sequence[SourceFile]) -> dict[str, tuple[Tensor, ...]]:
    """Tensors by path. Reads headers only; a file whose format names none, or whose header is malformed, is absent."""
    found: dict[str, tuple[Tensor, ...]] = {}
    sizes = {source.path: source.size_bytes for source in files}
    for source in files:
        opened = source.open()
        try:

            def read(start: int, length: int, opened: OpenFile = opened, end: int = source.size_bytes) -> bytes:
                return read_bytes(opened, start, max(0, min(length, end - start)))

            tensors = read_tensors(source.path, source.size_bytes, read)
            if tensors:
                found[source.path] = tensors
            if source.path.endswith(".onnx"):
                folder = posixpath.dirname(source.path)
                for location, external in read_external_tensors(source.size_bytes, read).items():
                    path = posixpath.normpath(posixpath.join(folder, location))
                    if path in sizes and all(tensor.end <= sizes[path] for tensor in external):
                        found.setdefault(path, external)
        finally:
            opened.close()
    return found
