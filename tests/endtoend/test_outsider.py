"""A bucket that no longer belongs to the store does not disturb the repair of the others."""

from __future__ import annotations

import shutil
from pathlib import Path

from skyhold.registry.store import Store
from tests.endtoend.machines import Scene
from tests.endtoend.stores import catch_up


def test_repair_works_beside_a_bucket_that_was_restored_from_a_backup(
    store: Store, scene: Scene, tmp_path: Path
) -> None:
    catch_up(store)
    shutil.copytree(scene.cloud("a"), tmp_path / "backup")
    scene.empty("a")
    assert store.repair().readmitted == ("a",)
    shutil.rmtree(scene.cloud("a"))
    shutil.copytree(tmp_path / "backup", scene.cloud("a"))
    pack = next(scene.cloud("b").glob("packs/*/*"))
    pack.unlink()
    report = store.repair()
    assert [finding.bucket for finding in report.mended] == ["b"]
    assert not report.failed
    assert list(report.unreachable) == ["a"]
    assert pack.is_file()
