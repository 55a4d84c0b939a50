"""`docs/format.md` is complete: a reader that shares no code with us restores what we store, byte for byte."""

from __future__ import annotations

import ast
import json
import os
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import skyhold
from skyhold.buckets.location import parse_location
from skyhold.buckets.open import open_bucket
from skyhold.consensus.migration import CONFIG
from skyhold.json_form import as_json
from skyhold.security.keys import KeyFile, Passphrase, StoreKeys
from skyhold.storage import layout
from skyhold.storage.paths import path_fault
from skyhold.store.bootstrap import inspect_store_document, replace_store_document
from skyhold.store.epoch import Epoch, encode_epoch
from skyhold.store.settings import load_settings
from skyhold.store.store_document import ETCD, Engine
from tests.endtoend.tampering import change_version_entry, forge_sha256, shift_place
from tests.second_reading import READER, hashes, read_again

PASSPHRASE = "a passphrase of the tests"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SKYHOLD_STORE", "SKYHOLD_CONFIG", "SKYHOLD_KEY_FILE", "SKYHOLD_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SKYHOLD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SKYHOLD_CACHE", str(tmp_path / "cache"))


def write_model(folder: Path, random: np.random.Generator, *, tuned: float = 0.0, elements: int = 300_000) -> None:
    """A model of random sizes in bf16 and f32, and the bytes around it; `tuned` moves every weight of the folder's."""
    folder.mkdir(exist_ok=True)
    path = folder / "model.safetensors"
    if tuned:
        from safetensors.numpy import load_file

        weights = {
            name: (values.astype(np.float32) * (1 + tuned * random.normal(size=values.shape))).astype(values.dtype)
            for name, values in load_file(path).items()
        }
    else:
        weights = {
            f"layer.{index}.weight": random.normal(size=int(random.integers(1, elements))).astype(dtype)
            for index, dtype in enumerate([ml_dtypes.bfloat16, np.float32, ml_dtypes.bfloat16, np.float32])
        }
    save_file(weights, path)
    (folder / "tokens.json").write_text(json.dumps({str(number): number for number in range(3000)}))
    (folder / "noise").write_bytes(random.bytes(int(random.integers(0, 5000))))
    (folder / "empty").touch()


def push_versions(
    store: skyhold.Store, model: Path, *, seed: int, elements: int = 300_000
) -> dict[str, dict[str, str]]:
    """A base and two fine-tunes of it; returns the SHA-256 of their files, by version."""
    random = np.random.default_rng(seed)
    repository = store.repository("team/model", create=True)
    found = {}
    for number, tuned in enumerate((0.0, 0.001, 0.003)):
        write_model(model, random, tuned=tuned, elements=elements)
        pushed = repository.push(model, message=f"Number {number}", metrics={"loss": 0.1 + 1 / 3**number})
        assert tuned == 0 or pushed.delta_bytes > 0
        found[pushed.version] = hashes(model)
    return found


def keys_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[KeyFile | Passphrase]:
    monkeypatch.setenv("SKYHOLD_KEY_FILE", str(tmp_path / "test.key"))
    return [KeyFile.generate(tmp_path / "test.key"), Passphrase(PASSPHRASE)]


@pytest.mark.parametrize("sealed", [False, True], ids=["clear", "sealed"])
@pytest.mark.parametrize(("seed", "engine"), [(1, "sqlite"), (2, "buckets")])
def test_what_we_store_is_restored_identically(
    sealed: bool, seed: int, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "PAGE_BYTES_MAX", 500)  # layouts of many pages
    keks = keys_of(tmp_path, monkeypatch) if sealed else []
    buckets = [tmp_path / name for name in ("aws", "gcp", "azure")]
    with skyhold.init(list(map(str, buckets)), settings=load_settings(), encrypt_with=keks, engine=engine) as store:
        wanted = push_versions(store, tmp_path / "model", seed=seed)
    run = read_again(buckets, output=tmp_path / "out", passphrase=PASSPHRASE if sealed else None)
    assert run.returncode == 0, run.stdout + run.stderr
    restored = {path.name: hashes(path) for path in (tmp_path / "out" / "team" / "model").iterdir()}
    assert restored == {version[:40]: files for version, files in wanted.items()}
    if sealed:
        assert read_again(buckets[1:], key_file=tmp_path / "test.key").returncode == 0


