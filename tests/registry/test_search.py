from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyhold.errors import InvalidInput
from skyhold.registry.change import Attachment
from skyhold.registry.names import Ref, RefKind
from skyhold.registry.repository_register import RepositoryRegister
from skyhold.registry.search import Candidate, parse_query, search
from skyhold.registry.snapshot import NewVersion, Snapshot
from skyhold.registry.version import VersionDocument
from skyhold.storage.blobs import MemoryBlobs
from tests.registry.fixtures import change, digest, new_repository

CANDIDATE = Candidate(
    repository="nlp/BERT-base",
    digest="ab" * 32,
    time="2026-01-01T00:00:00Z",
    refs=(Ref(RefKind.TAG, "v1.2"), Ref(RefKind.ALIAS, "champion")),
    author="Ann Bee <ann@example.org>",
    metrics={"accuracy": 0.93, "loss": 1e-3, "val/f1": 0.5},
    parameters={"lr": 0.01, "optimizer": {"name": "adam", "beta": 0.9}, "dotted.name": 3, "frozen": True},
)


@pytest.mark.parametrize(
    "query",
    [
        "bert", "BERT", "champion", "v1.2", "v1*", "alias/champion", "bert champion",
        "name:bert", "name:nlp/*", "nlp/bert", "tag:v1.2", "tag:v1*", "alias:champion", "ref:v1.2",
        "author:ann", 'author:"ann bee"', "id:abab", "accuracy>0.9", "accuracy>=0.93", "accuracy<=0.93", "loss<1e-2",
        "accuracy=0.93", "accuracy!=0.5", "metric.accuracy==0.93", "val/f1=0.5", "param.lr<=0.01",
        "param.optimizer.beta>0.8", "param.optimizer.name=adam", "param.optimizer.name!=sgd", "param.dotted.name=3",
        "param.frozen=true", "bert tag:v1* accuracy>0.9 loss<1",
    ],
)  # fmt: skip
def test_version_is_found(query: str) -> None:
    assert parse_query(query).matches(CANDIDATE)


@pytest.mark.parametrize(
    "query",
    [
        "gpt", "champ", "v1", "branch/champion", "gpt champion", "name:champion",
        "name:bert*", "tag:v1", "tag:champion", "branch:champion", "author:bob", "id:ba", "accuracy>0.93",
        "accuracy<0.9", "absent>0", "absent!=1", "param.accuracy>0", "lr<=0.01", "param.optimizer.name=sgd",
        "param.optimizer.name>1", "param.lr=adam", "bert accuracy>0.99",
    ],
)  # fmt: skip
def test_version_is_not_found(query: str) -> None:
    assert not parse_query(query).matches(CANDIDATE)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ('author:"ann', "quote is not closed"),
        ("accuracy > 0.9", "without spaces"),
        ("accuracy>", "value are needed"),
        (">0.9", "without spaces"),
        ("accuracy>high", "'high' is not a finite number"),
        ("accuracy>nan", "not a finite number"),
        ("param.name>x", "not a finite number"),
        ("param.>1", "name and a value"),
        ("colour:red", "`colour` is none of"),
        ("tag:", "after the colon"),
    ],
)
def test_bad_query_is_refused_with_the_reason(query: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as caught:
        parse_query(query)
    assert caught.value.code == "invalid_query"
    assert caught.value.hint is not None


@given(st.text(max_size=30))
def test_any_text_is_a_query_or_refused(text: str) -> None:
    try:
        parse_query(text).matches(CANDIDATE)
    except InvalidInput as refused:
        assert refused.code == "invalid_query"


def committed(blobs: MemoryBlobs, author: str, lr: float, day: int) -> NewVersion:
    document = VersionDocument((), f"2026-01-0{day}T00:00:00Z", author=author, parameters={"lr": lr})
    name = blobs.write("versions", document.encode())
    return NewVersion(document.digest, name, digest("layout"), (), document.time)


def test_search_reads_refs_metrics_and_documents_of_repositories() -> None:
    blobs = MemoryBlobs()
    repository: RepositoryRegister = new_repository(blobs=blobs)
    one, two = committed(blobs, "ann", 0.1, 1), committed(blobs, "bob", 0.2, 2)
    repository.apply(change(versions=(one, two)), "a")
    scores = (Attachment(one.digest, "metric", "accuracy", 0.5), Attachment(two.digest, "metric", "accuracy", 0.75))
    snapshot = repository.apply(change(attachments=scores), "b")

    def found(text: str, snapshot: Snapshot = snapshot) -> list[str]:
        query = parse_query(text)
        repositories = [("team/one", snapshot)] if query.may_match("team/one") else []
        return [hit.digest for hit in search(query, repositories)]

    assert found("one") == [two.digest, one.digest]
    assert found("two") == []
    assert found("accuracy>0.6") == [two.digest]
    assert found("author:ann") == [one.digest]
    assert found("param.lr>=0.1 accuracy<1") == [two.digest, one.digest]
    assert found("param.lr>0.1 author:ann") == []
    assert found("id:" + one.digest[:8]) == [one.digest]
