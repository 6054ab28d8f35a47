"""The mock HPA server with faults: it records requests, and misbehaves at chosen addresses as real hosts do."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dermatome.synthetic.hpa_server import MockHpaHandler, MockHpaServer

_HTML = b"<!DOCTYPE html><html><head><title>Log in</title></head><body>Please log in.</body></html>"


@dataclass(frozen=True)
class Fault:
    """How an address misbehaves.

    Attributes:
        status: status instead of 200.
        headers: headers besides the usual ones.
        body: body instead of the right one.
        html: answers with a web page, status 200.
        redirect: answers 302 to this address.
        truncate: sends only so many bytes of a body that is declared longer.
        cut: sends so many bytes and declares them as all: a file that is cut short for good.
        delay_s: waits before it answers.
        drip_s: waits between single bytes of the body.
        drip_headers_s: waits between single bytes of a header that has no end.
        close: closes the connection without an answer.
        reset: resets the connection (RST) without an answer; after ``truncate`` bytes of the body if both are given.
        flood: sends so many zero bytes after the body and declares no length.
        times: number of requests that are spoilt; None spoils all.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    html: bool = False
    redirect: str | None = None
    truncate: int | None = None
    cut: int | None = None
    delay_s: float = 0.0
    drip_s: float = 0.0
    drip_headers_s: float = 0.0
    close: bool = False
    reset: bool = False
    flood: int = 0
    times: int | None = None


@dataclass(frozen=True)
class Seen:
    """One request as it arrived; status 0 if it got no answer."""

    path: str
    headers: Mapping[str, str]
    status: int


class FaultyHpaServer(MockHpaServer):
    """A mock HPA server with faults by path.

    Attributes:
        faults: by path; may be changed while the server runs.
        requests: every request, in order of arrival.
        flooded: bytes sent by :attr:`Fault.flood`.
        most_at_once: the most requests that were answered at the same time.
    """

    def __init__(
        self,
        pages: Mapping[str, bytes] | None = None,
        images: Mapping[str, bytes] | None = None,
        *,
        faults: Mapping[str, Fault] | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(pages, images, port=port, handler=_FaultyHandler)
        self.faults = dict(faults or {})
        self.requests: list[Seen] = []
        self.flooded = 0
        self.most_at_once = 0
        self.at_once = 0
        self.lock = threading.Lock()

    def count(self, path: str) -> int:
        """How many requests for ``path`` have arrived."""
        return sum(seen.path == path for seen in self.requests)

    def take_fault(self, path: str) -> Fault | None:
        """The fault of this request, which is counted."""
        with self.lock:
            fault = self.faults.get(path)
            if fault is None or fault.times is None:
                return fault
            if fault.times <= 0:
                return None
            self.faults[path] = replace(fault, times=fault.times - 1)
            return fault


class _FaultyHandler(MockHpaHandler):
    @property
    def mock(self) -> FaultyHpaServer:
        server: Any = self.server
        return server.mock

    def do_GET(self) -> None:  # noqa: N802 (the base class calls it so)
        mock = self.mock
        with mock.lock:
            mock.at_once += 1
            mock.most_at_once = max(mock.most_at_once, mock.at_once)
        try:
            self._respond()
        finally:
            with mock.lock:
                mock.at_once -= 1

    def _respond(self) -> None:
        mock, path = self.mock, self.path.split("?")[0]
        fault = mock.take_fault(path) or Fault()
        if fault.delay_s:
            mock.stopping.wait(fault.delay_s)
        if fault.close or fault.drip_headers_s or (fault.reset and fault.truncate is None):
            mock.requests.append(Seen(path, dict(self.headers), 0))
            self.close_connection = True
            if fault.reset:
                self._reset()
            if fault.drip_headers_s:
                self._drip(
                    itertools.chain(b"HTTP/1.1 200 OK\r\nX-Slow: ", itertools.repeat(ord("x"))), fault.drip_headers_s
                )
            return
        found = mock.content(path)
        status, body, headers = 200, b"", {"Content-Type": "text/plain"}
        if fault.redirect is not None:
            status, headers = 302, headers | {"Location": fault.redirect}
        elif fault.html:
            body, headers = _HTML, {"Content-Type": "text/html; charset=utf-8"}
        elif fault.status != 200:
            status, body = fault.status, b"no"
        elif found is None and fault.body is None:
            status, body = 404, b"not found"
        else:
            body, kind = found or (b"", "application/octet-stream")
            status, body, headers = self.answer_with(body if fault.body is None else fault.body, kind)
        mock.requests.append(Seen(path, dict(self.headers), status))
        body = body[: fault.cut]
        length = {"Connection": "close"} if fault.flood else {"Content-Length": str(len(body))}
        self.send_all(status, headers | length | dict(fault.headers))
        if fault.drip_s:
            self._drip(body, fault.drip_s)
            return
        self.wfile.write(body[: fault.truncate])
        for _ in range(fault.flood >> 16):
            self.wfile.write(bytes(1 << 16))
            mock.flooded += 1 << 16
        if fault.reset:
            self._reset()
        self.close_connection = fault.truncate is not None or self.close_connection

    def _drip(self, data: Iterable[int], wait_s: float) -> None:
        for byte in data:
            if self.mock.stopping.wait(wait_s):
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    def _reset(self) -> None:
        """Closes at once and discards what was not sent: the other side sees a reset."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
