"""Index segments that were merged are deleted where the one that contains them is; elsewhere they harm nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

import skyhold
from skyhold.storage import index_segments as index
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.stores import catch_up, push


def segments(cloud: Path) -> set[str]:
    return {path.name for path in (cloud / "indexes").rglob("*") if path.is_file()}


def test_bucket_that_missed_a_merge_lacks_the_merged_segment_alone(
    scene: Scene, ada: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "SEGMENTS_UNMERGED_MAX", 4)
    with skyhold.open(str(scene.cloud("a"))) as store:
        for seed in range(1, 5):
            push(store, scene, seed)
        catch_up(store)
    before = segments(scene.cloud("c"))
    assert len(before) == 4
    scene.cloud("c").rename(scene.place / "away")
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 5)
    (merged,) = segments(scene.cloud("a"))
    assert merged not in before
    (scene.place / "away").rename(scene.cloud("c"))
    eve = Machine(scene.place / "eve")  # whose chunk index has none of them
    with eve.at_work(), skyhold.connect(str(scene.cloud("a"))) as store:
        missing = {(finding.bucket, finding.key.split("/")[-1]) for finding in store.verify().findings
                   if finding.key.startswith("indexes/")}  # fmt: skip
        assert missing == {("c", merged)}
        store.sync()
        catch_up(store)
        assert store.verify(deep=True).sound
    assert segments(scene.cloud("c")) == {*before, merged}
    assert segments(scene.cloud("a")) == {merged}
