"""What every driver over HTTP must make of refusals and of lost, late, short or false replies: one shared class."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

import pytest

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.retry import RetryPolicy
from skyhold.errors import Conflict, Corrupt, NotFound, OutcomeUnknown, PermissionDenied, SkyholdError, Unavailable
from tests.buckets.scripted_server import Reply, scripted

HASTY = RetryPolicy(attempts_max=3, first_delay_s=0.01, connect_timeout_s=1, stall_timeout_s=1)
BODY = b"sixteen bytes ok"


class LostReplies(ABC):
    @abstractmethod
    def open_at(self, url: str) -> Bucket:
        """A bucket at a scripted server, with the policy `HASTY`."""

    @abstractmethod
    def confirmation(self, body: bytes) -> Reply:
        """The reply to a put that stored `body`."""

    @pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 504])
    @pytest.mark.parametrize("expected_tag", [None, "17"])
    def test_conditional_put_answered_vaguely_is_of_unknown_outcome(
        self, status: int, expected_tag: str | None
    ) -> None:
        with scripted(Reply(status)) as server:
            with pytest.raises(OutcomeUnknown):
                self.open_at(server.url).write_if("key", BODY, expected_tag=expected_tag)
            assert len(server.requests) == 1

    @pytest.mark.parametrize("reply", [Reply(lost=True), Reply(announced_bytes=99), Reply(body=b"{}"), Reply(302)])
    def test_lost_reply_to_a_conditional_put_is_of_unknown_outcome(self, reply: Reply) -> None:
        with scripted(reply) as server:
            with pytest.raises(OutcomeUnknown):
                self.open_at(server.url).write_if("key", BODY, expected_tag=None)
            assert len(server.requests) == 1

    def test_conditional_put_ends_at_its_deadline(self) -> None:
        with scripted(Reply(delay_s=1.5)) as server:
            started_s = time.monotonic()
            with pytest.raises(OutcomeUnknown):
                self.open_at(server.url).write_if("key", BODY, expected_tag=None, deadline_s=0.4)
            assert time.monotonic() - started_s < 1.0
            assert len(server.requests) == 1

    @pytest.mark.parametrize(
        ("status", "kind"), [(412, Conflict), (429, Unavailable), (401, PermissionDenied), (403, PermissionDenied)]
    )
    def test_refused_conditional_put_is_sent_once(self, status: int, kind: type[SkyholdError]) -> None:
        with scripted(Reply(status)) as server:
            with pytest.raises(kind) as caught:
                self.open_at(server.url).write_if("key", BODY, expected_tag="17")
            assert type(caught.value) is kind
            assert len(server.requests) == 1

    def test_conditional_put_to_nobody_had_no_effect(self) -> None:
        with scripted() as server:
            url = server.url
        with pytest.raises(Unavailable):
            self.open_at(url).write_if("key", BODY, expected_tag=None)

    def test_confirmed_conditional_put_returns_a_tag(self) -> None:
        with scripted(self.confirmation(BODY)) as server:
            assert self.open_at(server.url).write_if("key", BODY, expected_tag=None)

    def test_write_goes_on_after_throttling(self) -> None:
        with scripted(Reply(503), Reply(429), self.confirmation(BODY)) as server:
            self.open_at(server.url).write("key", BODY)
            assert len(server.requests) == 3

    def test_write_gives_up_after_its_attempts(self) -> None:
        with scripted(*[Reply(503)] * 9) as server:
            with pytest.raises(Unavailable):
                self.open_at(server.url).write("key", BODY)
            assert len(server.requests) == HASTY.attempts_max

    def test_write_of_which_other_bytes_were_stored_is_corrupt(self) -> None:
        with scripted(*[self.confirmation(b"other bytes than")] * 9) as server, pytest.raises(Corrupt) as caught:
            self.open_at(server.url).write("key", BODY)
        assert caught.value.code == "checksum_refused"

    def test_write_that_is_not_allowed_is_sent_once(self) -> None:
        with scripted(Reply(403)) as server:
            with pytest.raises(PermissionDenied):
                self.open_at(server.url).write("key", BODY)
            assert len(server.requests) == 1

    def test_object_of_a_bucket_that_is_gone_is_told_from_a_missing_one(self) -> None:
        with scripted(*[Reply(404)] * 9) as server, pytest.raises(NotFound):
            self.open_at(server.url).stat("key")
