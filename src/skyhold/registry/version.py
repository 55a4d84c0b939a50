"""The version document: an immutable commit, whose digest is the version's identity (format.md, 9)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn

from skyhold import error_codes
from skyhold.errors import Corrupt, InvalidInput
from skyhold.registry.names import check_digest
from skyhold.storage.canonical import INTEGER_MAX, Json, canonical, check_text, decode, encode, malformed
from skyhold.storage.object_keys import PUBLIC_ID_CHARACTERS
from skyhold.storage.paths import colliding_paths, path_fault
from skyhold.store.time import check_time
from skyhold.units import KIB, MIB

FORMAT: Final = "version/1"
DOCUMENT_BYTES_MAX: Final = 32 * MIB
FILES_MAX: Final = 100_000
PARENTS_MAX: Final = 16
MESSAGE_BYTES_MAX: Final = 64 * KIB
AUTHOR_BYTES_MAX: Final = 256
VALUES_BYTES_MAX: Final = MIB
_FIELDS: Final = frozenset(
    ("skyhold", "files", "parents", "message", "author", "time", "parameters", "metadata", "lineage")
)
_RELATION: Final = re.compile(r"[a-z][a-z-]{0,31}")
_DIGEST_NAME: Final = re.compile(r"[a-z0-9-]{1,32}")
_DIGEST_VALUE: Final = re.compile(r"(?:[0-9a-f]{2}){1,64}")


@dataclass(frozen=True, slots=True)
class VersionFile:
    """One file of a version. `digests` holds at least its SHA-256, in hex."""

    path: str
    size_bytes: int
    digests: Mapping[str, str]
    executable: bool = False

    def __post_init__(self) -> None:
        check_path(self.path)
        if not 0 <= self.size_bytes <= INTEGER_MAX:
            _refuse("a size of 0 to 2^53 - 1 bytes", self.size_bytes, code=error_codes.INVALID_SIZE, path=self.path)
        check_digest(self.digests.get("sha256", ""), f"the SHA-256 of {self.path!r}")
        for name, value in self.digests.items():
            if _DIGEST_NAME.fullmatch(name) is None or _DIGEST_VALUE.fullmatch(value) is None:
                _refuse(
                    f"a digest of {self.path!r} in hex",
                    f"{name}: {value}",
                    code=error_codes.INVALID_DIGEST,
                    path=self.path,
                )

    @property
    def sha256(self) -> str:
        return self.digests["sha256"]

    def to_json(self) -> Json:
        value: Json = {"path": self.path, "size": self.size_bytes, "digests": dict(self.digests)}
        return value | {"executable": True} if self.executable else value


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a version comes from: digests of base versions, and references to data and code. `relation` is that to its
    bases, a word such as `fine-tune`; empty where it was not given."""

    base: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    relation: str = ""

    def __post_init__(self) -> None:
        if self.relation and (_RELATION.fullmatch(self.relation) is None or not self.base):
            _refuse("the relation to a base, a word", repr(self.relation), code=error_codes.INVALID_RELATION)
        for digest in self.base:
            check_digest(digest, "a base version")
        for reference in (*self.data, *self.code):
            check_text(reference, "a reference of the lineage")

    def to_json(self) -> Json:
        fields = {"base": self.base, "data": self.data, "code": self.code}
        value: Json = {name: list(references) for name, references in fields.items() if references}
        return value | {"relation": self.relation} if self.relation else value


