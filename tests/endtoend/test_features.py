"""Features of a store: an old reader, an old writer, and an old process that was open when one was switched on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import skyhold
from skyhold.errors import InvalidInput
from skyhold.registry.lifecycle import recover_register
from skyhold.storage.own_places import is_store_document
from skyhold.store import features
from skyhold.store.features import Features
from skyhold.store.reconfiguring import enable_features
from tests.cli.models import contents
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.stores import epoch_in, head, push

FOR_READERS = Features(read=frozenset({"teleport"}))
FOR_WRITERS = Features(write=frozenset({"teleport"}))


@contextmanager
def newer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be a program that knows the feature, inside the block."""
    with monkeypatch.context() as patch:
        patch.setattr(features, "READ", features.READ | {"teleport"})
        patch.setattr(features, "WRITE", features.WRITE | {"teleport"})
        yield


def objects(scene: Scene) -> list[dict[str, bytes]]:
    return [contents(scene.cloud(name)) for name in "abc"]


@pytest.fixture(params=["buckets", "sqlite"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def enable(scene: Scene, engine: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Features], None]]:
    with scene.machine.at_work():
        with skyhold.init(scene.clouds(), engine=engine) as store:
            push(store, scene, 1)

        def enable(wanted: Features) -> None:
            with newer(monkeypatch), skyhold.open(str(scene.cloud("a"))) as store:
                enable_features(store._connection, wanted, store._connection.origin(reason="teleport"))

        yield enable


def test_new_store_asks_writers_to_know_what_follows_refs(enable: object, scene: Scene) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        assert store.configuration.features == Features(write=frozenset({"follow"}))
        assert store._connection.document.features == store.configuration.features


def test_old_reader_is_refused_with_the_feature_named(enable: Callable[[Features], None], scene: Scene) -> None:
    enable(FOR_READERS)
    with pytest.raises(InvalidInput, match=r"cannot be read: teleport") as refused:
        skyhold.open(str(scene.cloud("a")))
    assert refused.value.code == "feature_unknown"
    assert is_store_document((scene.cloud("a") / "store.json").read_bytes())


def test_old_writer_reads_on_and_changes_nothing(enable: Callable[[Features], None], scene: Scene) -> None:
    enable(FOR_WRITERS)
    with skyhold.open(str(scene.cloud("a"))) as store:
        known = head(store)
        repository = store.repository("team/m")
        assert [entry.digest for entry in repository.log()] == [known]
        repository.pull("main", scene.place / "out")
        assert contents(scene.place / "out") == contents(scene.place / "model-1")
        before = objects(scene)
        changes: list[Callable[[], object]] = [
            lambda: push(store, scene, 2),
            lambda: repository.set_refs({"alias/champion": "main"}),
            lambda: repository.attach("main", notes=["x"]),
            lambda: repository.set_policy(skyhold.Policy(copies=1)),
            lambda: store.create_repository("team/new"),
            lambda: store.rename_repository("team/m", "team/n"),
            lambda: store.delete_repository("team/m"),
            lambda: store.add_bucket("d", str(scene.cloud("d"))),
            lambda: store.remove_bucket("c", force=True),
            lambda: store.replace_voter("c"),
            store.sync,
            store.repair,
        ]
        for change in changes:
            with pytest.raises(InvalidInput, match=r"cannot be changed: teleport") as refused:
                change()
            assert refused.value.code == "feature_unknown"
        assert head(store) == known
        assert objects(scene) == before
        assert not scene.cloud("d").exists()


@pytest.mark.parametrize("wanted", [FOR_READERS, FOR_WRITERS], ids=["readers", "writers"])
def test_old_process_that_is_open_meets_the_feature_before_its_next_write(
    enable: Callable[[Features], None], scene: Scene, wanted: Features
) -> None:
    with skyhold.open(str(scene.cloud("b"))) as old:
        known = head(old)
        repository = old.repository("team/m")
        enable(wanted)
        with pytest.raises(InvalidInput) as refused:
            repository.set_refs({"alias/champion": "main"})
        assert refused.value.code == "feature_unknown"
        if wanted is FOR_WRITERS:
            assert head(old) == known
        else:
            with pytest.raises(InvalidInput, match="teleport"):
                head(old)


def test_old_process_amid_a_push_is_refused_at_its_end(
    enable: Callable[[Features], None], scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skyhold.registry.committing import Commit

    under = Commit.under
    entered: list[int] = []

    def under_late(self: Commit, *args: object) -> object:
        if not entered:
            entered.append(1)
            enable(FOR_WRITERS)
        return under(self, *args)  # type: ignore[arg-type]

    with skyhold.open(str(scene.cloud("b"))) as old:
        monkeypatch.setattr(Commit, "under", under_late)
        with pytest.raises(InvalidInput, match="teleport"):
            push(old, scene, 2)
        assert len(old.repository("team/m").log()) == 1


def test_features_begin_an_epoch_and_are_in_every_document(
    enable: Callable[[Features], None], scene: Scene, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    enable(FOR_WRITERS)
    if engine == "buckets":
        assert epoch_in(scene.cloud("c")) == (2, ["a", "b", "c"])
    with newer(monkeypatch), skyhold.open(str(scene.cloud("c"))) as store:
        push(store, scene, 2)
        newest = store.events(limit=10)
        (event,) = [event for event in newest if event.reason == "teleport"]
        assert {"kind": "features", "read": [], "write": ["follow", "teleport"]} in event.changes
        assert store.verify(deep=True).sound
    for name in "abc":
        assert b'"write":["follow","teleport"]' in (scene.cloud(name) / "store.json").read_bytes()


def test_old_program_recovers_nothing(enable: Callable[[Features], None], scene: Scene, engine: str) -> None:
    enable(FOR_WRITERS)
    if engine == "buckets":
        for name in "ab":
            path = next((scene.cloud(name) / "registers" / "00000002").glob("repository-*"))
            path.write_bytes(b"nonsense")
    before = objects(scene)
    with pytest.raises(InvalidInput, match="teleport"):
        skyhold.recover(str(scene.cloud("a")), minority=True)
    if engine == "buckets":
        with pytest.raises(InvalidInput, match="teleport"):
            recover_register(str(scene.cloud("c")), "team/m", consent=lambda _plan: None)
    assert objects(scene) == before


def test_forged_store_json_of_one_bucket_stops_no_writer(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
    path = scene.cloud("b") / "store.json"
    forged = path.read_bytes().replace(b'"write":["follow"]', b'"write":["follow","zzz"]')
    assert forged != path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(forged)
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 2)


def test_feature_that_this_program_does_not_know_is_not_switched_on(enable: object, scene: Scene) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store, pytest.raises(InvalidInput, match="teleport"):
        enable_features(store._connection, FOR_WRITERS, store._connection.origin())


@pytest.mark.parametrize(
    "value",
    [None, [], {"read": []}, {"read": [], "write": ["B"]}, {"read": ["b", "a"], "write": []},
     {"read": ["a", "a"], "write": []}, {"read": [1], "write": []},
     {"read": [f"f{n}" for n in range(65)], "write": []}],
)  # fmt: skip
def test_malformed_features_are_refused(value: object) -> None:
    with pytest.raises(InvalidInput):
        Features.from_json(value)
