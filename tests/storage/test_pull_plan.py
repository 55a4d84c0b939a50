"""What a pull would fetch, and from where."""

from __future__ import annotations

from pathlib import Path

from skyhold.errors import Unavailable
from skyhold.storage.object_keys import pack_id_of
from skyhold.storage.pull_plan import plan_files
from tests.storage.fixtures import FlakyBucket, Setup
from tests.storage.test_push_pull import write_tree


def test_plan_names_the_bucket_that_a_read_asks_first(tmp_path: Path) -> None:
    """Which is another one after a bucket has failed a read."""
    buckets = {name: FlakyBucket(name) for name in "ab"}
    setup = Setup(tmp_path / "state", list(buckets.values()), copies=2)
    version, _ = setup.push(write_tree(tmp_path / "in", {"x": b"x" * 5000}))

    def planned() -> list[str]:
        return list(plan_files(version, [0], tmp_path / "out", setup.space, None).sources.bucket_bytes)

    assert planned() == setup.replicas.order[:1] == ["a"]

    def fail_packs(key: str) -> None:
        if pack_id_of(key) is not None:
            raise Unavailable("the bucket is away", code="no_answer", bucket="a")

    buckets["a"].on_read = fail_packs
    setup.pull(version, tmp_path / "first")
    assert setup.replicas.order == ["b", "a"]
    assert planned() == ["b"]
    setup.close()
