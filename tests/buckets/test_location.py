"""Locations point to a bucket, survive JSON, and never contain a secret."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skyhold.buckets.location import BucketLocation, check_bucket_name, parse_location
from skyhold.buckets.open import open_bucket
from skyhold.errors import InvalidInput

SECRET = "SUPERSECRET"


@pytest.mark.parametrize(
    ("text", "url", "provider", "name"),
    [
        ("/srv/Models A", "file:///srv/Models%20A", "folder", "models-a"),
        ("/srv/x/../y/", "file:///srv/y", "folder", "y"),
        ("file:///srv/a%20b", "file:///srv/a%20b", "folder", "a-b"),
        ("memory://m", "memory://m", "memory", "m"),
        ("s3://bucket", "s3://bucket", "aws", "bucket"),
        ("s3://bucket/a/b/", "s3://bucket/a/b", "aws", "b"),
        ("gs://bucket/a", "gs://bucket/a", "google", "a"),
        ("az://account/container/a/b", "az://account/container/a/b", "azure", "b"),
    ],
)
def test_url_forms(text: str, url: str, provider: str, name: str) -> None:
    location = parse_location(text)
    assert (location.url, location.provider, location.name) == (url, provider, name)


def test_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_location("./cloud a").path == tmp_path / "cloud a"


def test_account_container_and_prefix_are_distinguished() -> None:
    azure = parse_location("az://account/container/a/b")
    assert (azure.account, azure.container, azure.prefix) == ("account", "container", "a/b")
    s3 = parse_location("s3://bucket/a/b")
    assert (s3.container, s3.prefix) == ("bucket", "a/b")
    assert parse_location("gs://bucket").prefix == ""


def test_settings_come_as_query_or_fields_and_fields_win() -> None:
    location = parse_location(
        "s3://b?endpoint=https://minio.lab:9000&region=lab-1&provider=minio&path_style=false&credentials=env:LAB&name=n",
        region="lab-2",
    )
    assert location == BucketLocation(
        "n", "s3://b", "minio", "lab-2", "https://minio.lab:9000", "env:LAB", path_style=False
    )


def test_json_round_trip_leaves_defaults_out() -> None:
    location = parse_location("s3://b", endpoint="http://10.0.0.1", allow_http=True, credentials="file:~/lab.json")
    assert BucketLocation.from_json(location.to_json()) == location
    assert parse_location("s3://b").to_json() == {"name": "b", "url": "s3://b", "provider": "aws"}


@pytest.mark.parametrize(
    "url",
    [
        f"s3://key:{SECRET}@bucket",
        f"s3://bucket?secret_access_key={SECRET}",
        f"az://account/container?sig={SECRET}",
        f"s3://bucket?credentials={SECRET}",
        f"s3://bucket?endpoint=https://key:{SECRET}@host",
        f"s3://bucket?path_style={SECRET}",
        f"s3://bucket#{SECRET}",
    ],
)
def test_secret_in_a_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_location(url)
    assert SECRET not in str(caught.value) + str(caught.value.to_json())


@pytest.mark.parametrize(
    "url",
    ["ftp://x", "s3://", "s3://b//c", "s3://b/../c", "az://a", "file://host/x", "s3://b?region=1&region=2", "s3://B!"],
)
def test_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        parse_location(url)


def test_plain_http_is_for_loopback_or_by_permission() -> None:
    assert parse_location("s3://b?endpoint=http://127.0.0.1:9000").endpoint
    assert parse_location("s3://b?endpoint=http://far&allow_http=true").endpoint
    with pytest.raises(InvalidInput) as caught:
        parse_location("s3://b?endpoint=http://far")
    assert caught.value.code == "insecure_endpoint"


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"name": "n", "url": "s3://b"},
        {"name": 1, "url": "s3://b", "provider": "p"},
        {"name": "n", "url": "s3://b", "provider": "p", "secret": "x"},
    ],
)
def test_other_json_is_refused(document: object) -> None:
    with pytest.raises(InvalidInput):
        BucketLocation.from_json(document)


@example("~0")
@given(st.text(max_size=80))
def test_any_text_is_a_location_or_refused(text: str) -> None:
    try:
        location = parse_location(text)
    except InvalidInput:
        return
    assert BucketLocation.from_json(location.to_json()) == location


@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True))
def test_bucket_names_of_the_grammar_are_taken(name: str) -> None:
    assert check_bucket_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "a/b", "a" * 64, "ä", "a\n"])
def test_other_bucket_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_bucket_name(name)


def test_missing_extra_names_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "requests", None)
    for module in ("skyhold.buckets.google", "skyhold.buckets.google_credentials"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(InvalidInput) as caught:
        open_bucket(parse_location("gs://bucket"))
    assert caught.value.code == "extra_missing"
    assert caught.value.hint == "pip install 'skyhold[gcs]'"


@pytest.mark.parametrize("url", ["az://account/container", "gs://bucket", "/srv/models"])
def test_profile_is_for_s3_only(url: str) -> None:
    assert parse_location("s3://bucket", credentials="profile:lab").credentials == "profile:lab"
    with pytest.raises(InvalidInput) as caught:
        parse_location(url, credentials="profile:lab")
    assert caught.value.code == "invalid_credentials_reference"


def test_settings_may_follow_a_folder_as_they_follow_a_url(tmp_path: Path) -> None:
    location = parse_location(f"{tmp_path}/cloud?region=eu-west&provider=lab")
    assert (location.path, location.region, location.provider) == (tmp_path / "cloud", "eu-west", "lab")


def test_a_question_mark_in_the_name_of_a_folder_stays_there(tmp_path: Path) -> None:
    assert parse_location(f"{tmp_path}/what?").path == tmp_path / "what?"
