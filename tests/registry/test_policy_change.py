"""A policy may change after versions were written under it: they stay readable, and follow it with `sync`."""

from __future__ import annotations

from pathlib import Path

import pytest

import skyhold
from skyhold.security.keys import Passphrase
from skyhold.store.settings import load_settings


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [False, True], ids=["clear", "sealed"])
def test_a_version_stays_readable_where_the_allowed_regions_change(
    sealed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYHOLD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SKYHOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SKYHOLD_KEY_FILE", raising=False)
    if sealed:
        monkeypatch.setenv("SKYHOLD_PASSPHRASE", "of the tests")
    model = tmp_path / "model"
    model.mkdir()
    (model / "README.md").write_bytes(b"# A model card\n" * 500)
    urls = [f"memory://{tmp_path.name}-{region}?region={region}" for region in ("eu-1", "us-1")]
    keks = [Passphrase("of the tests")] if sealed else []
    with skyhold.init(urls, settings=load_settings(), encrypt_with=keks) as store:
        european = skyhold.Policy(copies=1, regions=("eu-*",))
        repository = store.create_repository("team/model", policy=european)
        first = repository.push(model, message="in Europe").version
        repository.set_policy(skyhold.Policy(copies=1, regions=("us-*",)))
        assert repository.show(first).model_card == "# A model card\n" * 500
        repository.pull(first, tmp_path / "moved")
        assert (tmp_path / "moved" / "README.md").read_bytes() == (model / "README.md").read_bytes()

        assert not store.verify().sound  # the packs are not yet where the policy requires them
        report = store.sync()
        assert report.sound
        assert {finding.bucket for finding in report.mended} == {f"{tmp_path.name}-us-1"}
        assert store.verify(deep=True).sound
