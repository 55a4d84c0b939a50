"""Search over the versions of many repositories: `name:bert tag:v1* accuracy>0.9 param.lr<=0.01`.

A query is a list of terms, all of which must hold. Terms with `:` match text: `name`, `ref`, `branch`, `tag`, `alias`,
`author`, `id`; with `*` or `?` as a glob of the whole, else as a part of it (a ref's name: as the whole). Terms with
`= != < <= > >=` compare a metric (`accuracy`, `metric.accuracy`) or a parameter (`param.lr`, `param.optimizer.lr`); a
parameter that is a text is compared as one by `=` and `!=`, and by its number by the others. A bare word is a part of
the repository's name, or the name of a ref. Quotes keep spaces together, as in a shell.
"""

from __future__ import annotations

import math
import operator
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final, NoReturn

from skyhold import error_codes
from skyhold.errors import InvalidInput
from skyhold.registry.names import Ref, RefKind
from skyhold.registry.repositories import Repositories
from skyhold.registry.snapshot import Snapshot, VersionEntry
from skyhold.registry.version import VersionDocument
from skyhold.store.unreadable_repositories import UnreadableRepository, read_each

_COMPARISON: Final = re.compile(r"(?P<field>[A-Za-z0-9_./@-]+)(?P<operator>>=|<=|!=|==|=|>|<)(?P<value>.*)", re.DOTALL)
_TEXT: Final = re.compile(r"(?P<field>[a-z]+):(?P<value>.*)", re.DOTALL)
_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq, "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_EQUALITIES: Final = frozenset(("=", "==", "!="))
_REF_FIELDS: Final = ("ref", *(kind.value for kind in RefKind))
_TEXT_FIELDS: Final = ("name", "id", "author", *_REF_FIELDS)
_PARAMETER: Final = "param."
_METRIC: Final = "metric."


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version with what a query may ask about it."""

    repository: str
    digest: str
    time: str
    refs: tuple[Ref, ...] = ()
    author: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextTerm:
    """`field:pattern`, or a bare word (`field` is empty)."""

    field: str
    pattern: str

    def holds(self, candidate: Candidate) -> bool:
        if not self.field:
            return self._in(candidate.repository) or any(
                fnmatchcase(name, self.pattern) for ref in candidate.refs for name in (ref.name, str(ref))
            )
        if self.field == "name":
            return self._in(candidate.repository)
        if self.field == "author":
            return self._in(candidate.author)
        if self.field == "id":
            return fnmatchcase(candidate.digest, self.pattern + "*")
        return any(
            fnmatchcase(ref.name, self.pattern) for ref in candidate.refs if self.field in {"ref", ref.kind.value}
        )

    def _in(self, text: str) -> bool:
        glob = any(character in self.pattern for character in "*?")
        return fnmatchcase(text.casefold(), self.pattern.casefold() if glob else f"*{self.pattern.casefold()}*")


@dataclass(frozen=True, slots=True)
class ComparisonTerm:
    """`field operator value`, of a metric or (`parameter`) of a parameter. A version that lacks it does not match."""

    field: str
    operator: str
    text: str
    number: float | None
    parameter: bool

    def holds(self, candidate: Candidate) -> bool:
        found = _descend(candidate.parameters, self.field) if self.parameter else candidate.metrics.get(self.field)
        compare = _OPERATORS[self.operator]
        if isinstance(found, bool):
            found = str(found).lower()
        if isinstance(found, str):
            if self.operator in _EQUALITIES:
                return compare(found, self.text)
            found = _number(found)
        return isinstance(found, int | float) and self.number is not None and compare(found, self.number)


@dataclass(frozen=True, slots=True)
class Query:
    """The terms of a query; a version matches if all hold."""

    terms: tuple[TextTerm | ComparisonTerm, ...]

    def matches(self, candidate: Candidate) -> bool:
        return all(term.holds(candidate) for term in self.terms)

    def may_match(self, repository: str) -> bool:
        """Whether a repository of this name can hold a match, so that others are not read."""
        named = Candidate(repository, "", "")
        return all(term.holds(named) for term in self.terms if isinstance(term, TextTerm) and term.field == "name")

    @property
    def needs_document(self) -> bool:
        """Whether it asks about fields that only version documents contain."""
        return any(
            term.parameter if isinstance(term, ComparisonTerm) else term.field == "author" for term in self.terms
        )


def parse_query(text: str) -> Query:
    """Raises `InvalidInput` code `invalid_query`, naming the term that is wrong."""
    try:
        words = shlex.split(text)
    except ValueError:
        _refuse(text, "a quote is not closed")
    if not words:
        _refuse(text, "it is empty")
    return Query(tuple(_parse_term(word) for word in words))


def search_repositories(
    query: Query, repositories: Repositories
) -> tuple[list[Candidate], tuple[UnreadableRepository, ...]]:
    """The versions of all repositories that match, newest first in each; those whose names cannot match are not
    read. Also the repositories that could not be read."""

    def matches(name: str, repository_id: str) -> list[Candidate]:
        return list(search(query, [(name, repositories.repository(repository_id).read())]))

    listed = [item for item in repositories.read().repositories() if query.may_match(item[0])]
    found, unread = read_each(listed, matches, "search")
    return [candidate for candidates in found for candidate in candidates], unread


def search(query: Query, repositories: Iterable[tuple[str, Snapshot]]) -> Iterator[Candidate]:
    """The versions that match, newest first in each repository. `repositories` are names with their states; give lazy
    ones, filtered by `query.may_match`."""
    for name, snapshot in repositories:
        found = (_candidate(name, snapshot, entry, refs, query) for entry, refs in _versions(snapshot))
        matches = [candidate for candidate in found if query.matches(candidate)]
        yield from sorted(matches, key=lambda candidate: (candidate.time, candidate.digest), reverse=True)


def _versions(snapshot: Snapshot) -> Iterator[tuple[VersionEntry, tuple[Ref, ...]]]:
    refs: dict[str, list[Ref]] = {}
    for state in snapshot.refs():
        refs.setdefault(str(state.version), []).append(state.ref)
    for entry in snapshot.versions():
        yield entry, tuple(refs.get(entry.digest, ()))


def _candidate(name: str, snapshot: Snapshot, entry: VersionEntry, refs: tuple[Ref, ...], query: Query) -> Candidate:
    """A candidate whose costly parts are read only if the query asks for them and the cheap ones hold."""
    candidate = Candidate(name, entry.digest, entry.time, refs)
    cheap = [term for term in query.terms if isinstance(term, TextTerm) and term.field != "author"]
    if not all(term.holds(candidate) for term in cheap):
        return candidate
    author, parameters = "", {}
    if query.needs_document:
        document = VersionDocument.decode(snapshot.blobs.read("versions", entry.document), entry.digest)
        author, parameters = document.author, document.parameters
    return Candidate(name, entry.digest, entry.time, refs, author, snapshot.metrics(entry.digest), parameters)


def _parse_term(word: str) -> TextTerm | ComparisonTerm:
    text = _TEXT.fullmatch(word)
    if text is not None:
        if text["field"] not in _TEXT_FIELDS:
            _refuse(word, f"`{text['field']}` is none of {', '.join(_TEXT_FIELDS)}")
        if not text["value"]:
            _refuse(word, "there is nothing after the colon")
        return TextTerm(text["field"], text["value"])
    comparison = _COMPARISON.fullmatch(word)
    if comparison is not None:
        return _comparison(word, comparison["field"], comparison["operator"], comparison["value"])
    if any(character in word for character in "<>=!:"):
        _refuse(word, "a name, an operator and a value belong together without spaces")
    return TextTerm("", word)


def _comparison(word: str, field: str, operator_: str, text: str) -> ComparisonTerm:
    parameter = field.startswith(_PARAMETER)
    name = field.removeprefix(_PARAMETER if parameter else _METRIC)
    if not name or not text:
        _refuse(word, "a name and a value are needed")
    number = _number(text)
    if number is None and not (parameter and operator_ in _EQUALITIES):
        _refuse(word, f"{text!r} is not a finite number")
    return ComparisonTerm(name, operator_, text, number, parameter)


def _number(text: str) -> float | None:
    """The finite number that a text is, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _descend(values: object, name: str) -> object:
    """The parameter of this name, else the one that its dots lead to inside nested objects."""
    if not isinstance(values, Mapping):
        return None
    if name in values:
        return values[name]
    first, dot, rest = name.partition(".")
    return _descend(values.get(first), rest) if dot else None


def _refuse(term: str, why: str) -> NoReturn:
    raise InvalidInput(
        f"Expected a search term but got {term!r}: {why}",
        code=error_codes.INVALID_QUERY,
        hint="Write terms such as bert, tag:v1*, author:ann, accuracy>0.9, param.lr<=0.01",
        term=term,
    )
