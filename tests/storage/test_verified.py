"""Which copies count as verified without being read, which are read back, and what a damaged one among them does."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from skyhold.buckets.bucket import ObjectInfo
from skyhold.storage import verified
from skyhold.storage.chunk_record import RecordSealer
from skyhold.storage.object_keys import pack_id_of, pack_key
from skyhold.storage.pack import PACK_BYTES_TARGET, PackBuilder
from skyhold.storage.progress import Silence
from skyhold.storage.reuse import Reused, ensure_durable
from tests.storage.fixtures import FlakyBucket, Setup
from tests.storage.test_push_pull import write_tree

PACKS = 3


class ListingBucket(FlakyBucket):
    """Its listings give MD5s; `rot` changes bytes as a failing disk does: no write, no other stamp."""

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        for info in super().list(prefix, after=after):
            yield replace(info, md5=hashlib.md5(self._stored(info.key).body).digest())

    def rot(self, key: str) -> None:
        stored = self._stored(key)
        body = bytearray(stored.body)
        body[len(body) // 2] ^= 1
        self._objects.by_key[key] = replace(stored, body=bytes(body))


class Scene:
    """Three packs that this machine wrote into three buckets; two copies are enough."""

    def __init__(self, root: Path, kind: type[FlakyBucket] = FlakyBucket) -> None:
        self.root = root
        self.buckets = {name: kind(name) for name in "abc"}
        self.setup = Setup(root / "first", list(self.buckets.values()), copies=2)
        self.sizes: dict[str, int | None] = {}
        for number in range(PACKS):  # a pack each, of five chunks
            tree = {f"{chunk}": os.urandom(2000) for chunk in range(5)}
            _, pushed = self.setup.push(write_tree(root / f"in-{number}", tree))
            self.sizes |= {pack_key(pack): size for pack, size in pushed.packs_sent.items()}
        assert len(self.sizes) == PACKS
        self.read: list[str] = []
        for name, bucket in self.buckets.items():
            bucket.on_read = lambda key, name=name: self.read.append(name)  # type: ignore[misc]

    def another_machine(self) -> None:
        self.setup.close()
        self.setup = Setup(self.root / "second", list(self.buckets.values()), copies=2)

    def reuse(self) -> Reused:
        self.read.clear()
        return ensure_durable(self.setup.replicas, self.setup.checker, self.setup.chunk_index, self.sizes, Silence())

    def reads(self) -> Counter[str]:
        """How many copies were read in each bucket."""
        return Counter(self.read)

    def age(self) -> None:
        """All copies were checked long ago."""
        with self.setup.chunk_index._file.transaction() as database:
            database.execute("UPDATE copies SET checked_s = ?", (int(time.time() - verified.SAMPLE_AGE_S - 60),))

    def intact(self, names: str = "abc") -> bool:
        for bucket in (self.buckets[name] for name in names):
            for key in self.sizes:
                self.setup.checker.read_checked(bucket, key)
        return True


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.setup.close()


def test_copies_that_this_machine_wrote_are_not_read_back(scene: Scene) -> None:
    assert scene.reuse().complete
    assert scene.reads() == {}


def test_another_machine_reads_as_many_copies_as_the_policy_asks_for_and_only_once(scene: Scene) -> None:
    scene.another_machine()
    assert scene.reuse().complete
    assert scene.reads() == {"a": PACKS, "b": PACKS}
    assert scene.reuse().complete
    assert scene.reads() == {}


def test_another_machine_reads_one_copy_where_listings_give_the_md5_of_the_others(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ListingBucket)
    scene.another_machine()
    assert scene.reuse().complete
    assert scene.reads() == {"a": PACKS}
    assert scene.reuse().complete
    assert scene.reads() == {}
    scene.setup.close()


def test_md5_of_a_damaged_copy_vouches_for_nothing(tmp_path: Path) -> None:
    """The same damage in two buckets, as after a copy from one to the other by another tool."""
    scene = Scene(tmp_path, ListingBucket)
    for name in "ab":
        for key in scene.sizes:
            scene.buckets[name].flip(key, 300)
    scene.another_machine()
    assert scene.reuse().mended == {"a": PACKS, "b": PACKS}
    assert scene.intact()
    scene.setup.close()


def test_copy_that_was_written_to_since_is_read_back_also_where_enough_others_are_verified(scene: Scene) -> None:
    key = min(scene.sizes)
    scene.buckets["c"].flip(key, 300)
    reused = scene.reuse()
    assert reused.mended == {"c": 1}
    assert scene.reads() == {"c": 1, "a": 1}, "to see it, and to mend it"
    assert scene.intact()


def test_copies_of_another_size_are_written_anew_wherever_they_are_found(scene: Scene) -> None:
    shorter, longer = sorted(scene.sizes)[:2]
    for name in "bc":
        bucket = scene.buckets[name]
        bucket.write(shorter, bytes(bucket.read(shorter))[:-1])
        bucket.write(longer, bytes(bucket.read(longer)) * 2)
    assert scene.reuse().mended == {"b": 2, "c": 2}
    assert scene.intact()


def test_copy_that_was_written_to_again_with_the_same_bytes_is_verified_again(scene: Scene) -> None:
    key = min(scene.sizes)
    bucket = scene.buckets["a"]
    bucket.write(key, bucket.read(key))
    assert scene.reuse().mended == {}
    assert scene.reads() == {"a": 1}
    assert scene.reuse().complete
    assert scene.reads() == {}


def test_a_share_of_the_copies_that_were_checked_long_ago_is_read_back_the_oldest_first(scene: Scene) -> None:
    scene.age()
    seen = 0
    while True:
        assert scene.reuse().complete
        if not scene.reads():
            break
        assert sum(scene.reads().values()) == 1, "a sixteenth of nine copies, at least one"
        seen += 1
    assert seen == PACKS * len(scene.buckets)


def test_after_a_sample_finds_silent_damage_no_copy_in_its_bucket_is_trusted(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ListingBucket)
    bucket = scene.buckets["a"]
    assert isinstance(bucket, ListingBucket)
    for key in scene.sizes:
        bucket.rot(key)
    assert scene.reuse().complete, "nothing shows it: the stamps are the same"
    assert scene.reads() == {}
    with scene.setup.chunk_index._file.transaction() as database:
        database.execute("UPDATE copies SET checked_s = 1 WHERE bucket = ?", (bucket.url,))
    reused = scene.reuse()
    assert reused.mended == {"a": PACKS}
    assert scene.intact()
    scene.setup.close()


def test_verified_copy_that_turns_out_damaged_as_a_source_is_replaced(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ListingBucket)
    key = min(scene.sizes)
    first, last = scene.buckets["a"], scene.buckets["c"]
    assert isinstance(first, ListingBucket)
    first.rot(key)
    scene.buckets["b"].delete(key)
    last.flip(key, 300)  # found damaged, it is to be written from `a`, which has rotted unseen, in another chunk
    assert scene.reuse().mended == {"a": 1, "c": 1}
    assert scene.intact("ac")
    scene.setup.close()


def test_places_of_an_index_are_checked_against_the_pack_and_corrected(scene: Scene) -> None:
    key = min(scene.sizes)
    chunk_index, pack_id = scene.setup.chunk_index, pack_id_of(key)
    with chunk_index._file.transaction() as database:
        database.execute(
            "UPDATE chunks SET place = place + 1 WHERE pack = (SELECT number FROM packs WHERE id = ?)", (pack_id,)
        )
    reused = scene.reuse()
    assert reused.misplaced == [key]
    assert not reused.complete
    assert scene.reuse().complete
    known, places = scene.setup.checker.contents(key, scene.buckets["a"].read(key))
    assert chunk_index.places(known.pack) == places


def forged(scene: Scene, key: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A pack of that name, sound in itself, with a chunk that the real one does not have. (Any client that can write to
    a bucket of an open store can make it.)"""
    session = scene.setup.space.session(bytes(16))
    pack_id = pack_id_of(key)
    with monkeypatch.context() as patched:
        patched.setattr("skyhold.storage.pack.os.urandom", lambda _length: pack_id)
        builder = PackBuilder(bytearray(PACK_BYTES_TARGET), session, scene.setup.space.keys)
    sealer = RecordSealer(scene.setup.space.keys, session)
    builder.append(sealer.seal(bytes(32), 0, 1000, None, bytes(1000)))
    return bytes(builder.finish())


def test_forged_pack_beside_the_real_ones_is_damage_to_the_machine_that_wrote_them(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = min(scene.sizes)
    scene.buckets["a"].write(key, forged(scene, key, monkeypatch))
    scene.sizes = dict.fromkeys(scene.sizes)
    assert scene.reuse().mended == {"a": 1}
    assert scene.reuse().complete
    assert len({bytes(bucket.read(key)) for bucket in scene.buckets.values()}) == 1


def test_copies_that_contradict_each_other_are_not_used(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    key = min(scene.sizes)
    scene.buckets["a"].write(key, forged(scene, key, monkeypatch))
    scene.sizes = dict.fromkeys(scene.sizes)
    scene.another_machine()
    for _ in range(3):
        reused = scene.reuse()
        assert (reused.unusable, reused.misplaced) == ([key], [])
