"""Documents, by a kind of the test: made, changed, renamed, deleted; and what a lost reply leaves."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from skyhold.consensus.memory import MemoryRegisters
from skyhold.consensus.register import Versioned
from skyhold.errors import AlreadyExists, Conflict, Corrupt, InvalidInput, NotFound, OutcomeUnknown
from skyhold.registry.history import verify_document, verify_names
from skyhold.registry.repositories import Repositories
from skyhold.storage.blobs import MemoryBlobs
from skyhold.storage.canonical import Json
from skyhold.store.directory import Directory, DirectoryRegister
from skyhold.store.document import Document, DocumentChange, DocumentRoot, document_key
from skyhold.store.documents import DocumentKind, Documents
from skyhold.store.event import Origin
from skyhold.store.record import RecordKind, RecordUpdate, records_of
from tests.registry.fixtures import ORIGIN, TIME

ONE, TWO = "11" * 16, "22" * 16


def _check_pool(id_: str, value: Json) -> None:
    if not isinstance(value.get("nodes"), int):
        raise InvalidInput(f"Expected nodes of pool/{id_} but got {value}", code="invalid_record")


POOL = RecordKind("pool", re.compile(r"[a-z0-9-]+"), _check_pool)
BINDING = RecordKind("binding", re.compile(r"[0-9a-f]{32}"), lambda _id, _value: None)


def _bound(document: Document) -> list[str]:
    return [f"deployment {id_} runs here" for id_, _ in records_of(document.map, BINDING)]


CLUSTER = DocumentKind("cluster", (POOL, BINDING), _bound)
GATEWAY = DocumentKind("gateway", ())


class Interrupted(MemoryRegisters):
    """Loses replies of a kind, once each, after the change took effect."""

    def __init__(self) -> None:
        super().__init__()
        self.lose: Callable[[str], bool] = lambda _operation: False

    def compare_and_set(self, key: str, expected_version: int, data: bytes, operation_id: str) -> Versioned:
        value = super().compare_and_set(key, expected_version, data, operation_id)
        if self.lose(operation_id):
            self.lose = lambda _operation: False
            raise OutcomeUnknown("The reply was lost", code="reply_lost")
        return value


@pytest.fixture
def registers() -> Interrupted:
    return Interrupted()


@pytest.fixture
def clusters(registers: Interrupted) -> Documents:
    return Documents(registers, MemoryBlobs(), CLUSTER)


def pool(id_: str, nodes: object) -> RecordUpdate:
    return RecordUpdate(POOL, id_, {"nodes": nodes})


def test_document_is_made_named_and_changed(clusters: Documents) -> None:
    made = clusters.create("prod-eu", ONE, ORIGIN, "make")
    assert (made.root.kind, made.root.name, made.root.events) == ("cluster", "prod-eu", 1)
    assert list(clusters.list()) == [("prod-eu", ONE)]
    assert clusters.find("prod-eu") == ONE
    by = Origin("eve", TIME, "more nodes", actor="controller")
    after = clusters.apply(ONE, DocumentChange(by, (pool("a10", 3), pool("cpu", 9))), "pools")
    assert dict(records_of(after.map, POOL)) == {"a10": {"nodes": 3}, "cpu": {"nodes": 9}}
    event = after.log.read(2)
    assert event.origin == by
    assert [part["record"] for part in event.what] == ["pool/a10", "pool/cpu"]
    assert verify_document(after) == 2
    assert clusters.apply(ONE, DocumentChange(by, (pool("cpu", 9),)), "same").root == after.root


def test_name_is_unique_among_documents_of_a_kind(registers: Interrupted, clusters: Documents) -> None:
    clusters.create("prod", ONE, ORIGIN, "one")
    with pytest.raises(AlreadyExists, match="cluster `prod` already"):
        clusters.create("prod", TWO, ORIGIN, "two")
    gateways = Documents(registers, MemoryBlobs(), GATEWAY)
    assert gateways.create("prod", TWO, ORIGIN, "gateway").root.kind == "gateway"
    assert list(gateways.list()) == [("prod", TWO)]
    with pytest.raises(NotFound, match="is no cluster, but a gateway"):
        clusters.read(TWO)


def test_document_is_renamed_and_its_name_is_free(clusters: Documents) -> None:
    clusters.create("old", ONE, ORIGIN, "one")
    assert clusters.rename("old", "new", ORIGIN, "rename").root.name == "new"
    with pytest.raises(InvalidInput, match="name already"):
        clusters.rename("new", "new", ORIGIN, "rename-2")
    assert list(clusters.list()) == [("new", ONE)]
    clusters.create("old", TWO, ORIGIN, "two")
    with pytest.raises(AlreadyExists):
        clusters.rename("old", "new", ORIGIN, "rename-3")
    with pytest.raises(NotFound):
        clusters.rename("absent", "x", ORIGIN, "rename-4")
    for name in ("a b", "", "../x", "a/b", "a" * 97):
        with pytest.raises(InvalidInput):
            clusters.rename("old", name, ORIGIN, "rename-5")


def test_document_that_is_wanted_is_deleted_by_force_alone(registers: Interrupted, clusters: Documents) -> None:
    clusters.create("prod", ONE, ORIGIN, "one")
    clusters.apply(ONE, DocumentChange(ORIGIN, (RecordUpdate(BINDING, TWO, {}),)), "bind")
    with pytest.raises(Conflict, match=f"deployment {TWO} runs here") as refused:
        clusters.delete("prod", ORIGIN, "delete")
    assert refused.value.code == "document_wanted"
    assert clusters.delete("prod", ORIGIN, "force", force=True).root.deleted == TIME
    assert list(clusters.list()) == []
    with pytest.raises(NotFound, match="was deleted"):
        clusters.apply(ONE, DocumentChange(ORIGIN, (pool("cpu", 1),)), "late")
    names = Repositories(registers, MemoryBlobs()).read()
    assert list(names.deleted_documents()) == [("cluster", "prod", ONE)]
    assert list(names.deleted()) == []
    assert names.created() == {document_key(ONE): True}


@pytest.mark.parametrize("step", ["make-enter", "make", "make-name"])
def test_document_whose_making_lost_a_reply_is_made_once(
    registers: Interrupted, clusters: Documents, step: str
) -> None:
    registers.lose = lambda operation: operation == step
    with pytest.raises(OutcomeUnknown):
        clusters.create("prod", ONE, ORIGIN, "make")
    assert clusters.create("prod", ONE, ORIGIN, "make").root.events == 1
    assert list(clusters.list()) == [("prod", ONE)]


def test_deletion_that_lost_a_reply_can_be_asked_for_again(registers: Interrupted, clusters: Documents) -> None:
    clusters.create("prod", ONE, ORIGIN, "make")
    registers.lose = lambda operation: operation == "delete"
    with pytest.raises(OutcomeUnknown):
        clusters.delete("prod", ORIGIN, "delete")
    assert clusters.delete("prod", ORIGIN, "delete").root.deleted == TIME
    assert list(clusters.list()) == []


def test_register_that_is_gone_is_lost_and_not_absent(registers: Interrupted, clusters: Documents) -> None:
    clusters.create("prod", ONE, ORIGIN, "make")
    registers._registers.pop(document_key(ONE))
    with pytest.raises(Corrupt) as lost:
        clusters.read(ONE)
    assert lost.value.code == "register_lost"
    with pytest.raises(NotFound):
        clusters.read(TWO)


def test_record_of_a_kind_that_the_document_has_not_is_refused(clusters: Documents) -> None:
    clusters.create("prod", ONE, ORIGIN, "make")
    other = RecordKind("other", re.compile("x"), lambda _id, _value: None)
    with pytest.raises(InvalidInput, match="no records of kind other"):
        clusters.apply(ONE, DocumentChange(ORIGIN, (RecordUpdate(other, "x", {}),)), "other")


def test_epoch_of_gc_fences_changes_with_blobs(clusters: Documents) -> None:
    clusters.create("prod", ONE, ORIGIN, "make")
    blobs: Json = {"nodes": 1, "blobs": {"kubeconfig": "ab" * 32}}
    with pytest.raises(InvalidInput, match="gc epoch"):
        DocumentChange(ORIGIN, (RecordUpdate(POOL, "cpu", blobs),))
    change = DocumentChange(ORIGIN, (RecordUpdate(POOL, "cpu", blobs),), gc_epoch=1)
    with pytest.raises(Conflict, match="Garbage was collected"):
        clusters.apply(ONE, change, "late")
    assert clusters.apply(ONE, replace(change, gc_epoch=0), "in-time").root.events == 2


def test_document_of_another_id_or_form_is_refused(clusters: Documents) -> None:
    made = clusters.create("prod", ONE, ORIGIN, "make")
    body = made.encode()
    assert DocumentRoot.decode(body, ONE) == made.root
    for forged in (body.replace(ONE.encode(), TWO.encode()), body.replace(b'"document":1', b'"document":2'),
                   body.replace(b'"kind":"cluster"', b'"kind":"Cluster"'), body + b" ", b"{}"):  # fmt: skip
        if forged == body + b" ":
            continue
        with pytest.raises(Corrupt):
            DocumentRoot.decode(forged, ONE)


def test_name_of_a_deployment_is_unique_in_the_store(registers: Interrupted) -> None:
    repositories = Repositories(registers, MemoryBlobs())
    named = repositories.name_deployment("scorer", ONE, TWO, ORIGIN, "name")
    assert named.find_deployment("scorer") == (ONE, TWO)
    assert named.find_deployment("absent") is None
    assert list(named.deployments()) == [("scorer", ONE, TWO)]
    assert repositories.name_deployment("scorer", ONE, TWO, ORIGIN, "again").log.count == named.log.count
    with pytest.raises(AlreadyExists, match="deployment `scorer`"):
        repositories.name_deployment("scorer", TWO, ONE, ORIGIN, "taken")
    with pytest.raises(NotFound, match="no deployment `scorer`"):
        repositories.free_deployment("scorer", ONE, ORIGIN, "not-ours")
    assert repositories.free_deployment("scorer", TWO, ORIGIN, "free").find_deployment("scorer") is None
    assert repositories.name_deployment("scorer", TWO, ONE, ORIGIN, "free-now").find_deployment("scorer") == (TWO, ONE)
    with pytest.raises(InvalidInput, match="name of a deployment"):
        repositories.name_deployment("a/b", ONE, TWO, ORIGIN, "path")


@pytest.mark.parametrize("verb", ["rename", "delete"])
@pytest.mark.parametrize("lost", ["-name", ""])
def test_change_of_a_document_and_its_name_is_asked_for_again_under_its_id(
    registers: Interrupted, clusters: Documents, verb: str, lost: str
) -> None:
    """The reply to the first or the second of its two parts is lost; and once more when all of it was done."""
    clusters.create("green", ONE, ORIGIN, "make")

    def again() -> Document:
        if verb == "rename":
            return clusters.rename("green", "blue", ORIGIN, "twice")
        return clusters.delete("green", ORIGIN, "twice")

    registers.lose = lambda operation: operation == f"twice{lost}"
    with pytest.raises(OutcomeUnknown):
        again()
    for _ in range(2):
        document = again()
    assert (document.root.name, document.root.deleted) == (("blue", None) if verb == "rename" else ("green", TIME))
    assert document.root.events == 2
    assert [name for name, _ in clusters.list()] == (["blue"] if verb == "rename" else [])
    names = DirectoryRegister(registers, clusters._blobs, Directory).read()
    assert verify_names(names) == names.log.count == 3


def test_deletion_of_a_repository_is_asked_for_again_under_its_id(registers: Interrupted) -> None:
    repositories = Repositories(registers, MemoryBlobs())
    repositories.create("team/m", ONE, policy={}, origin=ORIGIN, operation_id="make")
    registers.lose = lambda operation: operation == "twice-name"
    with pytest.raises(OutcomeUnknown):
        repositories.delete("team/m", ORIGIN, "twice")
    for _ in range(2):
        assert repositories.delete("team/m", ORIGIN, "twice").repository_id == ONE
    with pytest.raises(NotFound):
        repositories.delete("team/m", ORIGIN, "another")
    assert repositories.read().log.count == 3


@pytest.mark.parametrize(
    "forged",
    [
        {"name/team/x": {"repository": TWO}},
        {"name/team/m": None},
        {"name/team/m": {"repository": TWO}},
        {"document/cluster/prod": {"document": ONE}},
        {"deployment/scorer": {"repository": ONE, "deployment": ONE}},
        {f"register/document/{TWO}": None},
        {f"deleted/{TWO}": {"name": "team/x", "time": TIME}},
    ],
)
def test_entry_of_the_names_that_no_event_made_is_found(registers: Interrupted, forged: Json) -> None:
    blobs = MemoryBlobs()
    repositories = Repositories(registers, blobs)
    repositories.create("team/m", ONE, policy={}, origin=ORIGIN, operation_id="repository")
    Documents(registers, blobs, CLUSTER).create("prod", TWO, ORIGIN, "document")
    names = repositories.name_deployment("scorer", ONE, TWO, ORIGIN, "deployment")
    assert verify_names(names) == names.log.count
    changed = replace(names, log=replace(names.log, map=names.map.update(forged)))
    with pytest.raises(Corrupt, match="history"):
        verify_names(changed)
