"""The golden repositories of every version of the storage format stay readable, by us and by the second reader.

They were made by `tools/make_golden` when the format was fixed and are kept permanently: a test that fails here is
never mended by making them anew.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import skyhold
from skyhold.buckets.location import parse_location
from skyhold.buckets.open import open_bucket
from skyhold.errors import NotFound
from skyhold.registry.following import follows, pins
from skyhold.registry.names import Ref
from skyhold.registry.repositories import Repositories
from skyhold.store.documents import DocumentKind, Documents
from skyhold.store.record import RecordKind, records_of
from skyhold.store.settings import load_settings
from tests.second_reading import hashes, read_again

GOLDEN = Path(__file__).parent / "golden"
LATER = RecordKind("later", re.compile("[a-z-]+"), lambda _id, _value: None)
"""A kind of record of a floor that is not built yet."""
STORES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


def expected(store: str) -> dict[str, Any]:
    return json.loads((GOLDEN / store / "expected.json").read_text("utf-8"))


def test_there_are_golden_repositories_of_format_1() -> None:
    assert {"format-1-clear", "format-1-sealed"} <= set(STORES)


@contextmanager
def recovered(store: str, machine: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[skyhold.Store]:
    """A golden store on a machine that knows nothing of it. Its buckets are of memory, filled with copies of its
    objects: the store's configuration contains their location, which cannot be a folder of a checkout."""
    machine.mkdir()
    monkeypatch.setenv("SKYHOLD_STATE", str(machine / "state"))
    monkeypatch.setenv("SKYHOLD_CACHE", str(machine / "cache"))
    facts = expected(store)
    if "secrets" in facts:
        (machine / "golden.key").touch(0o600)
        (machine / "golden.key").write_text(str(facts["secrets"]["key_file"]))
        monkeypatch.setenv("SKYHOLD_KEY_FILE", str(machine / "golden.key"))
    for name, url in facts["buckets"].items():
        bucket = open_bucket(parse_location(str(url)))
        for info in list(bucket.list()):
            bucket.delete(info.key)
        for path in (GOLDEN / store / name).rglob("*"):
            if path.is_file():
                bucket.write(path.relative_to(GOLDEN / store / name).as_posix(), path.read_bytes())
    url = str(next(iter(facts["buckets"].values())))
    opened, report = skyhold.recover(url, settings=load_settings())
    with opened:
        assert report.majority
        assert not report.damaged
        assert opened.id == facts["store"]
        yield opened


