"""A mock HPA server on this machine: gene pages and images in the layout of the Human Protein Atlas, for the demo.

It serves gene pages at ``/<ensembl id>.xml`` and images at ``/images/<folder>/<stem>.jpg`` or ``.tif``, with ETags, and
the rest of a file after an interruption.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class MockHpaServer:
    """A server on 127.0.0.1 that runs during its ``with`` block.

    Args:
        pages: XML by Ensembl id.
        images: bytes by path (``/images/373/1_A_1_2.jpg``).
        port: port to listen on; 0 uses a free one. Pages contain it, so give a fixed port if their bytes must not
            change.
        handler: class that answers requests.

    Attributes:
        pages: as given; may be changed while the server runs.
        images: as given; may be changed while the server runs.
    """

    def __init__(
        self,
        pages: Mapping[str, bytes] | None = None,
        images: Mapping[str, bytes] | None = None,
        *,
        port: int = 0,
        handler: type[MockHpaHandler] | None = None,
    ) -> None:
        self.pages = dict(pages or {})
        self.images = dict(images or {})
        self.stopping = threading.Event()
        self._server = _Server(("127.0.0.1", port), handler or MockHpaHandler)
        self._server.mock = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Address of the server, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def content(self, path: str) -> tuple[bytes, str] | None:
        """Body and content type of the file at ``path``; None if there is none."""
        if path.endswith(".xml") and path[1:-4] in self.pages:
            return self.pages[path[1:-4]], "text/xml; charset=utf-8"
        image = self.images.get(path, self.images.get(path.lstrip("/")))
        kind = "image/tiff" if path.endswith(".tif") else "image/jpeg"
        return (image, kind) if image is not None else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The next demo may need the same port at once.
    allow_reuse_address = True
    mock: Any

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that close the connection."""


class MockHpaHandler(BaseHTTPRequestHandler):
    """Answers one request with a page, an image, 304 or 404."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class calls it so)
        """Logs nothing."""

    def do_GET(self) -> None:
        """Answers a GET request."""
        found = self.server.mock.content(self.path.split("?")[0])
        status, body, headers = (
            self.answer_with(*found) if found else (404, b"not found", {"Content-Type": "text/plain"})
        )
        self.send_all(status, headers | {"Content-Length": str(len(body))})
        self.wfile.write(body)

    def answer_with(self, body: bytes, kind: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers for a file: all of it, its rest after an interruption (206), or 304."""
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        headers = {"Content-Type": kind, "ETag": etag}
        if self.headers.get("If-None-Match") == etag:
            return 304, b"", headers
        asked = self.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
        if self.headers.get("If-Range") == etag and asked.isdecimal() and 0 < int(asked) < len(body):
            headers["Content-Range"] = f"bytes {asked}-{len(body) - 1}/{len(body)}"
            return 206, body[int(asked) :], headers
        return 200, body, headers

    def send_all(self, status: int, headers: Mapping[str, str]) -> None:
        """Sends the status line and all headers."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
