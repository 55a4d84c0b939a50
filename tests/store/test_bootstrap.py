"""store.json: who may write it, and which of its fields are trusted."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from pathlib import Path

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.folder import FolderBucket
from skyhold.buckets.folder_making import create_folder_bucket
from skyhold.buckets.location import parse_location
from skyhold.buckets.memory import MemoryBucket
from skyhold.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    SkyholdError,
)
from skyhold.security.keys import KeyFile, StoreKeys, new_keys
from skyhold.store.bell import encode_bell
from skyhold.store.bootstrap import (
    create_store_document,
    overwrite_store_document,
    read_store_document,
    replace_store_document,
)
from skyhold.store.state import RememberedStore
from skyhold.store.store_document import (
    Engine,
    StoreDocument,
    check_machine,
    decode_store_document,
    encode_store_document,
)
from skyhold.units import Buffer
from tests.storage.fixtures import frame_keys

MACHINE = "1" * 32
KEK = KeyFile(b"k" * 32)


def new_bucket(kind: type[MemoryBucket] = MemoryBucket) -> MemoryBucket:
    return kind(parse_location(f"memory://{secrets.token_hex(8)}", name="a"))


def new_document(keks: list[KeyFile] | None = None) -> tuple[StoreDocument, StoreKeys]:
    store = secrets.token_hex(16)
    keys, field = new_keys(store, keks or [])
    hints = (
        parse_location("memory://other", credentials="env:SECRET"),
        parse_location("s3://models/x", endpoint="http://minio.lab:9000", allow_http=True, region="lab"),
    )
    return StoreDocument(store, "a", "2" * 32, bool(keks), Engine(MACHINE, 3), hints, tuple(field)), keys


def changed(body: bytes, **fields: object) -> bytes:
    return rfc8785.dumps({**json.loads(body), **fields})


DOCUMENT, KEYS = new_document()
BODY = encode_store_document(DOCUMENT, KEYS)


@pytest.mark.parametrize("keks", [[], [KEK]])
def test_a_document_is_read_back_without_the_credentials_of_its_hints(keks: list[KeyFile]) -> None:
    document, keys = new_document(keks)
    bucket = new_bucket()
    create_store_document(bucket, document, keys)
    found, opened = read_store_document(bucket, keks)
    assert found == replace(document, hints=(replace(document.hints[0], credentials="chain"), document.hints[1]))
    assert opened.data_keys == keys.data_keys
    assert b"SECRET" not in bytes(bucket.read("store.json"))


def test_creating_again_is_no_error_but_another_store_or_foreign_objects_are() -> None:
    bucket = new_bucket()
    bucket.write(".skyhold-check/x", b"scratch")
    create_store_document(bucket, DOCUMENT, KEYS)
    create_store_document(bucket, DOCUMENT, KEYS)
    with pytest.raises(AlreadyExists) as taken:
        create_store_document(bucket, *new_document())
    assert taken.value.code == "store_exists"
    assert bytes(bucket.read("store.json")) == BODY
    foreign = new_bucket()
    foreign.write("photos/cat", b"meow")
    with pytest.raises(AlreadyExists, match="photos/cat"):
        create_store_document(foreign, DOCUMENT, KEYS)
    with pytest.raises(NotFound):
        foreign.read("store.json")


def test_hints_in_a_bucket_that_was_emptied_are_no_content() -> None:
    bucket = new_bucket()
    bucket.write("bell", encode_bell({"names": 3}, secrets.token_hex(16), frame_keys(sealed=True)))
    bucket.write(".skyhold-check/x", b"scratch")
    create_store_document(bucket, DOCUMENT, KEYS)
    assert bytes(bucket.read("store.json")) == BODY


@pytest.mark.parametrize("body", [b"", b"SKYF", b"the sound of a bell, as a user has recorded it"])
def test_object_of_a_user_that_is_named_as_a_hint_is_content(body: bytes) -> None:
    bucket = new_bucket()
    bucket.write("bell", body)
    with pytest.raises(AlreadyExists, match="`bell`"):
        create_store_document(bucket, DOCUMENT, KEYS)


def test_bucket_of_another_store_is_refused_whatever_hints_it_has() -> None:
    bucket = new_bucket()
    create_store_document(bucket, *new_document())
    bucket.write("bell", encode_bell({}, DOCUMENT.store, frame_keys(sealed=False)))
    with pytest.raises(AlreadyExists) as taken:
        create_store_document(bucket, DOCUMENT, KEYS)
    assert taken.value.code == "store_exists"


class Racing(MemoryBucket):
    """Another store's creator is faster."""

    def write_if(self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = 1) -> str:
        self.write(key, encode_store_document(*new_document()))
        return super().write_if(key, body, expected_tag=expected_tag, deadline_s=deadline_s)


