"""A store that names the time of the next attempt (`Retry-After`) is asked again then, by every driver."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from skyhold.buckets import retry
from skyhold.buckets.location import BucketLocation, parse_location
from skyhold.buckets.open import open_bucket
from skyhold.errors import Unavailable
from tests import servers
from tests.buckets.scripted_server import Reply, ScriptedServer, scripted
from tests.buckets.test_retry import Clock

DATE = "Mon, 30 Nov 2026 20:00:00 GMT"
LATER = "Mon, 30 Nov 2026 20:00:09 GMT"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retry, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("LAB_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("LAB_ACCOUNT_KEY", servers.AZURITE_KEY)


def s3(server: ScriptedServer) -> BucketLocation:
    return parse_location("s3://models", endpoint=server.url, credentials="env:LAB", name="lab")


def google(server: ScriptedServer) -> BucketLocation:
    return parse_location("gs://models", endpoint=server.url, name="lab")


def azure(server: ScriptedServer) -> BucketLocation:
    account = servers.AZURITE_ACCOUNT
    return parse_location(
        f"az://{account}/models", endpoint=f"{server.url}/{account}", credentials="env:LAB", name="lab"
    )


CLOUDS = pytest.mark.parametrize(("location", "deleted"), [(s3, 204), (google, 204), (azure, 202)])


@CLOUDS
@pytest.mark.parametrize("status", [429, 503])
def test_store_is_asked_again_when_it_wants(
    location: Callable[[ScriptedServer], BucketLocation], deleted: int, status: int, clock: Clock
) -> None:
    seconds = Reply(status, headers={"Retry-After": "7"})
    time = Reply(status, headers={"Retry-After": LATER, "Date": DATE})
    with scripted(seconds, time, Reply(deleted)) as server:
        open_bucket(location(server)).delete("k")
        assert len(server.requests) == 3
    assert clock.slept == [7.0, 9.0]


def test_body_of_the_reply_does_not_hide_the_time(clock: Clock) -> None:
    slow_down = Reply(503, b"<Error><Code>SlowDown</Code></Error>", {"Retry-After": "7"})
    with scripted(slow_down, Reply(204)) as server:
        open_bucket(s3(server)).delete("k")
    assert clock.slept == [7.0]


@CLOUDS
@pytest.mark.parametrize("text", ["999999", "9" * 5000, "Fri, 31 Dec 9999 23:59:59 GMT", "never"])
def test_hostile_time_does_not_stop_a_client_beyond_its_bounds(
    location: Callable[[ScriptedServer], BucketLocation], deleted: int, text: str, clock: Clock
) -> None:
    reply = Reply(503, headers={"Retry-After": text})
    with scripted(*[reply] * 6) as server, pytest.raises(Unavailable):
        open_bucket(location(server)).delete("k")
    assert clock.now_s <= retry.DEFAULT_POLICY.total_s
    assert len(clock.slept) >= 4