def move_engines(store: skyhold.Store, buckets: list[Path], model: Path, engines: list[str]) -> set[str]:
    """Move a store from engine to engine with a version pushed in each epoch, and put back the `store.json` of the
    first, as where the buckets did not get the moves. Returns the versions."""
    first = {bucket: (bucket / "store.json").read_bytes() for bucket in buckets}
    random = np.random.default_rng(12)
    pushed = set()
    for engine in ["", *engines]:
        if engine:
            store.move_engine(engine)
        write_model(model, random, elements=2000)
        pushed.add(store.repository("team/model", create=True).push(model, message=engine).version[:40])
    for bucket, document in first.items():
        (bucket / "store.json").write_bytes(document)
    return pushed


@pytest.mark.parametrize(
    "engines",
    [["sqlite", "buckets"], ["buckets", "sqlite"], ["sqlite", "buckets", "sqlite"], ["buckets", "sqlite", "buckets"]],
    ids=" ".join,
)
def test_a_store_that_moved_is_read_where_it_is_now(engines: list[str], tmp_path: Path) -> None:
    buckets = [tmp_path / name for name in ("aws", "gcp", "azure")]
    with skyhold.init(list(map(str, buckets)), settings=load_settings(), engine=engines[0]) as store:
        wanted = move_engines(store, buckets, tmp_path / "model", engines[1:])
    run = read_again(buckets, output=tmp_path / "out")
    assert run.returncode == 0, run.stdout + run.stderr
    assert {path.name for path in (tmp_path / "out" / "team" / "model").iterdir()} == wanted


def test_a_store_of_whose_next_voters_most_are_elsewhere_is_not_read_as_it_was(tmp_path: Path) -> None:
    buckets = [tmp_path / name for name in ("aws", "gcp", "azure")]
    with skyhold.init(list(map(str, buckets)), settings=load_settings(), engine="sqlite") as store:
        move_engines(store, buckets, tmp_path / "model", ["buckets"])
    run = read_again(buckets[:1])
    assert run.returncode == 2
    assert "1 of the 3 voters of epoch 2 are here" in run.stderr


def test_a_store_of_whose_next_checkpoints_none_are_here_is_not_read_as_it_was(tmp_path: Path) -> None:
    buckets = [tmp_path / name for name in ("aws", "gcp", "azure", "lab", "nas")]
    settings = load_settings()
    with skyhold.init(list(map(str, buckets[:3])), settings=settings, engine="buckets") as store:
        for bucket in buckets[3:]:
            store.add_bucket(bucket.name, str(bucket), role="packs")
        move_engines(store, buckets, tmp_path / "model", ["sqlite"])
    for bucket in buckets[:2]:
        for path in (bucket / "checkpoints").rglob("*-*"):
            path.unlink()
    run = read_again(buckets[:2])
    assert run.returncode == 2
    assert "the 2 of its 5 buckets that are here have no checkpoints" in run.stderr


def test_a_store_that_moved_to_etcd_is_not_read_as_it_was(tmp_path: Path) -> None:
    bucket = tmp_path / "only"
    with skyhold.init([str(bucket)], settings=load_settings(), engine="buckets") as store:
        engine = Engine("", 2, ETCD, cluster="etcds://etcd.example:2379/skyhold")
        sealed = encode_epoch(Epoch(engine, store.configuration))
        store._connection.registers.current.seal(CONFIG, 1, sealed)
    run = read_again([bucket])
    assert run.returncode == 2
    assert "moved to the etcd cluster etcds://etcd.example:2379/skyhold" in run.stderr


