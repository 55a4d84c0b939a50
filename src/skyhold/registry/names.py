"""The grammar of names: repositories, refs, and references to a version such as `team/name@champion~2`.

One grammar per kind, checked wherever a name comes in. No name ever becomes a path.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from skyhold import error_codes
from skyhold.errors import InvalidInput
from skyhold.store.ids import WORD

ANCESTOR_MAX: Final = 10**6
REF_BYTES_MAX: Final = 128
_REPOSITORY_NAME: Final = re.compile(rf"{WORD}/{WORD}")
_BRANCH_NAME: Final = re.compile(rf"{WORD}(?:/{WORD})*")
_TAG_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_+]|[.-](?=[A-Za-z0-9_+-])){0,95}")
_ONE_WORD: Final = re.compile(WORD)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_FULL_ID: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_ID_PREFIX: Final = re.compile(r"[0-9a-f]{4,64}")
_REFERENCE: Final = re.compile(r"(?P<repository>[^@]+)(?:@(?P<ref>[^~]*)(?:~(?P<ancestor>[0-9]{0,7}))?)?")


class RefKind(StrEnum):
    """What a ref may do: a branch moves forward, a tag never moves, an alias moves freely."""

    BRANCH = "branch"
    TAG = "tag"
    ALIAS = "alias"

    @property
    def phrase(self) -> str:
        """`a branch`, `a tag`, `an alias`"""
        return f"{'an' if self is RefKind.ALIAS else 'a'} {self}"


_REF_NAMES: Final = {RefKind.BRANCH: _BRANCH_NAME, RefKind.TAG: _TAG_NAME, RefKind.ALIAS: _ONE_WORD}


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """The kind and name of a ref; one that exists is well formed. Raises `InvalidInput` code `invalid_ref_name`."""

    kind: RefKind
    name: str

    def __post_init__(self) -> None:
        if (
            _REF_NAMES[self.kind].fullmatch(self.name) is None
            or len(self.name) > REF_BYTES_MAX
            or _FULL_ID.fullmatch(self.name)
        ):
            slash = ", joined by `/`" if self.kind is RefKind.BRANCH else ""
            raise InvalidInput(
                f"Expected the name of {self.kind.phrase} but got {self.name!r}",
                code=error_codes.INVALID_REF_NAME,
                hint=f"Use letters, digits, `_`, `-` and single dots inside{slash}; a version's id is no name",
                name=self.name,
            )

    @classmethod
    def parse(cls, text: str) -> Ref:
        """The ref written as `branch/main`, as in the map's keys and the moves. Raises `InvalidInput`."""
        kind, _, name = text.partition("/")
        if kind not in {known.value for known in RefKind}:
            raise InvalidInput(
                f"Expected a ref such as `branch/main` but got {text!r}", code=error_codes.INVALID_REF_NAME, name=text
            )
        return cls(RefKind(kind), name)

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def check_new_ref(ref: Ref) -> Ref:
    """Return `ref`, or raise `InvalidInput` code `invalid_ref_name` for a name that new refs must not have: one that
    reads as the beginning of a version's id, or as the full name of another ref, would be ambiguous."""
    if is_version_prefix(ref.name):
        why = "it reads as the beginning of a version's id"
    elif ref.name.partition("/")[0] in {kind.value for kind in RefKind} and "/" in ref.name:
        why = "it reads as the full name of a ref"
    else:
        return ref
    raise InvalidInput(
        f"{ref.kind.phrase.capitalize()} cannot be called {ref.name!r}: {why}",
        code=error_codes.INVALID_REF_NAME,
        hint=f"Choose another name, such as `v{ref.name}` or `release-{ref.name}`" if "/" not in ref.name else None,
        name=ref.name,
    )


@dataclass(frozen=True, slots=True)
class Reference:
    """A version as users write it: `team/name@REF`, where REF is a branch, tag, alias or at least 4 hex characters of
    a version's id, and may end in `~N` for its N-th first-parent ancestor. Without `@REF`, `ref` is None."""

    repository: str
    ref: str | None = None
    ancestor: int = 0

    def __str__(self) -> str:
        ref = f"@{self.ref}" if self.ref is not None else ""
        return f"{self.repository}{ref}" + (f"~{self.ancestor}" if self.ancestor else "")


def parse_reference(text: str) -> Reference:
    """Parse `team/name`, `team/name@REF` or `team/name@REF~N` (`~` alone is `~1`). Raises `InvalidInput`."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise InvalidInput(
            f"Expected a reference such as `team/name@main` but got {text!r}",
            code=error_codes.INVALID_REFERENCE,
            hint="Write team/name@REF, where REF is a branch, tag, alias or version id, and maybe ~N",
            reference=text,
        )
    repository = check_repository_name(match["repository"])
    ref, ancestor = match["ref"], match["ancestor"]
    if ref is None:
        return Reference(repository)
    if not is_ref_name(ref) and not is_version_prefix(ref):
        raise InvalidInput(
            f"Expected a branch, tag, alias or version id after `@` but got {ref!r}",
            code=error_codes.INVALID_REFERENCE,
            reference=text,
        )
    steps = 0 if ancestor is None else int(ancestor or 1)
    if steps > ANCESTOR_MAX:
        raise InvalidInput(f"Expected at most ~{ANCESTOR_MAX} but got ~{steps}", code=error_codes.INVALID_REFERENCE)
    return Reference(repository, ref, steps)


def refs_called(name: str) -> list[Ref]:
    """The refs that `name` may mean: the one whose kind comes before it, as in `alias/champion`, then one of
    each kind that can have the name."""
    refs = []
    with suppress(InvalidInput):
        refs.append(Ref.parse(name))
    for kind in RefKind:
        with suppress(InvalidInput):
            refs.append(Ref(kind, name))
    return refs


def is_ref_name(name: str) -> bool:
    """Whether some kind of ref can have this name, its kind before it or not."""
    return bool(refs_called(name))


def is_full_id(text: str) -> bool:
    """Whether a text is a version's digest, or its id of 40 characters: a document that has it is the version, wherever
    it was found."""
    return _FULL_ID.fullmatch(text) is not None


def is_version_prefix(text: str) -> bool:
    """Whether this is a digest (64 hex), a public id (40), or at least 4 hex characters at its beginning."""
    return _ID_PREFIX.fullmatch(text) is not None


def check_repository_name(name: str) -> str:
    """Return `name`, or raise `InvalidInput` unless it is `team/name`."""
    if _REPOSITORY_NAME.fullmatch(name) is None:
        raise InvalidInput(
            f"Expected a repository such as `team/name` but got {name!r}",
            code=error_codes.INVALID_REPOSITORY_NAME,
            hint="Use letters, digits, `_`, `-` and single dots inside, at most 96 on each side of the one slash",
            name=name,
        )
    return name


def check_digest(digest: str, what: str = "a version") -> str:
    """Return `digest`, or raise `InvalidInput` unless it is 64 hex characters."""
    if _DIGEST.fullmatch(digest) is None:
        raise InvalidInput(
            f"Expected the digest of {what}, 64 hex characters, but got {digest!r}", code=error_codes.INVALID_DIGEST
        )
    return digest
