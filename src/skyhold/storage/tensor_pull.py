"""Pulling named tensors of a version into one safetensors file, without fetching the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from skyhold import error_codes
from skyhold.codec.formats.safetensors import encode_head
from skyhold.codec.row_major import is_column_major, little_endian, row_major, row_major_dtype
from skyhold.errors import InvalidInput
from skyhold.storage.chunks import ChunkReader
from skyhold.storage.file_entry import FileEntry
from skyhold.storage.named_tensors import NamedTensor, check_fits, list_tensors, no_tensor
from skyhold.storage.progress import Progress
from skyhold.storage.target_folder import Identity, TargetFolder, named
from skyhold.storage.target_state import edited_files, examine
from skyhold.storage.targets import check_space
from skyhold.storage.version_files import StoredFile, VersionFiles, chooser
from skyhold.units import MIB, Buffer

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
class WantedTensors:
    """Names of tensors or globs, and globs of the files that they are looked for in; none means all."""

    patterns: Sequence[str]
    include: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ChosenTensors:
    """The tensors that are written, in order of files and offsets, and the names of those that safetensors cannot hold,
    each with the reason."""

    tensors: tuple[NamedTensor, ...]
    left_out: dict[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(chosen.name for chosen in self.tensors)

    @property
    def room_bytes(self) -> int:
        """The free disk space that is needed while they are written, beside the file itself."""
        return max((c.size_bytes for c in self.tensors if is_column_major(c.tensor)), default=0)


@dataclass(frozen=True, slots=True)
class PulledTensors:
    """The file that was written, the names of the tensors in it, its size, and what was left out, as of
    `ChosenTensors`."""

    path: Path
    names: tuple[str, ...]
    size_bytes: int
    left_out: dict[str, str]


def pull_tensors(
    version: VersionFiles,
    wanted: WantedTensors,
    root: Path,
    reader: ChunkReader,
    progress: Progress,
    *,
    force: bool = False,
) -> PulledTensors:
    """Write the tensors that are wanted to `tensors.safetensors` in `root`, each as the library of its format returns
    it. A file that is there is replaced where it is as a pull wrote it, or by `force`.

    Raises as `examine` and `choose_tensors` do.
    """
    chosen = choose_tensors(version, wanted)
    head, payload_bytes = safetensors_head(chosen.tensors)
    size_bytes = len(head) + payload_bytes
    before = examine_tensors_file(root, force=force)
    check_space(root, size_bytes + chosen.room_bytes)
    path = root / TENSORS_FILE
    progress.begin("pull", payload_bytes)
    with TargetFolder(root) as folder, named(path):
        part = folder.open_part(TENSORS_FILE)
        try:
            with open(part.descriptor, "wb", closefd=False) as file:
                digest = hashlib.sha256(head)
                file.write(head)
                for one in chosen.tensors:
                    for data in _contents(one, StoredFile(version, one.file, reader), folder, progress):
                        file.write(data)
                        digest.update(data)
                file.seek(_HEAD_BYTES - len(_NO_DIGEST))
                file.write(digest.hexdigest().encode())
            folder.publish(part, TENSORS_FILE, before)
        finally:
            part.discard()
            part.close()
            progress.end()
    return PulledTensors(path, chosen.names, size_bytes, chosen.left_out)


def _contents(chosen: NamedTensor, stored: StoredFile, folder: TargetFolder, progress: Progress) -> Iterator[Buffer]:
    """The bytes of a tensor, row-major and little-endian."""
    tensor = chosen.tensor

    def pieces() -> Iterator[Buffer]:
        for start in range(tensor.start, tensor.end, _STEP_BYTES):
            data = stored.read(start, min(_STEP_BYTES, tensor.end - start))
            progress.advance(len(data), stored_bytes=len(data))
            yield little_endian(tensor.dtype, data)

    if not is_column_major(tensor):
        yield from pieces()
        return
    part = folder.open_part(TENSORS_FILE)
    try:
        part.discard()  # it needs no name
        with open(part.descriptor, "w+b", closefd=False) as spool:
            yield from row_major(tensor, pieces(), spool)
    finally:
        part.close()


def safetensors_head(tensors: Iterable[NamedTensor]) -> tuple[bytes, int]:
    """What a safetensors file of these tensors begins with, and the length of what follows. Its metadata have room for
    the SHA-256 of the whole file, as it is with zeros there: so a later pull can check that it is unchanged."""
    listed = [(one.name, row_major_dtype(one.tensor.dtype), one.tensor.shape, one.size_bytes) for one in tensors]
    return encode_head(listed, {_DIGEST: _NO_DIGEST.decode()}), sum(size_bytes for *_, size_bytes in listed)


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


def choose_tensors(version: VersionFiles, wanted: WantedTensors) -> ChosenTensors:
    """The tensors that are wanted. What safetensors cannot hold is left out where only a glob matches it.

    Raises `NotFound` where a pattern matches none, and `InvalidInput` where two of one name are wanted, or one that
    safetensors cannot hold by its name, or nothing that it can hold.
    """
    known = list_tensors(version, wanted.include)
    names = {chosen.name for chosen in known}
    for pattern in wanted.patterns:
        if not any(map(chooser([pattern], names), names)):
            raise no_tensor(pattern, names)
    chooses = chooser(wanted.patterns, names)
    found: dict[str, NamedTensor] = {}
    left_out: dict[str, str] = {}
    for chosen in known:
        path = version.files[chosen.file].path
        if not chooses(chosen.name):
            continue
        if chosen.name in found:
            first = version.files[found[chosen.name].file].path
            raise InvalidInput(
                f"Tensor `{chosen.name}` exists more than once: in {first}"
                + (f" and in {path}" if path != first else ", twice"),
                code=error_codes.TENSOR_AMBIGUOUS,
                hint="Choose its file with --include, beside --tensor" if path != first else "Pull its whole file",
            )
        found[chosen.name] = chosen
        reason = _why_not_held(chosen, path)
        if reason is not None:
            left_out[chosen.name] = reason
    given = [name for name in left_out if name in wanted.patterns]
    if given or len(left_out) == len(found):
        name = (given or list(left_out))[0]
        raise InvalidInput(
            f"Tensor `{name}` of {left_out[name]}",
            code=error_codes.TENSOR_TYPE,
            hint="Pull its whole file: with --include, and without --tensor",
        )
    return ChosenTensors(tuple(chosen for name, chosen in found.items() if name not in left_out), left_out)


def _why_not_held(chosen: NamedTensor, path: str) -> str | None:
    """Why safetensors cannot hold a tensor, if so, beginning with its file. Raises `Corrupt` where its type and shape
    need another number of bytes."""
    dtype = row_major_dtype(chosen.tensor.dtype)
    if chosen.name == _METADATA:
        return f"{path} has a name that safetensors keeps for itself"
    if dtype not in _DTYPES:
        return f"{path} has type {dtype}, which safetensors cannot hold"
    check_fits(chosen, path)
    return None
