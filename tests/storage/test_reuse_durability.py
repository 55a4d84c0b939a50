"""What a push reuses is made as durable as the policy requires: not more, by any bucket, and without waiting for a slow
one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyhold.errors import Unavailable
from skyhold.storage import replica_write
from skyhold.storage import replicas as replicas_module
from skyhold.storage.object_keys import pack_id_of, pack_key
from skyhold.storage.pack import PACK_BYTES_TARGET
from skyhold.storage.progress import Silence
from skyhold.storage.resume import resume
from skyhold.storage.reuse import Reused, ensure_durable, fewest
from tests.storage.fixtures import CLASS, FlakyBucket, Setup, refusing
from tests.storage.test_push_pull import AWAY, write_tree

FOUR = "abcd"


@pytest.fixture
def released() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_write, "LAGGING_AFTER_S", 0.2)
    monkeypatch.setattr(replicas_module, "ENOUGH_WAIT_S", 0.2)
    monkeypatch.setattr(replicas_module, "CLOSE_S", 0.2)
    monkeypatch.setattr("skyhold.storage.reuse._SLOWNESS_CHECK_S", 0.05)


class Scene:
    """Three packs that only some of four buckets hold, and a machine that means to reuse them."""

    def __init__(self, root: Path, *, held_by: str, copies: int) -> None:
        self.buckets = {name: FlakyBucket(name) for name in FOUR}
        first = Setup(root / "first", list(self.buckets.values()))
        _, pushed = first.push(write_tree(root / "in", {"x": os.urandom(2 * PACK_BYTES_TARGET + 5000)}))
        first.close()
        self.sizes: dict[str, int | None] = {pack_key(pack): size for pack, size in pushed.packs_sent.items()}
        assert len(self.sizes) == 3
        for name in set(FOUR) - set(held_by):
            for key in self.sizes:
                self.buckets[name].delete(key)
        for bucket in self.buckets.values():
            bucket.written.clear()
        self.setup = Setup(root / "second", list(self.buckets.values()), copies=copies)

    def reuse(self) -> Reused:
        return ensure_durable(self.setup.replicas, self.setup.checker, self.setup.chunk_index, self.sizes, Silence())

    def written(self) -> dict[str, int]:
        return {name: len(bucket.written) for name, bucket in self.buckets.items() if bucket.written}


def test_only_the_copies_that_the_policy_lacks_are_made(tmp_path: Path) -> None:
    scene = Scene(tmp_path, held_by="a", copies=2)
    reused = scene.reuse()
    assert scene.written() == {"b": 3}
    assert reused.complete
    assert reused.lagging == {"c": 3, "d": 3}
    assert scene.setup.replicas.lagging == {}, "a bucket that lacks packs still takes new ones"
    scene.setup.close()


def test_nothing_is_copied_where_the_policy_is_met(tmp_path: Path) -> None:
    scene = Scene(tmp_path, held_by="bc", copies=2)
    assert scene.reuse().lagging == {"a": 3, "d": 3}
    assert scene.written() == {}
    scene.setup.close()


def test_copies_are_made_several_at_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path, held_by="a", copies=2)
    together = threading.Barrier(2)
    scene.buckets["b"].on_write = lambda _key: together.wait(20) if len(scene.buckets["b"].written) < 2 else 0
    assert scene.reuse().complete
    scene.setup.close()


def test_a_target_that_fails_is_replaced(tmp_path: Path) -> None:
    scene = Scene(tmp_path, held_by="a", copies=2)
    scene.buckets["b"].on_write = refusing(AWAY)
    assert scene.reuse().complete
    assert scene.written() == {"c": 3}
    assert set(scene.setup.replicas.lagging) == {"b"}
    scene.setup.close()


@pytest.mark.usefixtures("impatient")
def test_a_target_that_stalls_is_overtaken(
    tmp_path: Path, released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_write, "LAGGING_AFTER_S", 3.0)  # which a busy machine keeps for a bucket that is well
    scene = Scene(tmp_path, held_by="a", copies=2)
    scene.buckets["b"].on_write = stalling(released)
    assert scene.reuse().complete
    assert not released.is_set()
    assert scene.written() == {"c": 3}
    assert scene.setup.replicas.lagging["b"].code == "bucket_slow"
    scene.setup.close()
    released.set()


@pytest.mark.usefixtures("impatient")
def test_a_bucket_whose_listing_stalls_is_lagging(tmp_path: Path, released: threading.Event) -> None:
    scene = Scene(tmp_path, held_by="ab", copies=2)
    stall = stalling(released)
    scene.buckets["d"].list = lambda *_args, **_named: stall("")  # type: ignore[method-assign,assignment,return-value]
    assert scene.reuse().complete
    assert not released.is_set()
    assert scene.setup.replicas.lagging["d"].code == "bucket_slow"
    scene.setup.close()
    released.set()


def test_too_few_buckets_refuse_the_push_at_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path, held_by="a", copies=3)
    for name in "bc":
        scene.buckets[name].on_write = refusing(AWAY)
    with pytest.raises(Unavailable) as caught:
        scene.reuse()
    assert caught.value.code == "not_durable"
    assert "away" in caught.value.message
    scene.setup.close()


def test_a_pack_that_only_a_lagging_bucket_holds_is_brought_from_there(tmp_path: Path) -> None:
    """It failed a write; that does not show what it holds."""
    scene = Scene(tmp_path, held_by="a", copies=2)
    scene.setup.replicas.mark_lagging("a", AWAY)
    reused = scene.reuse()
    assert reused.complete
    assert scene.written() == {"b": 3}
    scene.setup.close()


def test_a_pack_that_only_an_unreachable_bucket_may_hold_is_done_without_but_not_forgotten(tmp_path: Path) -> None:
    scene = Scene(tmp_path, held_by="a", copies=1)
    scene.buckets["a"].list = lambda *_args, **_named: refusing(AWAY)("")  # type: ignore[method-assign,assignment,return-value]
    reused = scene.reuse()
    assert sorted(reused.unusable) == sorted(scene.sizes)
    assert reused.vanished == []
    scene.setup.close()


def test_a_pack_that_no_bucket_holds_has_vanished(tmp_path: Path) -> None:
    scene = Scene(tmp_path, held_by="", copies=1)
    reused = scene.reuse()
    assert sorted(reused.vanished) == sorted(scene.sizes)
    assert not reused.complete
    scene.setup.close()


def test_a_source_that_fails_is_not_held_against_the_target(tmp_path: Path) -> None:
    scene = Scene(tmp_path, held_by="a", copies=2)
    scene.buckets["a"].on_read = refusing(AWAY)
    reused = scene.reuse()
    assert sorted(reused.unusable) == sorted(scene.sizes)
    assert scene.setup.replicas.lagging == {}
    scene.setup.close()


def test_two_damaged_copies_make_a_whole_one(tmp_path: Path) -> None:
    scene = Scene(tmp_path, held_by="ab", copies=3)
    size_bytes, key = max((size or 0, key) for key, size in scene.sizes.items())
    scene.buckets["a"].flip(key, 1000)  # in its first chunk
    scene.buckets["b"].flip(key, size_bytes - 100_000)  # in its last
    assert scene.reuse().complete
    scene.setup.checker.read_checked(scene.buckets["c"], key)
    scene.setup.close()


def test_a_killed_pushs_pack_in_a_lagging_bucket_is_found_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path, held_by="a", copies=1)
    setup = Setup(tmp_path / "first", list(scene.buckets.values()))
    with setup.chunk_index._file.transaction() as database:
        database.execute("UPDATE packs SET session = 'of a push that was killed'")
    setup.replicas.mark_lagging("a", AWAY)
    resume(setup.space, setup.chunk_index)
    assert setup.chunk_index.abandoned(CLASS.hex()) == [], "it has been settled what became of them"
    assert {pack_key(pack): setup.chunk_index.size_bytes(pack) for pack in pack_ids(scene)} == scene.sizes
    setup.close()
    scene.setup.close()


@given(
    providers=st.lists(st.sampled_from("xyz"), min_size=1, max_size=6),
    held=st.sets(st.integers(0, 5)),
    copies=st.integers(1, 4),
    at=st.integers(1, 3),
)
def test_no_chosen_target_can_be_left_out(providers: list[str], held: set[int], copies: int, at: int) -> None:
    names = [str(number) for number in range(len(providers))]
    holding = {name for name in names if int(name) in held}

    def enough(having: frozenset[str]) -> bool:
        return len(having) >= copies and len({providers[int(name)] for name in having}) >= at

    candidates = [name for name in names if name not in holding]
    chosen = fewest(enough, holding, candidates)
    if not enough(frozenset(names)):
        assert chosen == candidates
        return
    assert enough(frozenset({*holding, *chosen}))
    for name in chosen:
        assert not enough(frozenset({*holding, *chosen} - {name}))


def test_closing_does_not_wait_for_a_call_that_hangs(
    monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    monkeypatch.setattr(replicas_module, "CLOSE_S", 0.2)
    bucket = FlakyBucket("a")
    bucket.on_write = stalling(released)
    replicas = replicas_module.Replicas([bucket], bool)
    replicas.begin_write("k", b"body")
    begun_s = time.monotonic()
    replicas.close()
    assert time.monotonic() - begun_s > 0.1
    released.set()  # until now the call hangs


def pack_ids(scene: Scene) -> list[bytes]:
    return [pack for key in scene.sizes if (pack := pack_id_of(key)) is not None]


def stalling(released: threading.Event) -> Callable[[str], None]:
    def stall(_key: str) -> None:
        released.wait()  # without a limit: what waited for it would go on once the limit had passed

    return stall
