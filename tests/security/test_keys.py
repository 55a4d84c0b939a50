"""Wrapped keys: the right key opens, every other is refused, and no store.json talks a client out of sealing."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from skyhold.errors import Corrupt, InvalidInput, NotFound, PermissionDenied, SkyholdError
from skyhold.security import keys as keys_module
from skyhold.security.keys import KeyFile, Passphrase, new_keys, open_keys

STORE = "ab" * 16


@pytest.fixture(autouse=True)
def _quick_stretching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "SCRYPT_N", 1 << 4)


def test_any_one_wrap_opens_the_data_key() -> None:
    file, phrase = KeyFile(os.urandom(32)), Passphrase("correct horse")
    made, stored = new_keys(STORE, [file, phrase])
    for kek in (file, phrase, Passphrase("correct horse")):
        assert open_keys(STORE, True, stored, [kek]) == made


def test_a_passphrase_is_the_same_in_every_unicode_form() -> None:
    made, stored = new_keys(STORE, [Passphrase("caf\u00e9")])
    assert open_keys(STORE, True, stored, [Passphrase("cafe\u0301")]) == made


def test_a_clear_store_opens_without_a_key() -> None:
    made, stored = new_keys(STORE, [])
    assert not made.sealed
    assert open_keys(STORE, False, stored, []) == made


@pytest.mark.parametrize("kek", [KeyFile(b"w" * 32), Passphrase("wrong")])
def test_a_wrong_key_is_denied(kek: Any) -> None:
    _, stored = new_keys(STORE, [KeyFile(b"r" * 32), Passphrase("right")])
    with pytest.raises(PermissionDenied):
        open_keys(STORE, True, stored, [kek])


def test_a_wrap_does_not_open_in_another_store_or_under_another_number() -> None:
    kek = KeyFile(b"r" * 32)
    _, stored = new_keys(STORE, [kek])
    with pytest.raises(PermissionDenied):
        open_keys("cd" * 16, True, stored, [kek])
    moved = [*stored, {**stored[0], "number": 1}]
    with pytest.raises(PermissionDenied):
        open_keys(STORE, True, moved, [kek])


def test_a_store_that_claims_to_be_open_is_refused_with_a_key_in_hand() -> None:
    _, stored = new_keys(STORE, [])
    with pytest.raises(PermissionDenied, match="not sealed"):
        open_keys(STORE, False, stored, [KeyFile(b"r" * 32)])


def test_a_clear_wrap_does_not_open_a_sealed_store() -> None:
    _, stored = new_keys(STORE, [])
    with pytest.raises(PermissionDenied):
        open_keys(STORE, True, stored, [KeyFile(b"r" * 32)])


@pytest.mark.parametrize(
    "keys", [None, {}, [], [1], [{"number": 0}], [{"number": True, "wraps": []}], [{"number": -1, "wraps": []}],
             [{"number": 1 << 16, "wraps": []}], [{"number": 0, "wraps": [1]}]]
)  # fmt: skip
def test_malformed_keys_are_corrupt(keys: object) -> None:
    with pytest.raises(Corrupt):
        open_keys(STORE, False, keys, [])


@pytest.mark.parametrize(
    "change",
    [{"n": 3}, {"n": 0}, {"n": "16"}, {"n": 1 << 40}, {"r": 0}, {"p": 17}, {"kdf": "md5"}, {"salt": "00"},
     {"n": 2, "r": 1 << 19, "p": 16}, {"n": 1 << 16, "r": 1}, {"nonce": "zz"}, {"sealed": "00"}],
)  # fmt: skip
def test_a_malformed_passphrase_wrap_is_corrupt_before_work_is_done(change: dict[str, object]) -> None:
    _, stored = new_keys(STORE, [Passphrase("right")])
    (wrap,) = stored[0]["wraps"]  # type: ignore[misc, attr-defined]
    wrap.update(change)
    with pytest.raises(Corrupt):
        open_keys(STORE, True, stored, [Passphrase("right")])


def test_derived_keys_differ_by_purpose_and_number() -> None:
    made, _ = new_keys(STORE, [])
    more = keys_module.StoreKeys(STORE, {0: made.data_keys[0], 1: os.urandom(32)}, True)
    derived = [more.chunk_id_key(), more.name_key(), *(key(n) for key in (more.mac_key, more.seal_key) for n in (0, 1))]
    assert len(set(derived)) == 6
    assert more.newest == 1
    assert made.data_keys[0].hex() not in repr(more)


def test_a_key_file_is_for_its_owner_only_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    made = KeyFile.generate(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyFile.load(path).key_id == made.key_id
    text = path.read_text()
    with pytest.raises(InvalidInput, match="exists already"):
        KeyFile.generate(path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "text", ["", "skyhold-key-1:", "skyhold-key-1:" + "zz" * 32, "ab" * 32, "skyhold-key-1:" + "ab" * 31 + "  ", "\xff"]
)
def test_what_is_no_key_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text, "latin-1")
    with pytest.raises(SkyholdError):
        KeyFile.load(path)


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        KeyFile.load(tmp_path / "nowhere")


@pytest.mark.parametrize("given", ["", "\udc80"])
def test_a_passphrase_that_cannot_be_one_is_refused(given: str) -> None:
    with pytest.raises(InvalidInput):
        Passphrase(given)


def test_a_key_file_that_cannot_be_written_whole_is_no_key_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InvalidInput) as caught:
        KeyFile.generate(tmp_path / "key")
    assert caught.value.code == "key_file_unwritable"
    assert not (tmp_path / "key").exists()


def test_a_new_key_file_outlives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes are made durable, and then its name in the folder."""
    synced: list[int] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    KeyFile.generate(tmp_path / "key")
    assert synced == [(tmp_path / "key").stat().st_ino, tmp_path.stat().st_ino]