@dataclass(frozen=True, slots=True)
class VersionDocument:
    """A version as it was committed. One that exists is valid; `files` are sorted by path.

    Raises `InvalidInput` naming the offending value: a path outside the rules, two paths that are equal on some file
    system, a number that JSON cannot hold, a field past its limit.
    """

    files: tuple[VersionFile, ...]
    time: str
    author: str = ""
    message: str = ""
    parents: tuple[str, ...] = ()
    parameters: Json = field(default_factory=dict)
    metadata: Json = field(default_factory=dict)
    lineage: Lineage = field(default_factory=Lineage)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(sorted(self.files, key=lambda file: file.path)))
        if len(self.files) > FILES_MAX:
            _refuse(f"at most {FILES_MAX} files", len(self.files), code=error_codes.TOO_MANY_FILES)
        check_paths([file.path for file in self.files])
        check_time(self.time)
        for parent in self.parents:
            check_digest(parent, "a parent")
        if len(self.parents) > PARENTS_MAX or len(set(self.parents)) != len(self.parents):
            _refuse(f"at most {PARENTS_MAX} parents, each once", len(self.parents), code=error_codes.INVALID_PARENTS)
        for name, text, bytes_max in (
            ("message", self.message, MESSAGE_BYTES_MAX),
            ("author", self.author, AUTHOR_BYTES_MAX),
        ):
            check_text(text, name)
            if len(text.encode()) > bytes_max:
                _refuse(
                    f"{name} of at most {bytes_max} bytes", f"{len(text.encode())} bytes", code=error_codes.TOO_LONG
                )
        for name, values in (("parameters", self.parameters), ("metadata", self.metadata)):
            if len(encode(values, name)) > VALUES_BYTES_MAX:
                _refuse(
                    f"{name} of at most {VALUES_BYTES_MAX} bytes", len(canonical(values)), code=error_codes.TOO_LONG
                )

    def encode(self) -> bytes:
        """The canonical bytes, from which the digest is taken."""
        body = canonical(
            {
                "skyhold": FORMAT,
                "files": [file.to_json() for file in self.files],
                "parents": list(self.parents),
                "message": self.message,
                "author": self.author,
                "time": self.time,
                "parameters": self.parameters,
                "metadata": self.metadata,
                "lineage": self.lineage.to_json(),
            }
        )
        if len(body) > DOCUMENT_BYTES_MAX:
            _refuse(
                f"a version document of at most {DOCUMENT_BYTES_MAX} bytes",
                len(body),
                code=error_codes.DOCUMENT_TOO_LARGE,
            )
        return body

    @classmethod
    def decode(cls, body: bytes, digest: str | None = None) -> VersionDocument:
        """The version in stored bytes, checked whole.

        Raises `Corrupt` where they are not a version document, or not that of `digest`.
        """
        what = f"version {digest[:PUBLIC_ID_CHARACTERS]}" if digest else "version"
        if len(body) > DOCUMENT_BYTES_MAX:
            malformed(what, f"it has {len(body)} bytes")
        if digest is not None and version_digest(body) != digest:
            malformed(what, "its bytes do not match its digest")
        value = decode(body, what)
        if value.get("skyhold") != FORMAT or value.keys() != _FIELDS:
            malformed(what, f"its format is {value.get('skyhold')!r} with the fields {sorted(value)}")
        try:
            version = _from_json(value)
        except (InvalidInput, TypeError, KeyError, ValueError, AttributeError) as error:
            raise Corrupt(f"The {what} is malformed: {error}", code=error_codes.DOCUMENT_MALFORMED) from error
        if version.encode() != body:
            malformed(what, "it is not in canonical form")
        return version

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes, 64 hex characters."""
        return version_digest(self.encode())


def version_digest(body: bytes) -> str:
    """Digest of the version whose document has these bytes."""
    return hashlib.sha256(body).hexdigest()


def public_id(digest: str) -> str:
    """The public id of a version: the first 40 hex characters of its digest."""
    return check_digest(digest)[:PUBLIC_ID_CHARACTERS]


def check_path(path: str) -> str:
    """Return `path`, or raise `InvalidInput` code `invalid_path` unless it obeys the rules of format.md, 9."""
    fault = path_fault(path)
    if fault is not None:
        _refuse_path(path, fault)
    return path


def check_paths(paths: Iterable[str]) -> None:
    """Raise `InvalidInput` where two paths, or a path and a folder of another, are one on some file system."""
    for path, why in colliding_paths(paths):
        _refuse_path(path, why)


def _from_json(value: Json) -> VersionDocument:
    files, parents, lineage = value["files"], value["parents"], value["lineage"]
    if not isinstance(files, list) or not isinstance(parents, list) or not isinstance(lineage, dict):
        raise TypeError("a field has another type")
    for name, type_ in (("message", str), ("author", str), ("time", str), ("parameters", dict), ("metadata", dict)):
        if not isinstance(value[name], type_):
            raise TypeError(f"`{name}` has another type")
    return VersionDocument(
        files=tuple(_file(file) for file in files),
        time=str(value["time"]),
        author=str(value["author"]),
        message=str(value["message"]),
        parents=tuple(parents),
        parameters=value["parameters"],  # type: ignore[arg-type]
        metadata=value["metadata"],  # type: ignore[arg-type]
        lineage=_lineage(lineage),
    )


def _lineage(value: Json) -> Lineage:
    lists = {name: references for name, references in value.items() if name != "relation"}
    if not all(isinstance(references, list) for references in lists.values()):
        raise TypeError("a list of the lineage has another type")
    relation = value.get("relation", "")
    if not isinstance(relation, str):
        raise TypeError("the relation of the lineage has another type")
    return Lineage(**{name: tuple(references) for name, references in lists.items()}, relation=relation)  # type: ignore[arg-type]


def _file(value: Json) -> VersionFile:
    path, size_bytes, digests = value["path"], value["size"], value["digests"]
    if not isinstance(path, str) or type(size_bytes) is not int or not isinstance(digests, dict):
        raise TypeError("a file has a field of another type")
    return VersionFile(path, size_bytes, digests, value.get("executable") is True)


def _refuse_path(path: str, why: str) -> NoReturn:
    raise InvalidInput(
        f"Path {path!r} cannot be stored: {why}",
        code=error_codes.INVALID_PATH,
        hint="Rename it, or leave it out",
        path=path,
    )


def _refuse(expected: str, got: object, *, code: str, path: str | None = None) -> NoReturn:
    raise InvalidInput(f"Expected {expected} but got {got}", code=code, path=path)