class ReplyLost(MemoryBucket):
    arrives = True

    def write_if(self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = 1) -> str:
        if self.arrives:
            super().write_if(key, body, expected_tag=expected_tag, deadline_s=deadline_s)
        raise OutcomeUnknown("the reply was lost")


def test_losing_the_race_of_creation_is_reported() -> None:
    with pytest.raises(AlreadyExists):
        create_store_document(new_bucket(Racing), DOCUMENT, KEYS)


def test_a_lost_reply_is_settled_by_reading_back() -> None:
    bucket = new_bucket(ReplyLost)
    create_store_document(bucket, DOCUMENT, KEYS)
    replace_store_document(bucket, replace(DOCUMENT, engine=Engine(MACHINE, 4)), KEYS, [])
    ReplyLost.arrives = False
    try:
        with pytest.raises(OutcomeUnknown):
            create_store_document(new_bucket(ReplyLost), DOCUMENT, KEYS)
    finally:
        ReplyLost.arrives = True


def test_replacing_refuses_another_store_and_a_term_that_has_passed() -> None:
    bucket = new_bucket()
    create_store_document(bucket, DOCUMENT, KEYS)
    with pytest.raises(AlreadyExists):
        replace_store_document(bucket, *new_document(), [])
    with pytest.raises(Conflict) as passed:
        replace_store_document(bucket, replace(DOCUMENT, engine=Engine(MACHINE, 2)), KEYS, [])
    assert passed.value.code == "term_passed"
    with pytest.raises(Conflict) as passed:  # another machine has taken this very epoch
        replace_store_document(bucket, replace(DOCUMENT, engine=replace(DOCUMENT.engine, machine="f" * 32)), KEYS, [])
    assert passed.value.code == "term_passed"
    assert bytes(bucket.read("store.json")) == BODY


def test_missing_store_in_a_bucket_is_reported() -> None:
    with pytest.raises(NotFound) as missing:
        read_store_document(new_bucket(), [])
    assert missing.value.code == "store_not_found"


def test_another_store_than_expected_and_a_changed_key_are_refused() -> None:
    bucket = new_bucket()
    create_store_document(bucket, DOCUMENT, KEYS)
    read_store_document(
        bucket, [], expected_store=DOCUMENT.store, known=RememberedStore((), sealed=False, key_check=KEYS.check)
    )
    with pytest.raises(InvalidInput) as other:
        read_store_document(bucket, [], expected_store="9" * 32)
    assert other.value.code == "other_store"
    for known in (RememberedStore((), True, KEYS.check), RememberedStore((), False, "0" * 16)):
        with pytest.raises(PermissionDenied) as changed_store:
            read_store_document(bucket, [], known=known)
        assert changed_store.value.code == "store_changed"


@pytest.mark.parametrize("size_bytes", [(1 << 20) + 1, 2 << 20, (2 << 20) + 1, 60 << 20])
def test_a_document_that_is_too_large_is_refused(size_bytes: int) -> None:
    bucket = new_bucket()
    bucket.write("store.json", bytes(size_bytes))
    with pytest.raises(Corrupt, match="larger than 1 MiB"):
        read_store_document(bucket, [])


@pytest.mark.parametrize("size_bytes", [0, 100, (1 << 20) + 1, 60 << 20])
@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_an_admission_replaces_whatever_is_there(kind: str, size_bytes: int, tmp_path: Path) -> None:
    bucket: Bucket = new_bucket()
    if kind == "folder":
        create_folder_bucket(tmp_path)
        bucket = FolderBucket(parse_location(str(tmp_path), name="a"))
    bucket.write("store.json", bytes(size_bytes))
    overwrite_store_document(bucket, DOCUMENT, KEYS)
    assert read_store_document(bucket, [])[0].store == DOCUMENT.store