def test_a_damaged_acceptor_of_an_epoch_that_no_store_document_names_is_found(tmp_path: Path) -> None:
    buckets = [tmp_path / name for name in ("aws", "gcp", "azure")]
    with skyhold.init(list(map(str, buckets)), settings=load_settings(), engine="sqlite") as store:
        move_engines(store, buckets, tmp_path / "model", ["buckets"])
    acceptor = buckets[1] / "registers" / "00000002" / "names"
    os.truncate(acceptor, acceptor.stat().st_size - 1)
    run = read_again(buckets)
    assert run.returncode == 1
    assert f"{buckets[1]}: registers/00000002/names" in run.stderr


def add_data_key(store: skyhold.Store, buckets: list[Path], keks: list[KeyFile | Passphrase]) -> None:
    """A second data key, under the same key-encryption keys, in every `store.json`, as format.md (4) wants it before
    its first use. No command does that yet: here it is done with the parts that will."""
    keys = store._connection.store_keys
    number, data_key = keys.newest + 1, os.urandom(32)
    associated = b"skyhold wrap\0" + bytes.fromhex(keys.store_id) + number.to_bytes(2, "little")
    wraps = [kek.wrap(data_key, associated) for kek in keks] or [{"kind": "clear", "key": data_key.hex()}]
    opened = StoreKeys(keys.store_id, {**keys.data_keys, number: data_key}, keys.sealed)
    for path in buckets:
        with open_bucket(parse_location(str(path))) as bucket:
            document = inspect_store_document(bucket, keys)
            after = replace(document, keys=(*document.keys, {"number": number, "wraps": wraps}))
            replace_store_document(bucket, after, opened, keks)


def key_numbers(bucket: Path) -> dict[str, set[int]]:
    """The data keys that the objects of each folder are under, by offset 6 of a pack and 8 of a frame."""
    found: dict[str, set[int]] = {}
    for path in bucket.rglob("*"):
        kind = path.relative_to(bucket).parts[0]
        if path.is_file() and kind not in {".skyhold", "store.json"}:
            at = 6 if kind == "packs" else 8
            found.setdefault(kind, set()).add(int.from_bytes(path.read_bytes()[at : at + 2], "little"))
    return found


