"""Documents of a store in buckets: in every engine, through moves and recoveries, verified, mended, read by the second
reader."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import skyhold
from skyhold.errors import Corrupt
from skyhold.registry.lifecycle import recover_register
from skyhold.storage.policy import Policy
from skyhold.store.connection import new_operation_id
from skyhold.store.document import DocumentChange, document_key
from skyhold.store.documents import DocumentKind, Documents
from skyhold.store.record import RecordKind, RecordUpdate, records_of
from tests.endtoend.killing import Fuse, in_child, insert_fuse
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.stores import catch_up, push
from tests.second_reading import read_again

POOL = RecordKind("pool", re.compile(r"[a-z0-9-]+"), lambda _id, _value: None)
CLUSTER = DocumentKind("cluster", (POOL,))
ID = "ab" * 16


@contextmanager
def clusters(store: skyhold.Store) -> Iterator[Documents]:
    with store._connection.session(Policy()) as session:
        yield Documents(session.registers, session.blobs, CLUSTER)


def fill(store: skyhold.Store, pools: int = 300, body: bytes = b"kubeconfig") -> None:
    """A cluster of so many pools that its map has nodes, with a body in a blob, and an event too long for the map."""
    origin = store._connection.origin(reason="made by the test")
    with store._connection.session(Policy()) as session:
        documents = Documents(session.registers, session.blobs, CLUSTER)
        documents.create("prod", ID, origin, new_operation_id())
        name = session.blobs.write("records", body)
        updates = [
            RecordUpdate(POOL, f"p{number}", {"nodes": number, "machine": "n2-standard-8 " * 4})
            for number in range(pools)
        ]
        updates.append(RecordUpdate(POOL, "reached", {"blobs": {"kubeconfig": name}}))
        documents.apply(ID, DocumentChange(origin, tuple(updates), gc_epoch=0), new_operation_id())


def is_whole(store: skyhold.Store, pools: int = 300) -> bool:
    with store._connection.session(Policy()) as session:
        document = Documents(session.registers, session.blobs, CLUSTER).read(ID)
        found = dict(records_of(document.map, POOL))
        body = session.blobs.read("records", str(found["reached"]["blobs"]["kubeconfig"]))  # type: ignore[index]
        events = [event.sequence for event in document.log.forward()]
    return len(found) == pools + 1 and body == b"kubeconfig" and events == [1, 2]


@pytest.fixture(params=["buckets", "sqlite"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(scene: Scene, engine: str) -> Iterator[skyhold.Store]:
    with scene.machine.at_work(), skyhold.init(scene.clouds(), engine=engine) as store:
        push(store, scene, 1)
        fill(store)
        yield store


def test_document_is_listed_verified_and_accounted_for(store: skyhold.Store, scene: Scene) -> None:
    assert is_whole(store)
    with clusters(store) as documents:
        assert list(documents.list()) == [("prod", ID)]
    report = store.verify(deep=True)
    assert report.sound
    assert report.damage == ()
    assert report.unaccounted == ()
    assert {event.register for event in store.events()} == {"config", "names", "team/m", "cluster/prod"}


def test_second_reader_reads_it(store: skyhold.Store, scene: Scene) -> None:
    if store._connection.shared:
        catch_up(store)
    run = read_again([scene.cloud(name) for name in "abc"])
    assert run.returncode == 0, run.stdout + run.stderr


def test_lost_and_damaged_blobs_of_a_document_are_named_and_mended(store: skyhold.Store, scene: Scene) -> None:
    for path in [*(scene.cloud("b") / "records").rglob("*"), *(scene.cloud("b") / "nodes").rglob("*")]:
        if path.is_file():
            path.unlink()
    for path in (scene.cloud("c") / "records").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(b"x" * path.stat().st_size)
    report = store.verify(deep=True)
    assert {(finding.bucket, finding.key.split("/")[0]) for finding in report.findings} >= {
        ("b", "records"), ("b", "nodes"), ("c", "records"),
    }  # fmt: skip
    assert store.repair().sound
    assert store.verify(deep=True).sound
    assert is_whole(store)


def test_loss_of_a_document_s_nodes_everywhere_is_named_and_harms_nothing_else(
    store: skyhold.Store, scene: Scene
) -> None:
    with store._connection.session(Policy()) as session:
        document = Documents(session.registers, session.blobs, CLUSTER).read(ID)
        nodes = list(document.map.node_names())
    for name in "abc":
        for node in nodes:
            (scene.cloud(name) / "nodes" / node[:2] / node).unlink()
    with skyhold.open(str(scene.cloud("a"))) as again:
        damage = again.verify().damage
        assert any("cluster prod" in sentence for sentence in damage)
        assert not any("team/m" in sentence for sentence in damage)
        assert again.repository("team/m").pull("main", scene.place / "out").version
        again.repository("team/m").set_refs({"alias/x": "main"})


def test_document_goes_with_the_store_from_epoch_to_epoch(store: skyhold.Store, scene: Scene, engine: str) -> None:
    store.add_bucket("d", str(scene.cloud("d")))
    store.sync()
    store.remove_bucket("a", force=True)
    assert is_whole(store)
    store.move_engine("sqlite" if engine == "buckets" else "buckets")
    assert is_whole(store)
    with clusters(store) as documents:
        origin = store._connection.origin()
        documents.apply(ID, DocumentChange(origin, (RecordUpdate(POOL, "late", {"nodes": 1}),)), new_operation_id())
    assert store.verify(deep=True).sound


def test_document_comes_back_with_recover(store: skyhold.Store, scene: Scene, engine: str) -> None:
    if engine == "buckets":
        catch_up(store)
        scene.lose("a")
        scene.lose("b")
    else:
        shutil.rmtree(scene.place / "machine")
    with Machine(scene.place / "eve").at_work():
        recovered, _ = skyhold.recover(str(scene.cloud("c")), minority=engine == "buckets")
        with recovered:
            assert is_whole(recovered)


def test_damaged_register_of_a_document_is_recovered_alone(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
        fill(store)
        catch_up(store)
    for name in "ab":
        (scene.cloud(name) / "registers" / "00000001" / f"document-{ID}").write_bytes(b"nonsense")
    with skyhold.open(str(scene.cloud("a"))) as store:
        with clusters(store) as documents, pytest.raises(Corrupt) as damaged:
            documents.read(ID)
        assert f"--register {document_key(ID)}" in str(damaged.value.hint)
        assert store.repository("team/m").show().metrics == {}
        assert not store.verify().sound
    store, _ = recover_register(str(scene.cloud("a")), document_key(ID), consent=lambda _plan: None)
    store.close()
    with skyhold.open(str(scene.cloud("a"))) as store:
        assert is_whole(store)
        assert store.verify(deep=True).sound


def test_document_whose_making_is_killed_anywhere_is_made_or_absent(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
    for kill_at in range(1, 40):
        id_ = secrets.token_hex(16)

        def make(id_: str = id_, kill_at: int = kill_at) -> None:
            insert_fuse(Fuse(kill_at))
            with skyhold.open(str(scene.cloud("a"))) as store, clusters(store) as documents:
                documents.create(f"c-{id_[:8]}", id_, store._connection.origin(), new_operation_id())

        ended = in_child(make)
        with skyhold.open(str(scene.cloud("b"))) as store, clusters(store) as documents:
            assert dict(documents.list()).get(f"c-{id_[:8]}") in {None, id_}
            if ended.signal == 0:
                assert documents.find(f"c-{id_[:8]}") == id_
                break
    else:
        raise AssertionError("no attempt came to its end")
    with skyhold.open(str(scene.cloud("b"))) as store:
        catch_up(store)  # a voter that was slow is brought up by the next change
        assert store.verify(deep=True).sound
