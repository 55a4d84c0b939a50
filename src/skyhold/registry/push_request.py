"""The request of a push: checked once, and passed on as one value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypedDict

from skyhold import error_codes
from skyhold.errors import InvalidInput
from skyhold.registry import validate
from skyhold.registry.change import RefUpdate, RepositoryChange, attachments
from skyhold.registry.names import Ref, RefKind, check_new_ref, is_version_prefix
from skyhold.registry.snapshot import NewVersion
from skyhold.registry.version import Lineage, VersionDocument, VersionFile
from skyhold.storage.canonical import Json
from skyhold.store.event import PERSON, Origin
from skyhold.store.time import now

REASON_CHARACTERS: Final = 160
"""The most characters of the reason of a push's event, which contains its message: each may take six bytes in JSON."""
PENDING: Final = "0" * 64
"""The placeholder digest of a version that does not exist yet."""


class Parent(NamedTuple):
    """The parent version of a push, and the version to which its branch points, None for a new branch."""

    version: str | None
    branch_at: str | None


class PushFields(TypedDict, total=False):
    """The keywords of `Repository.push`; each is a field of `PushRequest`, where its default is."""

    message: str
    branch: str
    tags: Sequence[str]
    aliases: Sequence[str]
    metrics: Mapping[str, float] | None
    notes: Sequence[str]
    parameters: Mapping[str, object] | None
    metadata: Mapping[str, object] | None
    data: Sequence[str]
    code: Sequence[str]
    base: str | None
    relation: str | None
    expected_parent: str | None
    without_optimizer: bool
    allow_unsafe_names: bool


@dataclass(frozen=True, slots=True)
class PushRequest:
    """How a version is described, and which refs move to it. Texts, numbers and lists of any library become plain ones.

    `base` is a reference, `bases` what it was resolved to: digests with their repositories.
    """

    author: str
    message: str = ""
    branch: str = "main"
    tags: Sequence[str] = ()
    aliases: Sequence[str] = ()
    metrics: Mapping[str, float] | None = None
    notes: Sequence[str] = ()
    parameters: Mapping[str, object] | None = None
    metadata: Mapping[str, object] | None = None
    data: Sequence[str] = ()
    code: Sequence[str] = ()
    base: str | None = None
    relation: str | None = None
    expected_parent: str | None = None
    dry_run: bool = False
    without_optimizer: bool = False
    allow_unsafe_names: bool = False
    actor: str = PERSON
    bases: tuple[tuple[str, str], ...] = ()
    create: bool = False
    """Whether a missing repository is created, once the whole version is durable."""

    def __post_init__(self) -> None:
        """Raises `InvalidInput` for everything that can be checked without a request."""
        for name, plain in _PLAIN.items():
            object.__setattr__(self, name, plain(getattr(self, name)))
        if self.relation is not None and self.base is None:
            raise InvalidInput("A relation needs a base, and none is given", code=error_codes.INVALID_RELATION)
        refs = self.refs()
        names = [ref.name for ref in refs]
        for name in names:
            if names.count(name) > 1:
                raise InvalidInput(
                    f"`{name}` is given for more than one of the branch, the tags and the aliases",
                    code=error_codes.REF_NAMED_TWICE,
                    hint="Give each name once",
                    name=name,
                )
        for ref in refs[1:]:  # a branch of such a name may exist
            check_new_ref(ref)
        if self.expected_parent is not None and not is_version_prefix(self.expected_parent):
            raise InvalidInput(
                f"Expected the id of a version as the expected parent but got {self.expected_parent!r}",
                code=error_codes.INVALID_DIGEST,
            )
        attachments(PENDING, self.metrics or {}, self.notes)
        self.describe((), None)

    def refs(self) -> list[Ref]:
        """The refs that move to the version, the branch first."""
        given = ((RefKind.BRANCH, (self.branch,)), (RefKind.TAG, self.tags), (RefKind.ALIAS, self.aliases))
        return [Ref(kind, name) for kind, names in given for name in names]

    def describe(self, files: Iterable[VersionFile], parent: str | None) -> VersionDocument:
        """The version of these files."""
        bases = tuple(digest for _, digest in self.bases)
        return VersionDocument(
            files=tuple(files),
            time=now(),
            author=self.author,
            message=self.message,
            parents=() if parent is None else (parent,),
            parameters=dict(self.parameters or {}),
            metadata=dict(self.metadata or {}),
            lineage=Lineage(bases, tuple(self.data), tuple(self.code), (self.relation or "") if bases else ""),
        )

    def change(
        self, parent: Parent, version: str, added: tuple[NewVersion, ...], gc_epoch: int, policy: Json
    ) -> RepositoryChange:
        """What the push changes in the repository: its refs go to `version`, which may be `added` by it."""
        branch, *others = self.refs()
        updates = [RefUpdate(ref, version) for ref in others]
        if parent.branch_at != version:
            updates.insert(0, RefUpdate(branch, version, expected=parent.branch_at))
        return RepositoryChange(
            Origin(self.author, now(), f"push {self.message}".rstrip()[:REASON_CHARACTERS], self.actor),
            refs=tuple(updates),
            versions=added,
            attachments=tuple(attachments(version, self.metrics or {}, self.notes)),
            gc_epoch=gc_epoch,
            policy=policy,
        )


def _optional_text(value: object, what: str) -> str | None:
    return None if value is None else validate.text(value, what)


_PLAIN: Final[Mapping[str, Callable[[object], object]]] = {
    "message": lambda value: validate.text(value, "the message", long=True),
    "author": lambda value: validate.text(value, "the author"),
    "branch": lambda value: validate.text(value, "the branch"),
    "tags": lambda value: validate.texts(value, "tags"),
    "aliases": lambda value: validate.texts(value, "aliases"),
    "metrics": lambda value: validate.numbers(value, "metrics"),
    "notes": lambda value: validate.texts(value, "notes", long=True),
    "parameters": lambda value: validate.values(value, "parameters"),
    "metadata": lambda value: validate.values(value, "metadata"),
    "data": lambda value: validate.texts(value, "data", long=True),
    "code": lambda value: validate.texts(value, "code", long=True),
    "base": lambda value: _optional_text(value, "the base"),
    "relation": lambda value: _optional_text(value, "the relation"),
    "expected_parent": lambda value: _optional_text(value, "the expected parent"),
}
"""Converts each field to a plain value, or refuses it."""
