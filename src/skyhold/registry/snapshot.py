"""One state of a repository, as its register had it at one moment: refs, versions, and what was attached to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from skyhold.errors import InvalidInput, NotFound
from skyhold.registry.graph import first_parents
from skyhold.registry.map import Map
from skyhold.registry.names import Ref, RefKind, is_version_prefix, refs_called
from skyhold.registry.root import Root
from skyhold.storage.blobs import Blobs
from skyhold.storage.canonical import malformed

PUBLIC_ID_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class RefState:
    """Where a ref stands. `version` is None for one that was deleted; `move` is the sequence of its last move."""

    ref: Ref
    version: str | None
    move: int


@dataclass(frozen=True, slots=True)
class VersionEntry:
    """A version of the repository: its digest, the names of its blobs, its parents in order, and its time."""

    digest: str
    document: str
    layout: str
    parents: tuple[str, ...]
    time: str

    @property
    def public_id(self) -> str:
        return self.digest[:PUBLIC_ID_CHARACTERS]


@dataclass(frozen=True, slots=True)
class Attached:
    """A metric, note or signature of a version. `blob` names the attachment where it was too large for the map."""

    version: str
    sequence: int
    kind: str
    name: str
    value: object
    author: str
    time: str
    blob: str | None = None


class Snapshot:
    """An immutable view of a repository. Reads fetch map nodes from the blobs as they need them."""

    def __init__(self, root: Root, register_version: int, blobs: Blobs, map_: Map | None = None) -> None:
        self.root = root
        self.register_version = register_version
        self.blobs = blobs
        self.map = map_ if map_ is not None else Map.from_json(blobs, root.map)

    def ref_state(self, ref: Ref) -> RefState | None:
        """The state of a ref, also of a deleted one; None where it never was."""
        value = self.map.get(f"ref/{ref}")
        return None if value is None else _ref_state(ref, value)

    def version_of(self, ref: Ref) -> str | None:
        """Digest of the version that a ref points to; None where there is no such ref."""
        state = self.ref_state(ref)
        return None if state is None else state.version

    def refs(self, kind: RefKind | None = None) -> Iterator[RefState]:
        """The refs that exist, by kind and name."""
        prefix = f"ref/{kind}/" if kind else "ref/"
        for key, value in self.map.scan(prefix):
            state = _ref_state(Ref.parse(key.removeprefix("ref/")), value)
            if state.version is not None:
                yield state

    def version(self, digest: str) -> VersionEntry:
        """Raises `NotFound` code `version_not_found`."""
        value = self.map.get(f"version/{digest}")
        if value is None:
            raise NotFound(
                f"Version {digest[:PUBLIC_ID_CHARACTERS]} is not in the repository",
                code="version_not_found",
                hint="List the versions with `skyhold log`",
                version=digest,
            )
        return _version_entry(digest, value)

    def has_version(self, digest: str) -> bool:
        return self.map.get(f"version/{digest}") is not None

    def versions(self) -> Iterator[VersionEntry]:
        """All versions, also those that no ref reaches, by digest."""
        for key, value in self.map.scan("version/"):
            yield _version_entry(key.removeprefix("version/"), value)

    def attached(self, digest: str) -> Iterator[Attached]:
        """What was attached to a version, oldest first; the values of large ones are read."""
        for key, value in self.map.scan(f"attached/{digest}/"):
            yield self._attached(digest, key, value)

    def attachment_blobs(self, digest: str) -> Iterator[str]:
        """The names of the blobs of what was attached to a version and is too large for the map; reads none of them."""
        for _, value in self.map.scan(f"attached/{digest}/"):
            content = value.get("value") if isinstance(value, dict) else None
            if isinstance(content, dict):
                yield str(content.get("blob"))

    def metrics(self, digest: str) -> dict[str, float]:
        """The metrics of a version, by name; of several values the one attached last. Notes are not read for them."""
        metrics: dict[str, float] = {}
        for key, value in self.map.scan(f"attached/{digest}/"):
            if isinstance(value, dict) and value.get("kind") == "metric":
                attached = self._attached(digest, key, value)
                if isinstance(attached.value, int | float):
                    metrics[attached.name] = attached.value
        return metrics

    def resolve(self, name: str, ancestor: int = 0) -> str:
        """Digest of the version that `name` means: a branch, tag or alias of this name, which may have its kind before
        it (`alias/champion`), else a version's id or the beginning of one (at least 4 hex characters); then `ancestor`
        first parents back.

        Raises `NotFound` code `ref_not_found` or `ancestor_not_found`, `InvalidInput` code `ambiguous_version` or
        `ambiguous_name`, and `Corrupt` code `history_cycle`.
        """
        digest = self._named(name) or self._by_prefix(name)
        step = 0
        for step, found in enumerate(first_parents(digest, lambda digest: self.version(digest).parents)):
            if step == ancestor:
                return found
        raise NotFound(
            f"`{name}~{ancestor}` goes back beyond the first version: there are {step} before `{name}`",
            code="ancestor_not_found",
        )

    def _named(self, name: str) -> str | None:
        """The version of the ref that `name` means, or None. Raises `InvalidInput` code `ambiguous_name` where it also
        means another version: names that did were given in stores of before, and nothing may guess which is meant."""
        found: dict[Ref, str] = {}
        for ref in refs_called(name):
            state = self.ref_state(ref)
            if state is not None and state.version is not None:
                found[ref] = state.version
        meant = {str(ref): version for ref, version in found.items()}
        if found and is_version_prefix(name):
            meant |= {f"version {digest[:12]}": digest for digest in self._digests(name)}
        if len(set(meant.values())) > 1:
            raise InvalidInput(
                f"{name!r} means several versions: {', '.join(meant)}",
                code="ambiguous_name",
                hint=f"Give the ref with its kind, such as `{next(iter(found))}`, or more characters of the id",
                ref=name,
            )
        return next(iter(found.values()), None)

    def _digests(self, prefix: str) -> list[str]:
        """The digests that begin so, two at most."""
        return [key.removeprefix("version/") for key, _ in islice(self.map.scan(f"version/{prefix}"), 2)]

    def _by_prefix(self, prefix: str) -> str:
        found = self._digests(prefix) if is_version_prefix(prefix) else []
        if not found:
            raise NotFound(
                f"There is no branch, tag, alias or version {prefix!r} in the repository",
                code="ref_not_found",
                hint="List them with `skyhold ref list` and `skyhold log`",
                ref=prefix,
            )
        if len(found) > 1:
            raise InvalidInput(
                f"Several versions begin with {prefix!r}, among them {found[0][:12]} and {found[1][:12]}",
                code="ambiguous_version",
                hint="Give more characters of the id",
                ref=prefix,
            )
        return found[0]

    def _attached(self, digest: str, key: str, value: object) -> Attached:
        if not isinstance(value, dict) or not all(
            isinstance(value.get(n), str) for n in ("kind", "name", "author", "time")
        ):
            malformed(f"attachment {key}", "a field is missing")
        content, blob = value.get("value"), None
        if isinstance(content, dict):
            blob = str(content.get("blob"))
            content = self.blobs.read("attachments", blob).decode()
        sequence = int(key.rpartition("/")[2], 16)
        return Attached(
            digest, sequence, value["kind"], value["name"], content, value["author"], value["time"], blob
        )  # fmt: skip


def _ref_state(ref: Ref, value: object) -> RefState:
    version, move = (value.get("version"), value.get("move")) if isinstance(value, dict) else (None, None)
    if not isinstance(version, str | None) or not isinstance(move, int):
        malformed(f"ref {ref}", "a field is missing")
    return RefState(ref, version, move)


def _version_entry(digest: str, value: object) -> VersionEntry:
    if not isinstance(value, dict):
        malformed(f"entry of version {digest}", "it is not an object")
    document, layout, parents, time = (value.get(name) for name in ("document", "layout", "parents", "time"))
    if not (
        isinstance(document, str) and isinstance(layout, str) and isinstance(parents, list) and isinstance(time, str)
    ):
        malformed(f"entry of version {digest}", "a field is missing")
    return VersionEntry(digest, document, layout, tuple(str(parent) for parent in parents), time)