@pytest.mark.parametrize("sealed", [False, True], ids=["clear", "sealed"])
def test_a_store_with_a_second_data_key_is_read_by_both(
    sealed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old data stays under the old key, new data goes under the new one, and deltas reach from one to the other."""
    monkeypatch.setattr(layout, "PAGE_BYTES_MAX", 500)
    keks = keys_of(tmp_path, monkeypatch) if sealed else []
    buckets = [tmp_path / name for name in ("aws", "gcp", "azure")]
    random = np.random.default_rng(11)
    wanted, model = {}, tmp_path / "model"
    with skyhold.init(list(map(str, buckets)), settings=load_settings(), encrypt_with=keks, engine="sqlite") as store:
        write_model(model, random)
        wanted[store.repository("team/model", create=True).push(model, message="First").version] = hashes(model)
        assert set().union(*key_numbers(buckets[0]).values()) == {0}
        add_data_key(store, buckets, keks)
    with skyhold.open(str(buckets[1])) as store:
        assert sorted(store._connection.store_keys.data_keys) == [0, 1]
        write_model(model, random, tuned=0.001)
        pushed = store.repository("team/model").push(model, message="Second")
        assert pushed.delta_bytes > 0
        assert pushed.reused_bytes > 0
        wanted[pushed.version] = hashes(model)
        assert store.verify(deep=True).sound
    numbers = key_numbers(buckets[2])
    assert {kind for kind, under in numbers.items() if under == {0, 1}} >= {
        "packs", "indexes", "versions", "layouts", "pages", "tensors", "checkpoints"
    }  # fmt: skip
    run = read_again(buckets, output=tmp_path / "out", key_file=tmp_path / "test.key" if sealed else None)
    assert run.returncode == 0, run.stdout + run.stderr
    restored = {path.name: hashes(path) for path in (tmp_path / "out" / "team" / "model").iterdir()}
    assert restored == {version[:40]: files for version, files in wanted.items()}
    monkeypatch.setenv("SKYHOLD_STATE", str(tmp_path / "another machine"))
    monkeypatch.setenv("SKYHOLD_CACHE", str(tmp_path / "another cache"))
    recovered, _ = skyhold.recover(str(buckets[0]), settings=load_settings())
    with recovered:
        for version, files in wanted.items():
            recovered.repository("team/model").pull(version, tmp_path / "pulled" / version)
            assert hashes(tmp_path / "pulled" / version) == files


@pytest.mark.parametrize("sealed", [False, True], ids=["clear", "sealed"])
def test_a_flipped_byte_in_any_object_is_found_by_both(
    sealed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keks = keys_of(tmp_path, monkeypatch)[:1] if sealed else []
    bucket = tmp_path / "only"
    random = np.random.default_rng(7)
    with skyhold.init([str(bucket)], encrypt_with=keks, engine="sqlite") as store:
        push_versions(store, tmp_path / "model", seed=3, elements=6000)
    objects = [path for path in sorted(bucket.rglob("*")) if path.is_file() and ".skyhold" not in path.parts]
    folders = {path.relative_to(bucket).parts[0] for path in objects}
    assert folders >= {"store.json", "packs", "indexes", "versions", "layouts", "tensors", "checkpoints"}
    reader = runpy.run_path(str(READER))["main"]  # in this process: a new one for each object takes long
    monkeypatch.setattr(sys, "argv", ["second_reader", "--verify", str(bucket)])
    assert reader() == 0
    for path in objects:
        intact = path.read_bytes()
        damaged = bytearray(intact)
        damaged[random.integers(len(damaged))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        key = path.relative_to(bucket).as_posix()
        capsys.readouterr()
        assert reader() != 0, key
        report = named_by_verify(bucket)
        if key == "store.json":  # a flip may also make it that of a newer format, or of another key
            assert '"sound": true' not in report
        else:
            assert key in capsys.readouterr().err
            assert key in report or key.rpartition("/")[2] == "config"  # without which nothing can be verified
            assert '"sound": true' not in report
        path.write_bytes(intact)


def named_by_verify(bucket: Path) -> str:
    """The report of our own deep verification of a store, or the error that stops it."""
    try:
        with skyhold.open(str(bucket)) as store:
            return json.dumps(as_json(store.verify(deep=True)))
    except skyhold.SkyholdError as error:
        return str(error)


def test_a_damaged_copy_is_found_behind_an_intact_one(tmp_path: Path) -> None:
    buckets = [tmp_path / "a", tmp_path / "b"]
    with skyhold.init(list(map(str, buckets)), settings=load_settings()) as store:
        push_versions(store, tmp_path / "model", seed=4, elements=6000)
    pack = next((buckets[1] / "packs").rglob("*/*"))
    os.truncate(pack, pack.stat().st_size - 1)
    run = read_again(buckets)
    assert run.returncode == 1
    assert f"{buckets[1]}: packs/" in run.stderr


def test_a_folder_that_is_no_bucket_is_an_error(tmp_path: Path) -> None:
    run = read_again([tmp_path])
    assert run.returncode == 2
    assert "is no bucket" in run.stderr


def test_buckets_of_two_stores_are_refused(tmp_path: Path) -> None:
    for name in ("one", "other"):
        skyhold.init([str(tmp_path / name)], settings=load_settings()).close()
    run = read_again([tmp_path / "one", tmp_path / "other"])
    assert run.returncode == 2
    assert "another store" in run.stderr


def test_a_missing_pack_is_found(tmp_path: Path) -> None:
    with skyhold.init([str(tmp_path / "a")], settings=load_settings()) as store:
        push_versions(store, tmp_path / "model", seed=5, elements=6000)
    shutil.rmtree(tmp_path / "a" / "packs")
    run = read_again([tmp_path / "a"])
    assert run.returncode == 1
    assert "is missing" in run.stderr


def test_it_shares_no_code_with_us() -> None:
    tree = ast.parse(READER.read_text("utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    rooms = {name.split(".")[0] for name in imported}
    assert rooms - set(sys.stdlib_module_names) == {"blake3", "cryptography", "numpy", "zstandard"}


@pytest.mark.parametrize(
    "path", ["w.bin", ".skyhold-part/x", "a/w.SKYHOLD-Part. ", "w.skyhold\u200c-part:x", "skyhold-part", "a//b", "\x85"]
)
def test_both_accept_the_same_paths(path: str) -> None:
    reader = runpy.run_path(str(READER))
    if path_fault(path) is None:
        reader["check_path"](path)
    else:
        with pytest.raises(reader["Damaged"]):
            reader["check_path"](path)


def test_it_restores_every_version_from_each_bucket_on_its_own(tmp_path: Path) -> None:
    """A bucket that lacks something is no damage while another has it, and bytes that only one bucket has wrong are."""
    buckets = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    with skyhold.init(list(map(str, buckets)), settings=load_settings()) as store:
        pushed = push_versions(store, tmp_path / "model", seed=6, elements=6000)
    (buckets[0] / "notes.txt").write_text("mine")
    newest = sorted((buckets[1] / "packs").rglob("*/*"), key=lambda path: path.stat().st_mtime_ns)[-1]
    newest.unlink()
    run = read_again(buckets)
    assert run.returncode == 0, run.stdout + run.stderr
    alone = [line.partition("; ")[2].split(" ")[0] for line in run.stdout.splitlines() if "alone" in line]
    assert alone == [str(len(pushed)), str(len(pushed) - 1), str(len(pushed))]
    assert f"unaccounted: {buckets[0]}: notes.txt" in run.stdout
    for bucket in (buckets[0], buckets[2]):
        (bucket / newest.relative_to(buckets[1])).unlink()
    assert "is missing" in read_again(buckets).stderr


@pytest.mark.parametrize("forged", ["sha256", "place", "parents"])
def test_what_contradicts_a_version_is_found_by_both(forged: str, tmp_path: Path) -> None:
    buckets = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    with skyhold.init(list(map(str, buckets)), settings=load_settings()) as store:
        first, _, last = push_versions(store, tmp_path / "model", seed=8, elements=6000)
        if forged == "sha256":
            forge_sha256(store, "team/model", last)
        elif forged == "place":
            shift_place(store, "team/model", last)
        else:
            change_version_entry(store, "team/model", first, parents=[last])
        assert store.verify(deep=True).damage
        store.sync()
    run = read_again(buckets)
    assert run.returncode == 1
    damaged = [line for line in run.stderr.splitlines() if line.startswith("damaged: team/model, version ")]
    assert len(damaged) == len(buckets), run.stderr


@pytest.mark.parametrize("damage", ["extended", "doubled"])
def test_bytes_after_the_end_of_any_object_are_found_by_both(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = tmp_path / "only"
    with skyhold.init([str(bucket)], settings=load_settings()) as store:
        push_versions(store, tmp_path / "model", seed=3, elements=6000)
    objects = [path for path in sorted(bucket.rglob("*")) if path.is_file() and ".skyhold" not in path.parts]
    reader = runpy.run_path(str(READER))["main"]
    monkeypatch.setattr(sys, "argv", ["second_reader", "--verify", str(bucket)])
    for path in objects:
        intact = path.read_bytes()
        path.write_bytes(intact + (intact if damage == "doubled" else b"\n"))
        key = path.relative_to(bucket).as_posix()
        capsys.readouterr()
        assert reader() != 0, key
        report = named_by_verify(bucket)
        if key == "store.json":
            assert '"sound": true' not in report
        else:
            assert key in capsys.readouterr().err
            assert key in report or key.rpartition("/")[2] == "config"  # without which nothing can be verified
            assert '"sound": true' not in report
        path.write_bytes(intact)
