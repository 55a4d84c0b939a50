"""How the SDK of Azure gets its replies: in time, and no larger than they may be."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from azure.core.exceptions import ServiceResponseError
from azure.core.pipeline.transport import RequestsTransport

from skyhold.buckets.bucket import OBJECT_BYTES_MAX
from skyhold.buckets.retry import RetryPolicy
from skyhold.buckets.wire import NO_REPLY, REPLY_BYTES_MAX, InTime, no_other_credentials, take_reply


class WholeReplies(RequestsTransport):  # type: ignore[misc]  # azure.core is typed in part
    """Takes each reply's body before the SDK does, as far as its bound: that would take any, and ask for a broken one
    up to three times by itself."""

    def __init__(self, bucket: str, policy: RetryPolicy, **options: Any) -> None:
        super().__init__(**options)
        self._bucket, self._policy = bucket, policy

    def _init_session(self, session: requests.Session) -> None:
        super()._init_session(session)
        session.auth = no_other_credentials
        session.headers["Accept-Encoding"] = "identity"  # bytes are counted as they come
        for scheme in self._protocols:
            session.mount(scheme, InTime(max_retries=0))

    def send(self, request: Any, **options: Any) -> Any:
        response = super().send(request, **(options | {"stream": True}))
        reply, url = response.internal_response, urlsplit(request.url)
        of_object = request.method == "GET" and reply.ok and "comp=" not in url.query and "restype=" not in url.query
        key, limit_bytes = (unquote(url.path), OBJECT_BYTES_MAX) if of_object else ("", REPLY_BYTES_MAX)
        try:
            take_reply(reply, self._policy, self._bucket, limit_bytes, key)  # the SDK finds it read already
        except NO_REPLY as error:
            raise ServiceResponseError(str(error), error=error) from error
        return response
