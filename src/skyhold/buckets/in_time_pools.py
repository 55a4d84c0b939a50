"""Connections of `urllib3` whose replies begin in time."""

from __future__ import annotations

import time
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from skyhold.buckets.in_time import reply_by


class _InTime:
    """Of a connection: the headers of a reply come within its limit on silence, all of them."""

    timeout: float | None
    response_class: Any

    def getresponse(self) -> Any:
        if self.timeout is not None:  # the socket has the limit for connecting until `urllib3` waits for the reply
            self.response_class = reply_by(time.monotonic() + self.timeout)
        return super().getresponse()  # type: ignore[misc]


class _Connection(_InTime, HTTPConnection):
    pass


class _TlsConnection(_InTime, HTTPSConnection):
    pass


class InTimePool(HTTPConnectionPool):
    ConnectionCls = _Connection


class InTimeTlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection
