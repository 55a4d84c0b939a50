"""A store that is content with reads of a bounded age changes as safely, and as surely, as any other."""

from __future__ import annotations

from pathlib import Path

import skyhold
from skyhold.registry.store import Store
from tests.cli.models import write_model
from tests.endtoend.machines import Scene


def test_change_after_somebody_elses_is_planned_on_what_is_newest(store: Store, scene: Scene, tmp_path: Path) -> None:
    with skyhold.open(str(scene.cloud("a")), max_age_s=3600) as late:
        scorer = late.repository("fraud/scorer")
        first = scorer.show("main").digest
        second = store.repository("fraud/scorer").push(write_model(tmp_path / "second", seed=2), message="Two").version
        assert scorer.show("main").digest == first
        scorer.attach("champion", metrics={"auc": 0.9})
        assert scorer.show("main").digest == second
    assert store.repository("fraud/scorer").show("champion").metrics["auc"] == 0.9


def test_repository_is_created_after_somebody_elses(store: Store, scene: Scene) -> None:
    with skyhold.open(str(scene.cloud("b")), max_age_s=3600) as late:
        assert [found.name for found in late.repositories()] == ["fraud/scorer"]
        store.repository("fraud/judge", create=True)
        late.repository("fraud/jury", create=True)
    assert [found.name for found in store.repositories()] == ["fraud/judge", "fraud/jury", "fraud/scorer"]
