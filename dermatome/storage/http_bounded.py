"""Connections on which a host has only so long to begin its answer.

A time limit on a socket starts anew with every byte, so a host that sends one header byte at a time would hold a thread
for ever; requests and urllib3 have no limit over all of them.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

import requests.adapters
import urllib3.connection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class BoundedAdapter(requests.adapters.HTTPAdapter):
    """Cuts a connection whose answer's headers are not all there in time; that looks as if the host had closed it.

    Args:
        limit_s: from the request to the last header, seconds.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Makes the pools that connections come from."""
        super().init_poolmanager(*args, **options)
        pools: list[Any] = []
        for pool, connection in (
            (HTTPConnectionPool, urllib3.connection.HTTPConnection),
            (HTTPSConnectionPool, urllib3.connection.HTTPSConnection),
        ):
            bounded = type("Bounded", (_Bounded, connection), {"limit_s": self._limit_s})
            pools.append(type("BoundedPool", (pool,), {"ConnectionCls": bounded}))
        self.poolmanager.pool_classes_by_scheme = {"http": pools[0], "https": pools[1]}


class _Bounded:
    """Mixed into a connection class."""

    limit_s: float
    sock: Any

    def getresponse(self) -> Any:
        timer = threading.Timer(self.limit_s, _cut, [self.sock])
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()  # type: ignore[misc]
        finally:
            timer.cancel()


def _cut(sock: Any) -> None:
    try:
        # The plain socket's method: that of a TLS socket would change it under the thread that reads.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:  # It is closed already.
        return
