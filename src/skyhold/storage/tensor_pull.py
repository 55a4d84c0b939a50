"""Pulling named tensors of a version into one safetensors file, without fetching the rest."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from skyhold.codec.tensors import Tensor
from skyhold.errors import InvalidInput, NotFound
from skyhold.storage.chunks import ChunkReader
from skyhold.storage.progress import Progress
from skyhold.storage.standing import edited_files, examine
from skyhold.storage.target_folder import Identity, TargetFolder, named
from skyhold.storage.targets import check_space
from skyhold.storage.version_files import FileEntry, StoredFile, VersionFiles, chooser
from skyhold.units import MIB

TENSORS_FILE: Final = "tensors.safetensors"
_STEP_BYTES: Final = 8 * MIB
_METADATA: Final = "__metadata__"
_DIGEST: Final = "skyhold.sha256"
_NO_DIGEST: Final = b"0" * 64
_HEAD_BEGIN: Final = f'{{"{_METADATA}":{{"{_DIGEST}":"'.encode()
_HEAD_BYTES: Final = 8 + len(_HEAD_BEGIN) + len(_NO_DIGEST)
_DTYPES: Final = frozenset(
    {"F64", "F32", "F16", "BF16", "C64", "BOOL", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"}
    | {"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0", "F6_E2M3", "F6_E3M2", "F4"}
)  # what the safetensors format knows (0.8)


@dataclass(frozen=True, slots=True)
class PulledTensors:
    """The file that was written, the names of the tensors in it, and its size."""

    path: Path
    names: tuple[str, ...]
    size_bytes: int


def pull_tensors(
    version: VersionFiles,
    patterns: Sequence[str],
    root: Path,
    reader: ChunkReader,
    progress: Progress,
    *,
    force: bool = False,
) -> PulledTensors:
    """Write the tensors whose names match one of `patterns` (globs) to `tensors.safetensors` in `root`. One that is
    there is replaced where it is as a pull wrote it, or by `force`.

    Raises as `examine` does, `NotFound` where a pattern matches none, and `InvalidInput` where two files have a tensor
    of one name, or a type that safetensors cannot hold.
    """
    chosen = choose_tensors(version, patterns)
    head, payload_bytes = safetensors_head(chosen)
    size_bytes = len(head) + payload_bytes
    before = examine_tensors_file(root, force=force)
    check_space(root, size_bytes)
    path = root / TENSORS_FILE
    progress.begin("pull", payload_bytes)
    with TargetFolder(root) as folder, named(path):
        part = folder.open_part(TENSORS_FILE)
        try:
            with open(part.descriptor, "wb", closefd=False) as file:
                digest = hashlib.sha256(head)
                file.write(head)
                for tensor, index in chosen.items():
                    stored = StoredFile(version, index, reader)
                    for start in range(tensor.start, tensor.end, _STEP_BYTES):
                        data = stored.read(start, min(_STEP_BYTES, tensor.end - start))
                        file.write(data)
                        digest.update(data)
                        progress.advance(len(data), stored_bytes=len(data))
                file.seek(_HEAD_BYTES - len(_NO_DIGEST))
                file.write(digest.hexdigest().encode())
            folder.publish(part, TENSORS_FILE, before)
        finally:
            part.discard()
            part.close()
            progress.end()
    return PulledTensors(path, tuple(tensor.name for tensor in chosen), size_bytes)


def safetensors_head(tensors: Iterable[Tensor]) -> tuple[bytes, int]:
    """What a safetensors file of these tensors begins with, and the length of what follows. Its metadata have room for
    the SHA-256 of the whole file, as it is with zeros there: so a later pull finds out that nobody has changed it."""
    header: dict[str, object] = {_METADATA: {_DIGEST: _NO_DIGEST.decode()}}
    position = 0
    for tensor in tensors:
        end = position + tensor.end - tensor.start
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, position


def examine_tensors_file(root: Path, *, force: bool) -> Identity | None:
    """What is at the place of the file of tensors below `root`. Raises as `examine` does."""
    (found,) = examine(root, [FileEntry(TENSORS_FILE, -1, "")], None)
    if found.before is not None and not force and not _is_as_pulled(root / TENSORS_FILE):
        raise edited_files(root, [TENSORS_FILE])
    return found.before


def _is_as_pulled(path: Path) -> bool:
    with named(path), path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        start = len(head[:8]) + len(_HEAD_BEGIN)
        if head[8:start] != _HEAD_BEGIN:
            return False
        noted = head[start : start + len(_NO_DIGEST)]
        digest = hashlib.sha256(head[:start] + _NO_DIGEST + head[start + len(_NO_DIGEST) :])
        while data := file.read(_STEP_BYTES):
            digest.update(data)
    return digest.hexdigest().encode() == noted


def choose_tensors(version: VersionFiles, patterns: Sequence[str]) -> dict[Tensor, int]:
    """The tensors that match, each with the index of its file, in order of files and offsets. Raises as `pull_tensors`
    does."""
    indices = {entry.path: index for index, entry in enumerate(version.files)}
    known = [(tensor, indices[path]) for path, tensors in sorted(version.tensors.items()) for tensor in tensors]
    chooses = chooser(patterns, {tensor.name for tensor, _ in known})
    for pattern in patterns:
        chooses_one = chooser([pattern], {tensor.name for tensor, _ in known})
        if not any(chooses_one(tensor.name) for tensor, _ in known):
            close = difflib.get_close_matches(pattern, [tensor.name for tensor, _ in known], n=1)
            raise NotFound(
                f"No tensor of the version matches `{pattern}`" + ("" if known else "; its files name no tensors"),
                code="tensor_not_found",
                hint=f"Did you mean `{close[0]}`?" if close else "List them with `skyhold show --json`",
                tensor=pattern,
            )
    chosen: dict[Tensor, int] = {}
    names: set[str] = set()
    for tensor, index in known:
        if not chooses(tensor.name):
            continue
        if tensor.name in names:
            raise InvalidInput(
                f"Tensor `{tensor.name}` is there more than once",
                code="tensor_ambiguous",
                hint="Choose the file with --include",
            )
        if tensor.dtype not in _DTYPES or tensor.name == _METADATA:
            raise InvalidInput(
                f"Tensor `{tensor.name}` has type {tensor.dtype}, which safetensors cannot hold"
                if tensor.name != _METADATA
                else f"A tensor called `{_METADATA}` cannot be held by safetensors",
                code="tensor_type",
                hint="Pull its whole file with --include",
            )
        names.add(tensor.name)
        chosen[tensor] = index
    return chosen
