"""skyhold.toml and the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from skyhold.buckets.location import parse_location
from skyhold.errors import InvalidInput, NotFound, PermissionDenied
from skyhold.store.settings import BucketSettings, Settings, load_settings

WHOLE = """
store = "s3://models/x"
author = "Ada"
key_file = "team.key"
[push]
memory = "128MiB"
threads = 3
[cache]
size = "2GB"
folder = "../cache"
[buckets.gcs-eu]
credentials = "env:GCS"
endpoint = "https://gcs.internal"
ca_file = "ca.pem"
"""


def load(folder: Path, text: str | None = None, **environ: str) -> Settings:
    folder.mkdir(exist_ok=True, parents=True)
    if text is not None:
        (folder / "skyhold.toml").write_text(text)
    return load_settings({"SKYHOLD_" + name: value for name, value in environ.items()}, folder)


def test_a_whole_file_is_read_and_each_value_has_its_origin(tmp_path: Path) -> None:
    settings = load(tmp_path, WHOLE)
    file = str(tmp_path / "skyhold.toml")
    assert (settings.store, settings.author, settings.key_file) == ("s3://models/x", "Ada", tmp_path / "team.key")
    assert (settings.push_memory_bytes, settings.push_threads) == (128 << 20, 3)
    assert (settings.cache_size_bytes, settings.cache_folder) == (2 * 10**9, tmp_path.parent / "cache")
    assert settings.buckets == {"gcs-eu": BucketSettings("env:GCS", "https://gcs.internal", str(tmp_path / "ca.pem"))}
    assert settings.origin("push.memory") == settings.origin("buckets.gcs-eu.endpoint") == file
    assert settings.origin("passphrase") == "default"


def test_the_environment_wins(tmp_path: Path) -> None:
    settings = load(tmp_path, WHOLE, STORE="gs://y", MEMORY="64MiB", THREADS="5", KEY_FILE="/k", PASSPHRASE="secret")
    assert (settings.store, settings.push_memory_bytes, settings.push_threads) == ("gs://y", 64 << 20, 5)
    assert settings.key_file == Path("/k")
    assert settings.origin("push.memory") == "environment SKYHOLD_MEMORY"
    assert settings.origin("author") == str(tmp_path / "skyhold.toml")
    assert settings.passphrase == "secret"
    assert "secret" not in repr(settings)


def test_the_nearest_file_upward_holds_and_a_named_one_before_it(tmp_path: Path) -> None:
    load(tmp_path, 'author = "outer"')
    assert load(tmp_path / "a" / "b").author == "outer"
    load(tmp_path / "a", 'author = "inner"')
    assert load(tmp_path / "a" / "b").author == "inner"
    assert load(tmp_path / "a" / "b", CONFIG=str(tmp_path / "skyhold.toml")).author == "outer"
    with pytest.raises(NotFound):
        load(tmp_path, CONFIG=str(tmp_path / "missing.toml"))


@pytest.mark.parametrize(
    ("text", "named", "hint"),
    [
        ('stroe = "x"', "`stroe`", "Did you mean `store`?"),
        ('[push]\nmemroy = "1GiB"', "`push.memroy`", "Did you mean `push.memory`?"),
        ('[buckets.a]\nendpoit = "x"', "`buckets.a.endpoit`", "Did you mean `buckets.a.endpoint`?"),
        ('[bucket.a]\nendpoint = "x"', "`bucket`", "Did you mean `buckets`?"),
        (
            "qqq = 1",
            "`qqq`",
            "Known keys are actor, author, buckets, cache, etcd, insecure_key_file, key_file, push, store",
        ),
        ("store = 1", "`store` to be a text", None),
        ('store = ""', "`store` to be a text", None),
        ("push = 1", "`push` to be a table", None),
        ("buckets = []", "`buckets` to be a table", None),
        ("[buckets]\na = 1", "`buckets.a` to be a table", None),
        ("[push]\nmemory = 1", "`push.memory` to be a size", None),
        ('[push]\nmemory = "1MiB"', "at least 64.0 MiB, but got '1MiB'", None),
        ('[push]\nthreads = "3"', "`push.threads` to be a whole number", None),
        ("[push]\nthreads = true", "`push.threads` to be a whole number", None),
        ("[push]\nthreads = 0", "`push.threads` to be a whole number from 1 to 64, but got 0", None),
        ("key_file = 3", "`key_file` to be a path", None),
        ("store = ", "is not TOML", None),
    ],
)
def test_a_mistake_is_refused_naming_file_and_key(tmp_path: Path, text: str, named: str, hint: str | None) -> None:
    with pytest.raises(InvalidInput) as refused:
        load(tmp_path, text)
    assert str(tmp_path / "skyhold.toml") in refused.value.message
    assert named in refused.value.message
    assert refused.value.hint == hint


def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"environment SKYHOLD_THREADS: .* but got 'many'"):
        load(tmp_path, THREADS="many")


def test_this_machine_overrides_how_a_bucket_is_reached(tmp_path: Path) -> None:
    settings = load(tmp_path, WHOLE)
    location = parse_location("gs://models", name="gcs-eu", credentials="env:THEIRS", region="eu")
    reached = settings.locate(location)
    assert (reached.credentials, reached.endpoint, reached.region) == ("env:GCS", "https://gcs.internal", "eu")
    other = parse_location("gs://models", name="other")
    assert settings.locate(other) == other


@pytest.mark.parametrize("kind", ["pipe", "device", "huge"])
def test_file_of_settings_that_never_ends_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "skyhold.toml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(b"#" * (2 << 20))
    with pytest.raises((PermissionDenied, NotFound)) as refused:
        load_settings({"SKYHOLD_CONFIG": str(path)}, tmp_path)
    assert refused.value.code == ("settings_unreadable" if kind == "huge" else "settings_missing")
