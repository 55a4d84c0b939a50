"""Credentials of S3 buckets: each reference means its own, and none is ever shown."""

from __future__ import annotations

import json
import os
import sys
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from skyhold.buckets.credentials_file import read_credentials_file
from skyhold.buckets.location import BucketLocation, parse_location
from skyhold.buckets.open import open_bucket
from skyhold.buckets.s3_credentials import key_source
from skyhold.buckets.s3_signing import Keys
from skyhold.errors import InvalidInput, PermissionDenied, SkyholdError
from tests import servers
from tests.buckets.conformance import QUICK
from tests.buckets.scripted_server import Reply, scripted

SECRET = "SUPERSECRET"


@pytest.fixture(autouse=True)
def _no_foreign_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def secret_of(location: BucketLocation) -> str:
    return key_source(location)().secret_access_key


def at(reference: str) -> BucketLocation:
    return parse_location("s3://bucket", credentials=reference)


def test_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("LAB_SECRET_ACCESS_KEY", SECRET)
    assert secret_of(at("env:LAB")) == SECRET


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"access_key_id": "id", "secret_access_key": SECRET}),
        f"[default]\naccess_key_id = id\nsecret_access_key = {SECRET}\n",
        f"[default]\naws_access_key_id = id\naws_secret_access_key = {SECRET}\n",
    ],
)
def test_file_in_either_form(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lab"
    path.write_text(text)
    path.chmod(0o600)
    assert secret_of(at(f"file:{path}")) == SECRET


def test_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lab"
    path.write_text(json.dumps({"access_key_id": "id", "secret_access_key": SECRET}))
    path.chmod(0o644)
    with pytest.raises(PermissionDenied) as caught:
        secret_of(at(f"file:{path}"))
    assert caught.value.code == "credentials_exposed"


def test_profile_and_chain_read_the_shared_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = "aws_access_key_id = id\naws_secret_access_key = {}\n"
    (tmp_path / "credentials").write_text("[default]\n" + keys.format("of-default") + "[lab]\n" + keys.format(SECRET))
    assert secret_of(at("profile:lab")) == SECRET
    assert secret_of(at("chain")) == "of-default"
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert secret_of(at("chain")) == SECRET
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-environment")
    assert secret_of(at("chain")) == "of-the-environment"
    assert secret_of(at("profile:lab")) == SECRET


def test_profile_may_name_a_process(tmp_path: Path) -> None:
    answer = json.dumps({"Version": 1, "AccessKeyId": "id", "SecretAccessKey": SECRET})
    (tmp_path / "answer").write_text(answer)
    (tmp_path / "config").write_text(f"[profile lab]\ncredential_process = cat {tmp_path / 'answer'}\n")
    assert secret_of(at("profile:lab")) == SECRET


def test_file_that_was_rotated_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyhold.buckets.s3_credentials.REREAD_S", 0.0)
    path = tmp_path / "lab"
    path.write_text(json.dumps({"access_key_id": "id", "secret_access_key": "before"}))
    path.chmod(0o600)
    source = key_source(at(f"file:{path}"))
    path.write_text(json.dumps({"access_key_id": "id", "secret_access_key": SECRET}))
    assert source().secret_access_key == SECRET


def test_chain_without_anything_is_left_to_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Web identity, container and instance: with none of them the error names what was looked for."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(PermissionDenied) as caught:
        key_source(at("chain"))
    assert caught.value.code == "credentials_missing"
    assert "no role" in str(caught.value)


def test_container_role_is_asked_and_renewed_by_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    until = (datetime.now(UTC) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ")
    answer = {"AccessKeyId": "id", "SecretAccessKey": SECRET, "Token": "session", "Expiration": until}
    with scripted(Reply(body=json.dumps(answer).encode())) as role:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{role.url}/role")
        source = key_source(at("chain"))
        assert [source(), source()] == [Keys("id", SECRET, "session")] * 2
        assert role.requests == ["GET /role"]


@pytest.mark.parametrize(
    "settings", ["role_arn = arn:aws:iam::1:role/r\nsource_profile = nobody", "sso_session = none"]
)
def test_profile_that_cannot_be_resolved_is_an_error_of_ours(tmp_path: Path, settings: str) -> None:
    (tmp_path / "config").write_text(f"[profile lab]\n{settings}\n")
    with pytest.raises(PermissionDenied) as caught:
        key_source(at("profile:lab"))
    assert caught.value.code == "credentials_missing"


def test_role_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(InvalidInput) as caught:
        key_source(at("chain"))
    assert caught.value.code == "extra_missing"


@pytest.mark.parametrize("reference", ["env:NOTHING", "file:/no/such/file", "profile:nobody"])
def test_reference_to_nothing_is_named(reference: str) -> None:
    with pytest.raises(PermissionDenied) as caught:
        key_source(at(reference))
    assert caught.value.code == "credentials_missing"


@pytest.mark.parametrize(
    "text", [f"{{{SECRET}", f"[default]\n{SECRET}\n", f"{SECRET}", f"[default]\nsecret_access_key={SECRET}"]
)
def test_broken_file_is_not_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lab"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(PermissionDenied) as caught:
        open_bucket(at(f"file:{path}")).read("k")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_nothing_shows_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("LAB_SECRET_ACCESS_KEY", SECRET)
    location = parse_location(f"s3://bucket?endpoint=http://127.0.0.1:{servers.free_port()}", credentials="env:LAB")
    bucket = open_bucket(location, QUICK)
    with pytest.raises(SkyholdError) as caught:
        bucket.read("k")
    shown = [repr(bucket), repr(vars(bucket)), repr(key_source(location)()), str(caught.value.to_json())]
    assert SECRET not in "".join([*shown, *traceback.format_exception(caught.value)])


def test_settings_of_the_whole_process_reach_only_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three buckets of three vendors in one store: none may take another's endpoint, keys, token or region."""
    server = servers.versitygw()
    server.make_bucket("vendors")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "other", "AWS_SESSION_TOKEN": "other",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1", "AWS_REGION": "other-1",
        "AWS_SKIP_SIGNATURE": "true", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true", "AWS_BUCKET": "other",
        "AWS_CA_BUNDLE": "/no/such/file", "AWS_UNSIGNED_PAYLOAD": "true", "AWS_PROXY_URL": "http://127.0.0.1:1",
        "LAB_ACCESS_KEY_ID": servers.ACCESS_KEY, "LAB_SECRET_ACCESS_KEY": servers.SECRET_KEY,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    bucket = open_bucket(parse_location("s3://vendors/p", endpoint=server.url, credentials="env:LAB"), QUICK)
    bucket.write("k", b"x")
    assert bytes(bucket.read("k")) == b"x"


def test_standard_variables_are_honoured_by_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    server = servers.versitygw()
    server.make_bucket("standard")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.SECRET_KEY)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    bucket = open_bucket(parse_location("s3://standard/p"), QUICK)
    bucket.write("k", b"x")
    assert bytes(bucket.read("k")) == b"x"


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_credentials_file_that_never_ends_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "credentials"
    if kind == "pipe":
        os.mkfifo(path, 0o600)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(PermissionDenied):
        read_credentials_file(str(path), "bucket `lab`")
