"""Connections of `urllib3` whose replies begin in time: its limit is for each wait on a socket, so headers that come a
byte at a time would keep it from passing."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class _InTime:
    """Of a connection: the headers of a reply come within its limit on silence, all of them."""

    sock: socket.socket | None

    def getresponse(self) -> Any:
        connected = self.sock
        limit_s = None if connected is None else connected.gettimeout()
        if connected is None or limit_s is None:
            return super().getresponse()  # type: ignore[misc]
        timer = threading.Timer(limit_s, _cut, (connected,))
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()  # type: ignore[misc]
        finally:
            timer.cancel()


def _cut(connected: socket.socket) -> None:
    """End a connection that another thread waits for; its TLS object is that thread's own."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


class _Connection(_InTime, HTTPConnection):
    pass


class _TlsConnection(_InTime, HTTPSConnection):
    pass


class InTimePool(HTTPConnectionPool):
    ConnectionCls = _Connection


class InTimeTlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection
