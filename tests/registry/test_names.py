from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyhold.errors import InvalidInput
from skyhold.registry.names import Ref, Reference, RefKind, check_repository_name, parse_reference

BAD_WORDS = [
    "",
    ".",
    "..",
    ".hidden",
    "a..b",
    "a.",
    "-a",
    "a b",
    "a\0",
    "%2e%2e",
    "a\\b",
    "é",
    "x" * 97,
    "a@b",
    "a~b",
    "a:b",
    "a\n",
]


@pytest.mark.parametrize("name", ["team/model", "Qwen/Qwen2-7B.v1", "a/b", "_x/y_", "t--m/n", "9/9"])
def test_repository_name_is_taken(name: str) -> None:
    assert check_repository_name(name) == name


@pytest.mark.parametrize("name", ["model", "/model", "team/", "a/b/c", *(f"team/{word}" for word in BAD_WORDS)])
def test_repository_name_outside_the_grammar_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_repository_name(name)
    assert caught.value.code == "invalid_repository_name"


@pytest.mark.parametrize(
    ("kind", "name"),
    [("branch", "main"), ("branch", "feature/x-1"), ("tag", "v1.0+cu121"), ("alias", "champion"), ("alias", "beef")],
)
def test_ref_name_is_taken_and_parsed_back(kind: str, name: str) -> None:
    ref = Ref(RefKind(kind), name)
    assert Ref.parse(str(ref)) == ref


@pytest.mark.parametrize("kind", list(RefKind))
@pytest.mark.parametrize("name", [*BAD_WORDS, "a//b", "/a", "a/", "a/../b", "ab" * 20, "ab" * 32, "x/" * 64 + "x"])
def test_ref_name_outside_the_grammar_is_refused(kind: RefKind, name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Ref(kind, name)
    assert caught.value.code == "invalid_ref_name"


@pytest.mark.parametrize(("kind", "name"), [("tag", "a/b"), ("alias", "a/b"), ("alias", "a+b"), ("branch", "a+b")])
def test_each_kind_has_its_own_grammar(kind: str, name: str) -> None:
    with pytest.raises(InvalidInput):
        Ref(RefKind(kind), name)


@pytest.mark.parametrize("text", ["main", "heads/main", "", "branch/"])
def test_text_that_is_no_ref_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Ref.parse(text)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("team/name", Reference("team/name")),
        ("team/name@main", Reference("team/name", "main")),
        ("team/name@feature/x~3", Reference("team/name", "feature/x", 3)),
        ("team/name@v1~", Reference("team/name", "v1", 1)),
        ("team/name@" + "ab" * 20, Reference("team/name", "ab" * 20)),
        ("team/name@" + "ab" * 32 + "~2", Reference("team/name", "ab" * 32, 2)),
    ],
)
def test_reference_is_parsed(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        "team",
        "@x",
        "team/name@",
        "team/name@@",
        "team/name@..",
        "team/name@a~b",
        "team/name@a~-1",
        "team/name@a~1~2",
        "team/name@a~9999999",
        "team/name@a~99999999",
        "team/name~1",
    ],
)
def test_reference_outside_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_reference(text)


words = st.from_regex(r"\A[a-z0-9]{1,5}([.-][a-z0-9]{1,5}){0,2}\Z")


@given(st.builds(Reference, st.builds("{}/{}".format, words, words), words, st.integers(0, 99)))
def test_any_reference_reads_back_as_itself(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


@given(st.text(max_size=20))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        assert parse_reference(text).repository in text