def wraps_of(count: int, **cost: int) -> list[dict[str, object]]:
    wrap = {"kind": "passphrase", "kdf": "scrypt", "n": 1 << 17, "r": 8, "p": 1, "salt": "00" * 16,
            "nonce": "00" * 12, "sealed": "00" * 48} | cost  # fmt: skip
    return [dict(wrap) for _ in range(count)]


@pytest.mark.parametrize(
    "stored",
    [
        [{"number": 0, "wraps": wraps_of(3000)}],
        [{"number": 0, "wraps": wraps_of(33)}],
        [{"number": number, "wraps": wraps_of(2)} for number in range(17)],
        [{"number": 0, "wraps": wraps_of(1, n=1 << 18, p=16) + wraps_of(1)}],
        [{"number": 0, "wraps": wraps_of(64, n=2, r=1) + wraps_of(1, n=2, r=1)}],
        [{"number": number, "wraps": []} for number in range(257)],
    ],
)
def test_wraps_that_are_too_many_or_too_dear_are_refused_before_one_is_tried(
    stored: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_arguments: object, **_options: object) -> bytes:
        raise AssertionError("a wrap was tried")

    monkeypatch.setattr(keys_module.hashlib, "scrypt", never)
    with pytest.raises(Corrupt):
        open_keys(STORE, True, stored, [Passphrase("right")])


def test_as_many_wraps_as_readers_try_are_tried() -> None:
    _, stored = new_keys(STORE, [Passphrase(str(number)) for number in range(32)])
    assert open_keys(STORE, True, stored, [Passphrase("31")]).sealed


def test_cost_of_a_wrap_that_is_negative_pays_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = [{"number": 0, "wraps": wraps_of(60) + wraps_of(1, n=-(1 << 60))}]
    with pytest.raises(Corrupt) as caught:
        open_keys(STORE, True, stored, [Passphrase("right")])
    assert caught.value.code == "keys_malformed"


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "large"])
def test_what_is_no_regular_small_file_is_no_key_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "key"
    if kind == "device":
        path = Path("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path, 0o600)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"skyhold-key-1:" + b"0" * (64 << 20))
    with pytest.raises(InvalidInput) as caught:
        KeyFile.load(path)
    assert caught.value.code in {"key_file_malformed", "key_file_unreadable"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_key_file_that_others_can_use_is_refused_unless_that_is_meant(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "team key"
    made = KeyFile.generate(path)
    assert KeyFile.load(path).key_id == made.key_id
    path.chmod(mode)
    with pytest.raises(PermissionDenied) as caught:
        KeyFile.load(path)
    assert caught.value.code == "key_file_insecure"
    assert "chmod 600 '" in (caught.value.hint or "")
    assert KeyFile.load(path, insecure=True).key_id == made.key_id


def test_key_file_may_be_a_link_and_belong_to_another_user(tmp_path: Path) -> None:
    """As a secret that a cluster mounts."""
    made = KeyFile.generate(tmp_path / "key")
    (tmp_path / "link").symlink_to(tmp_path / "key")
    assert KeyFile.load(tmp_path / "link").key_id == made.key_id
    if os.getuid() == 0:
        os.chown(tmp_path / "key", 12345, 12345)
        (tmp_path / "key").chmod(0o644)
        assert KeyFile.load(tmp_path / "key").key_id == made.key_id
