"""Two buckets that are one place, or one inside the other, are found out however they are spelled."""

from __future__ import annotations

from pathlib import Path

import pytest

from skyhold.buckets.location import parse_location
from skyhold.buckets.overlap import refuse_overlap
from skyhold.errors import InvalidInput


def overlap(one: str, other: str) -> str | None:
    """The message of the error of the two, if there is one."""
    try:
        refuse_overlap([parse_location(one, name="one"), parse_location(other, name="other")])
    except InvalidInput as error:
        assert error.code == "buckets_overlap"
        return error.message
    return None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a" / "sub").mkdir(parents=True)
    (tmp_path / "ab").mkdir()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "to-sub").symlink_to(tmp_path / "link" / "sub")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("one", "other"),
    [("a", "a"), ("a", "a/"), ("a", "link"), ("a/sub", "to-sub"), ("a/../a", "./a"), ("new", "new/."),
     ("link/new", "a/new"),
     ("s3://b", "s3://b/"), ("s3://b", "s3://b?endpoint=https://s3.amazonaws.com"),
     ("s3://b?endpoint=https://minio.lab", "s3://b?endpoint=HTTPS://MINIO.lab:443/"),
     ("s3://b?endpoint=http://127.0.0.1:9000", "s3://b?endpoint=http://localhost:9000"),
     ("s3://b?region=eu-west-1", "s3://b?endpoint=https://s3.eu-west-1.amazonaws.com"),
     ("s3://b/x?endpoint=https://storage.googleapis.com", "gs://b/x"),
     ("az://a/c", "az://a/c?endpoint=https://a.blob.core.windows.net")],
)  # fmt: skip
@pytest.mark.usefixtures("folder")
def test_same_place_by_two_spellings(one: str, other: str) -> None:
    assert "the same place" in (overlap(one, other) or "")


@pytest.mark.parametrize(
    ("one", "other"),
    [("a", "a/sub"), ("link", "a/sub"), ("a", "to-sub"), ("a", "link/not/made/yet"), ("new", "new/er"), ("/", "a"),
     ("s3://b", "s3://b/p"), ("s3://b/p", "s3://b/p/q"), ("az://a/c", "az://a/c/p"), ("gs://b", "gs://b/p")],
)  # fmt: skip
@pytest.mark.usefixtures("folder")
def test_place_inside_the_other(one: str, other: str) -> None:
    assert "inside the other" in (overlap(one, other) or "")
    assert "inside the other" in (overlap(other, one) or "")


@pytest.mark.parametrize(
    ("one", "other"),
    [("a", "ab"), ("a", "new"), ("new", "newer"), ("a/x", "a/y"), ("s3://b/p", "s3://b/pq"), ("s3://b", "gs://b"),
     ("s3://b?endpoint=https://minio.lab", "s3://b?endpoint=https://ceph.lab"), ("az://a/c", "az://b/c"),
     ("s3://b?endpoint=http://127.0.0.1:9000", "s3://b?endpoint=http://127.0.0.1:9001"), ("s3://b", "s3://c")],
)  # fmt: skip
@pytest.mark.usefixtures("folder")
def test_places_that_only_look_alike_are_two(one: str, other: str) -> None:
    assert overlap(one, other) is None
