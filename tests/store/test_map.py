from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyhold.errors import Corrupt, InvalidInput
from skyhold.storage.blobs import Batch, MemoryBlobs
from skyhold.storage.canonical import canonical
from skyhold.store.map import TOP_BYTES_MAX, Map
from skyhold.store.node import NODE_BYTES_MAX


class CountingBlobs(MemoryBlobs):
    rounds = 0
    reads = 0

    def read(self, folder: str, name: str) -> bytes:
        self.reads += 1
        return super().read(folder, name)

    def batch(self) -> Batch:
        self.rounds += 1
        return super().batch()


keys = st.text(st.sampled_from("ab/é\U0001f600"), min_size=1, max_size=5)
values = st.one_of(st.integers(-5, 5), st.text(max_size=3), st.just("long" * 400))
changes = st.dictionaries(keys, st.none() | values, max_size=30)


@given(st.lists(changes, max_size=8), keys | st.just(""), keys | st.just(""))
def test_map_is_a_sorted_dict(rounds: list[dict[str, object]], prefix: str, bound: str) -> None:
    map_, model = Map(MemoryBlobs()), {}
    for round_ in rounds:
        map_ = map_.update(round_)
        model = {key: value for key, value in (model | round_).items() if value is not None}
        assert list(map_.scan()) == sorted(model.items())
        assert len(canonical(map_.to_json())) <= TOP_BYTES_MAX + 100
    under = [(key, value) for key, value in sorted(model.items()) if key.startswith(prefix)]
    assert list(map_.scan(prefix)) == under
    assert list(map_.scan(prefix, after=bound)) == [entry for entry in under if entry[0] > bound]
    assert list(map_.scan_reverse(prefix)) == under[::-1]
    assert list(map_.scan_reverse(prefix, before=bound)) == [entry for entry in under if entry[0] < bound][::-1]
    assert map_.last(prefix) == (under[-1] if under else None)
    assert all(map_.get(key) == model.get(key) for key in [*model, prefix or "x", bound or "x"])


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 400), min_size=1, max_size=6))
def test_large_maps_keep_their_order_through_random_updates(seed: int, sizes: list[int]) -> None:
    dice = random.Random(seed)
    blobs = MemoryBlobs()
    map_, model = Map(blobs), {}
    for size in sizes:
        round_: dict[str, object] = {f"key/{dice.randrange(2000):04}": "v" * dice.randrange(300) for _ in range(size)}
        round_ |= dict.fromkeys(dice.sample(sorted(model), len(model) // dice.choice([1, 2, 50])))
        map_ = map_.update(round_)
        model = {key: value for key, value in (model | round_).items() if value is not None}
        assert list(map_.scan()) == sorted(model.items())
        assert list(map_.scan_reverse()) == sorted(model.items(), reverse=True)
        assert Map.from_json(blobs, map_.to_json()).get(min(model, default="x")) == model.get(min(model, default="x"))
    assert all(len(body) <= NODE_BYTES_MAX for body in blobs.bodies.values())


@pytest.mark.parametrize("count", [12, 400], ids=["in the top", "in nodes"])
def test_nodes_of_floats_whose_canonical_form_is_long_keep_their_bounds(count: int) -> None:
    blobs = MemoryBlobs()
    map_ = Map(blobs).update({f"metric/{number:05}": [1e20] * 80 for number in range(count)})
    assert len(canonical(map_.to_json())) <= TOP_BYTES_MAX + 100
    assert all(len(body) <= NODE_BYTES_MAX for body in blobs.bodies.values())
    assert Map.from_json(blobs, map_.to_json()).get("metric/00011") == [1e20] * 80


def test_older_map_is_not_changed_by_an_update() -> None:
    blobs = MemoryBlobs()
    before = Map(blobs).update({f"{number:05}": "x" * 100 for number in range(2000)})
    after = before.update({"00500": None, "00501": "y"})
    assert before.get("00500") == "x" * 100
    assert after.get("00500") is None
    assert after.get("00501") == "y"


@pytest.mark.slow
def test_map_of_100_000_entries_has_a_small_top_and_small_updates() -> None:
    blobs = CountingBlobs()
    map_ = Map(blobs).update({f"move/{number:016x}": {"version": f"{number:064x}"} for number in range(100_000)})
    assert len(canonical(map_.to_json())) <= TOP_BYTES_MAX
    for key in ("move/0000000000000000", "move/" + "f" * 16, "move/00000000000054321"):
        written, blobs.rounds = len(blobs.bodies), 0
        map_ = map_.update({key: {"version": "new"}})
        assert len(blobs.bodies) - written <= 2 * map_.level + 2
        assert blobs.rounds <= 1
        assert map_.get(key) == {"version": "new"}


def test_map_that_shrinks_comes_back_into_its_top() -> None:
    map_ = Map(MemoryBlobs()).update({f"{number:05}": "x" * 100 for number in range(3000)})
    assert map_.level > 0
    map_ = map_.update({f"{number:05}": None for number in range(2999)})
    assert map_.to_json() == {"level": 0, "entries": [["02999", "x" * 100]]}


def test_setting_what_is_there_writes_nothing() -> None:
    blobs = CountingBlobs()
    map_ = Map(blobs).update({f"{number:05}": "x" * 100 for number in range(2000)})
    blobs.rounds = 0
    again = map_.update({"00007": "x" * 100, "absent": None})
    assert again.to_json() == map_.to_json()
    assert blobs.rounds == 0


def test_a_node_that_is_asked_for_again_and_again_is_read_once() -> None:
    blobs = CountingBlobs()
    map_ = Map(blobs).update({f"{number:05}": "x" * 100 for number in range(400)})
    again = Map.from_json(blobs, map_.to_json())
    assert [again.get(f"{number:05}") for number in range(400)] == ["x" * 100] * 400
    assert blobs.reads == len(list(again.node_names()))


@pytest.mark.parametrize(("key", "value"), [("k" * 513, 1), ("", 1), ("k", "v" * 2047)])
def test_entry_that_is_too_large_is_refused(key: str, value: object) -> None:
    with pytest.raises(InvalidInput, match="a map takes 512 and 2048"):
        Map(MemoryBlobs()).update({key: value})


@pytest.mark.parametrize(
    "top",
    [
        None,
        {},
        {"level": -1, "entries": []},
        {"level": True, "entries": []},
        {"level": 0, "entries": [["b", 1], ["a", 1]]},
        {"level": 0, "entries": [["a", 1], ["a", 1]]},
        {"level": 0, "entries": [["a", None]]},
        {"level": 1, "entries": [["a", "../x"]]},
        {"level": 0, "entries": [["a"]]},
    ],
)
def test_malformed_node_is_corrupt(top: object) -> None:
    with pytest.raises(Corrupt):
        Map.from_json(MemoryBlobs(), top)


def test_node_in_the_place_of_another_is_corrupt() -> None:
    blobs = MemoryBlobs()
    map_ = Map(blobs).update({f"{number:05}": "x" * 100 for number in range(2000)})
    (_, first), (_, second) = map_.to_json()["entries"][:2]  # type: ignore[index]
    blobs.bodies["nodes", second] = blobs.bodies["nodes", first]
    with pytest.raises(Corrupt, match="its parent names"):
        list(map_.scan())


def test_node_that_is_gone_is_corrupt_and_named() -> None:
    blobs = MemoryBlobs()
    map_ = Map(blobs).update({f"{number:05}": "x" * 100 for number in range(2000)})
    name = map_.to_json()["entries"][0][1]  # type: ignore[index]
    del blobs.bodies["nodes", name]
    with pytest.raises(Corrupt, match=name):
        map_.get("00000")