def test_a_document_with_more_wraps_than_readers_try_is_not_written() -> None:
    document, keys = new_document([KEK])
    bucket, (field,) = new_bucket(), document.keys
    crowded = replace(document, keys=({**field, "wraps": [{"kind": "file"}] * 65},))
    with pytest.raises(InvalidInput) as refused:
        create_store_document(bucket, crowded, keys)
    assert refused.value.code == "too_many_keys"
    assert list(bucket.list()) == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"format": 2}, "format_newer"),
        ({"format": 2, "more": 1}, "format_newer"),
        ({"features": {"read": ["teleport"], "write": []}}, "feature_unknown"),
            ({"features": ["teleport"]}, "store_document_malformed"),
        ({"engine": {"kind": "zookeeper", "term": 1}}, "feature_unknown"),
        ({"format": True}, "store_document_malformed"),
        ({"skyhold": "shop"}, "store_document_malformed"),
        ({"more": 1}, "store_document_malformed"),
        ({"sealed": 0}, "store_document_malformed"),
        ({"store": "../x"}, "store_document_malformed"),
        ({"bucket": "../x"}, "store_document_malformed"),
        ({"keys": {}}, "store_document_malformed"),
        ({"keys": []}, "keys_malformed"),
        ({"hints": [{"name": "x", "url": "memory://x", "provider": "m", "credentials": "env:AWS"}]},
         "store_document_malformed"),
        ({"engine": {"kind": "sqlite", "machine": MACHINE, "term": -1}}, "store_document_malformed"),
        ({"engine": {"kind": "sqlite", "machine": MACHINE, "term": 4}}, "store_document_forged"),
        ({"engine": {"kind": "buckets", "machine": MACHINE, "term": 1}}, "store_document_malformed"),
        ({"engine": {"kind": "buckets", "term": 1, "voters": []}}, "store_document_malformed"),
        ({"engine": {"kind": "buckets", "term": 1, "voters": [["a"]]}}, "store_document_malformed"),
        ({"engine": {"kind": "buckets", "term": 1, "voters": [["../x", MACHINE]]}}, "store_document_malformed"),
        ({"engine": {"kind": "buckets", "term": 1, "voters": [["a", "x"]]}}, "store_document_malformed"),
        ({"engine": {"kind": "buckets", "term": 1, "voters": [["a", MACHINE], ["a", MACHINE]]}},
         "store_document_malformed"),
        ({"engine": {"kind": "buckets", "term": 1, "voters": [["a", MACHINE]] * 8}}, "store_document_malformed"),
        ({"engine": {"kind": "buckets", "term": 1, "voters": [["a", MACHINE]]}}, "store_document_forged"),
        ({"incarnation": "3" * 32}, "store_document_forged"),
        ({"mac": "0" * 64}, "store_document_forged"),
        ({"mac": None}, "store_document_forged"),
    ],
)  # fmt: skip
def test_every_change_of_a_document_is_refused(fields: dict[str, object], code: str) -> None:
    with pytest.raises(SkyholdError) as refused:
        decode_store_document(changed(BODY, **fields), [], "memory://a")
    assert refused.value.code == code


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"nonsense", b"[" * 100_000, b'{"a":' * 100_000, BODY + b"\n", b" " + BODY, b"\xef\xbb\xbf" + BODY,
     b'{"format":1,"format":1}', b'{"x":NaN}', b'{"x":' + b"9" * 5000 + b"}", b'{"x":"\\ud800"}', b"\xff"],
)  # fmt: skip
def test_hostile_json_is_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_store_document(body, [], "memory://a")


@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
def test_any_flipped_byte_is_refused(position: int, flip: int) -> None:
    damaged = bytearray(BODY)
    damaged[position] ^= flip
    with pytest.raises(SkyholdError):
        decode_store_document(damaged, [], "memory://a")


def test_a_sealed_store_opens_with_its_key_only_and_cannot_be_made_an_open_one() -> None:
    document, keys = new_document([KEK])
    body = encode_store_document(document, keys)
    for keks in ([], [KeyFile(b"x" * 32)]):
        with pytest.raises(PermissionDenied):
            decode_store_document(body, keks, "memory://a")
    with pytest.raises(PermissionDenied):
        decode_store_document(changed(BODY, store=document.store), [KEK], "memory://a")


def test_another_machine_is_refused_with_the_way_out() -> None:
    check_machine(DOCUMENT, MACHINE)
    with pytest.raises(PermissionDenied, match=MACHINE) as refused:
        check_machine(DOCUMENT, "5" * 32)
    assert refused.value.code == "other_machine"
    assert refused.value.hint is not None
    assert "skyhold store engine set buckets" in refused.value.hint