@pytest.mark.parametrize("store", STORES)
def test_recover_finds_every_version_and_restores_its_recorded_hashes(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = expected(store)
    with recovered(store, tmp_path / "machine", monkeypatch) as opened:
        assert {item.name for item in opened.repositories()} == facts["repositories"].keys()
        (gone,) = opened.repositories(deleted=True)
        opened.undelete_repository(gone.id)
        facts["repositories"][gone.name] = {"id": gone.id, "versions": facts["deleted"][gone.id]}
        for name, wanted in facts["repositories"].items():
            repository = opened.repository(name)
            assert repository.id == wanted["id"]
            for version, files in wanted["versions"].items():
                target = tmp_path / version[:10]
                repository.pull(version, target)
                assert hashes(target) == files


@pytest.mark.parametrize("store", STORES)
def test_recover_finds_the_refs_their_history_and_what_was_attached(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recovered(store, tmp_path / "machine", monkeypatch) as opened:
        for name, wanted in expected(store)["repositories"].items():
            assert {ref.name: ref.version for ref in opened.repository(name).refs()} == wanted["refs"]
        scorer = opened.repository("team/scorer")
        first, second = scorer.show("v1.0"), scorer.show("main")
        assert first.parameters == {"lr": 3e-4, "layers": [2, 4], "big": 1e21}
        assert {item.name: item.value for item in first.attached if item.kind == "metric"} == {
            "accuracy": 0.875, "loss": 1e-7, "steps": 12000, "latency_ms": 12.5,
        }  # fmt: skip
        assert [item.value for item in second.attached if item.kind == "note"] == ["short", "a long note, ü " * 100]
        assert [move.reason for move in scorer.history("champion", limit=3)][-1] == "it was worse"
        assert scorer.history("alias/shadow", limit=1)[0].new is None


@pytest.mark.parametrize("store", STORES)
def test_recover_finds_every_event_record_and_document(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = expected(store)
    records = facts["records"]
    with recovered(store, tmp_path / "machine", monkeypatch) as opened:
        found = Counter(event.register for event in opened.events())
        assert found == Counter(facts["events"]) + Counter({"config": 1})  # the recovery
        by = {event.author for event in opened.repository("team/scorer").events() if event.actor == "controller"}
        assert by == {"Ada"}
        moved = opened.repository("team/scorer").set_refs({"alias/champion": "main"}, reason="by a later program")
        assert moved
        with opened._connection.session(opened.configuration.policy) as session:
            repositories = Repositories(session.registers, session.blobs)
            snapshot = repositories.repository(facts["repositories"]["team/scorer"]["id"]).read()
            targets = {follow.id: follow.target for follow in follows(snapshot.map)}
            assert targets == {**records["follow"], "1" * 32: snapshot.version_of(Ref.parse("branch/main"))}
            assert [pin.version for pin in pins(snapshot.map)] == [records["pinned"]]
            assert list(records_of(snapshot.map, LATER)) == [("body", records["later"])]
            assert session.blobs.read("records", records["later"]["blobs"]["spec"]).startswith(b"A body that is too")
            with pytest.raises(NotFound, match=r"was deleted by Ada at .* because: licence"):
                snapshot.version(str(records["deleted"]))
            names = repositories.read()
            assert names.find_deployment("scorer") == (snapshot.root.repository_id, "1" * 32)
            clusters = Documents(session.registers, session.blobs, DocumentKind("cluster", (LATER,)))
            assert list(clusters.list()) == [("prod", "4" * 32)]
            assert len(list(records_of(clusters.read("4" * 32).map, LATER))) == records["pools"] + 1
            assert [item[1] for item in names.deleted_documents()] == ["test"]


@pytest.mark.parametrize("store", STORES)
def test_verify_deep_finds_nothing_wrong(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with recovered(store, tmp_path / "machine", monkeypatch) as opened:
        report = opened.verify(deep=True)
        assert report.sound, report
        assert report.checked_bytes > 0


@pytest.mark.parametrize("store", STORES)
def test_the_second_reader_restores_the_recorded_hashes(store: str, tmp_path: Path) -> None:
    facts = expected(store)
    buckets = [GOLDEN / store / name for name in facts["buckets"]]
    passphrase = str(facts["secrets"]["passphrase"]) if "secrets" in facts else None
    run = read_again(buckets, output=tmp_path / "out", passphrase=passphrase)
    assert run.returncode == 0, run.stdout + run.stderr
    versions = {name: wanted["versions"] for name, wanted in facts["repositories"].items()}
    versions |= {f".deleted/{id_}": wanted for id_, wanted in facts["deleted"].items()}
    for name, wanted in versions.items():
        restored = {path.name: hashes(path) for path in (tmp_path / "out" / name).iterdir()}
        assert restored == {version[:40]: files for version, files in wanted.items()}


def test_a_sealed_golden_store_opens_by_its_key_file_too(tmp_path: Path) -> None:
    facts = expected("format-1-sealed")
    key_file = tmp_path / "golden.key"
    key_file.write_text(str(facts["secrets"]["key_file"]))
    buckets = [GOLDEN / "format-1-sealed" / name for name in facts["buckets"]]
    assert read_again(buckets, key_file=key_file).returncode == 0
    assert read_again(buckets).returncode == 2
    assert read_again(buckets, passphrase="another").returncode == 2
