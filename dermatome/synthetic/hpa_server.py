"""A small server on this machine in the layout of the Human Protein Atlas, for the demo and for tests.

It serves gene pages at ``/<ensembl id>.xml`` and images at ``/images/<folder>/<stem>.jpg``, with ETags, and can be told
to misbehave at an address in the ways real hosts do.
"""

from __future__ import annotations

import hashlib
import itertools
import socket
import struct
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dermatome.synthetic.hpa_pages import ToyImage, gene_page_xml

__all__ = ["Fault", "Seen", "ToyAtlas", "ToyImage", "gene_page_xml"]

_HTML = b"<!DOCTYPE html><html><head><title>Log in</title></head><body>Please log in.</body></html>"


@dataclass(frozen=True)
class Fault:
    """How an address misbehaves.

    Attributes:
        status: answered instead of 200.
        headers: sent besides the usual ones.
        body: sent instead of the right one.
        html: answers with a web page, status 200.
        redirect: answers 302 to this address.
        truncate: sends only so many bytes of the body, of a declared length that is the whole.
        cut: sends so many bytes and declares them as all: a file that is cut short for good.
        delay_s: waits before it answers.
        drip_s: waits between single bytes of the body.
        drip_headers_s: waits between single bytes of a header that has no end.
        close: closes the connection without an answer.
        reset: resets the connection (RST) without an answer; after ``truncate`` bytes of the body where both are given.
        flood: sends so many zero bytes after the body and states no length.
        times: how many requests it spoils; after them the address is well. None spoils all.
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
    """One request as it arrived."""

    path: str
    headers: Mapping[str, str]
    status: int


class ToyAtlas:
    """A server on 127.0.0.1 that runs while the ``with`` block does; pages and images may be added meanwhile.

    Args:
        pages: XML by Ensembl id.
        images: bytes by path (``/images/373/1_A_1_2.jpg``).
        faults: by path.
        port: 0 takes a free one. Give a fixed one where the pages name the server and must be the same bytes next time.

    Attributes:
        pages: as given; may be changed while it runs.
        images: likewise.
        faults: likewise.
        requests: every request, in order of arrival.
        flooded: bytes sent by :attr:`Fault.flood`.
        most_at_once: the most requests it has answered at the same time.
    """

    def __init__(
        self,
        pages: Mapping[str, bytes] | None = None,
        images: Mapping[str, bytes] | None = None,
        *,
        faults: Mapping[str, Fault] | None = None,
        port: int = 0,
    ) -> None:
        self.pages = dict(pages or {})
        self.images = dict(images or {})
        self.faults = dict(faults or {})
        self.requests: list[Seen] = []
        self.flooded = 0
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._server = _Server(("127.0.0.1", port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> ToyAtlas:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def count(self, path: str) -> int:
        """How many requests for ``path`` have arrived."""
        return sum(seen.path == path for seen in self.requests)

    def _body(self, path: str) -> tuple[bytes, str] | None:
        if path.endswith(".xml") and path[1:-4] in self.pages:
            return self.pages[path[1:-4]], "text/xml; charset=utf-8"
        image = self.images.get(path, self.images.get(path.lstrip("/")))
        return (image, "image/jpeg") if image is not None else None

    def _take_fault(self, path: str) -> Fault | None:
        with self._lock:
            fault = self.faults.get(path)
            if fault is None or fault.times is None:
                return fault
            if fault.times <= 0:
                return None
            self.faults[path] = Fault(**{**fault.__dict__, "times": fault.times - 1})
            return fault

    def _began(self) -> None:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)

    def _ended(self) -> None:
        with self._lock:
            self._at_once -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The next demo may want the same port at once.
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], atlas: ToyAtlas) -> None:
        self.atlas = atlas
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none of the server's business."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class calls it so)
        """Says nothing."""

    def do_GET(self) -> None:
        """Answers one request."""
        atlas = self.server.atlas
        atlas._began()
        try:
            self._respond(atlas)
        finally:
            atlas._ended()

    def _respond(self, atlas: ToyAtlas) -> None:
        path = self.path.split("?")[0]
        fault = atlas._take_fault(path) or Fault()
        if fault.delay_s:
            atlas._stopping.wait(fault.delay_s)
        if fault.close or fault.drip_headers_s or (fault.reset and fault.truncate is None):
            atlas.requests.append(Seen(path, dict(self.headers), 0))
            self.close_connection = True
            if fault.reset:
                self._reset()
            if fault.drip_headers_s:
                self._drip(
                    itertools.chain(b"HTTP/1.1 200 OK\r\nX-Slow: ", itertools.repeat(ord("x"))), fault.drip_headers_s
                )
            return
        found = atlas._body(path)
        status, body, kind = 200, b"", "text/plain"
        if fault.redirect is not None:
            status = 302
        elif fault.html:
            body, kind = _HTML, "text/html; charset=utf-8"
        elif fault.status != 200:
            status, body = fault.status, b"no"
        elif found is None and fault.body is None:
            status, body = 404, b"not found"
        else:
            body, kind = found or (b"", "application/octet-stream")
            body = fault.body if fault.body is not None else body
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if status == 200 and self.headers.get("If-None-Match") == etag:
            status, body = 304, b""
        atlas.requests.append(Seen(path, dict(self.headers), status))
        if fault.cut is not None:
            body = body[: fault.cut]
        self.send_response(status)
        named = {name.lower() for name, _ in fault.headers}
        for name, value in (
            *fault.headers,
            ("Content-Type", kind),
            *((("Content-Length", str(len(body))),) if not fault.flood else (("Connection", "close"),)),
            *((("ETag", etag),) if status in (200, 304) else ()),
            *((("Location", fault.redirect),) if fault.redirect is not None else ()),
        ):
            if (name, value) in fault.headers or name.lower() not in named:
                self.send_header(name, value)
        self.end_headers()
        if fault.drip_s:
            self._drip(body, fault.drip_s)
            return
        self.wfile.write(body if fault.truncate is None else body[: fault.truncate])
        for _ in range(fault.flood >> 16):
            self.wfile.write(bytes(1 << 16))
            atlas.flooded += 1 << 16
        if fault.reset:
            self._reset()
        self.close_connection = fault.truncate is not None or self.close_connection

    def _drip(self, data: Iterable[int], wait_s: float) -> None:
        for byte in data:
            if self.server.atlas._stopping.wait(wait_s):
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    def _reset(self) -> None:
        """Closes at once and throws away what was not sent: the other side sees a reset."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
