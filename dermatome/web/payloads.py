"""ASGI middleware in front of Gradio: which of Gradio's routes are open, and what a request may contain.

Gradio accepts the path of a file in any JSON, at any depth and for any component. This guard accepts a path only where
a page sends one: for a file component, and only if the file is in the app's own upload folder.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dermatome.web.guard import Refusal, refuse
from dermatome.web.quota import Browsers, UploadQuota

API = "/gradio_api"
JOIN = f"{API}/queue/join"
EVENTS = f"{API}/queue/data"
UPLOAD = f"{API}/upload"
FILE = f"{API}/file="
MAX_JSON_BYTES = 4 << 20
_REMEMBERED = 64

_GET = {
    "/config", "/favicon.ico", "/robots.txt", "/theme.css",
    *(f"{API}/{name}" for name in ("app_id", "info", "queue/status", "startup-events", "upload_progress")), EVENTS,
}  # fmt: skip
_GET_BELOW = ("/assets/", "/static/", f"{API}/heartbeat/", FILE)
_POST = {JOIN, UPLOAD, *(f"{API}/{name}" for name in ("cancel", "reset"))}
_POST_BELOW = (f"{API}/run/",)  # only functions without a queue: Stop
_FILE_KEYS = {"path", "url", "orig_name", "size", "mime_type", "is_stream", "meta"}
_META = {"_type": "gradio.FileData"}


def _finite(text: str) -> float:
    """Parses a JSON number, which can be neither NaN nor infinite.

    Raises:
        ValueError: it is one of these, or too large for a float.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


@dataclass
class PayloadGuard:
    """Passes on only requests for open routes whose body is within its limit and names no files but uploads.

    Attributes:
        app: ASGI application that Gradio is mounted in.
        pages: paths that are open besides Gradio's own.
        below: prefixes of further open paths.
        posts: paths besides Gradio's own that accept JSON.
        file_inputs: positions of the file components of each of Gradio's functions, by its index.
        max_upload_bytes: size limit of the body of an upload, bytes.
        browsers: identifies the browser that sends a request.
        quota: quotas of uploads, in Gradio's upload folder.
    """

    app: ASGIApp
    pages: frozenset[str]
    below: tuple[str, ...]
    posts: frozenset[str]
    file_inputs: Mapping[int, frozenset[int]]
    max_upload_bytes: int
    browsers: Browsers
    quota: UploadQuota
    _refused: OrderedDict[str, str] = field(default_factory=OrderedDict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection, as ASGI defines it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refusal = self._refused_route(scope)
        if refusal is None and scope["path"] == UPLOAD:
            await self._upload(scope, receive, send)
            return
        if refusal is None and scope["method"] == "POST":
            body = await _read_body(scope, receive)
            if isinstance(body, bytes):
                refusal = self._refused_body(scope["path"], body)
                receive = _replay(body, receive)
            else:
                refusal = body
        earlier = self._refused_join(scope)
        if refusal is not None:
            await refuse(scope, receive, send, refusal)
        elif earlier is not None:
            event = {"msg": "process_completed", "event_id": None, "success": False, "output": {"error": earlier}}
            response = Response(f"data: {json.dumps(event)}\n\n", media_type="text/event-stream")
            await response(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal, size = _too_large(scope, self.max_upload_bytes), 0
        if refusal is None:
            size = int(Headers(scope=scope)["content-length"])
            reason = await asyncio.to_thread(self.quota.admit, self.browsers.of(scope), size)
            refusal = Refusal(429, reason) if reason else None
        if refusal is not None:  # as plain text, which the page displays
            await PlainTextResponse(refusal.reason, refusal.status)(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        finally:
            self.quota.release(size)

    def _refused_route(self, scope: Scope) -> Refusal | None:
        if scope["type"] != "http":
            return Refusal(404, "The web app has no WebSocket.")
        path = scope["path"]
        if scope["method"] in ("GET", "HEAD"):
            known = path in self.pages or path in _GET or path.startswith((*_GET_BELOW, *self.below))
            if path.startswith(FILE) and not is_file_in(self.quota.folder, path.removeprefix(FILE)):
                return Refusal(403, "The web app has no such file: upload it again, or compute the result again.")
        else:
            known = scope["method"] == "POST" and (path in _POST | self.posts or path.startswith(_POST_BELOW))
        return None if known else Refusal(404, "The web app has no such address: open the first page.")

    def _refused_body(self, path: str, body: bytes) -> Refusal | None:
        try:
            sent = json.loads(body, parse_float=_finite, parse_constant=_finite)
        except (ValueError, RecursionError):
            return Refusal(400, "The request is not JSON: reload the page.")
        if not isinstance(sent, dict):
            return Refusal(400, "The request is not a JSON object: reload the page.")
        rest = dict(sent)
        data = rest.pop("data", None)
        index = sent.get("fn_index")
        # Gradio also accepts "1" and true as numbers, but pages never send these.
        expected = self.file_inputs.get(index) if path == JOIN and type(index) is int else None
        if expected and isinstance(data, list):
            others = [value for place, value in enumerate(data) if place not in expected]
            files = [value for place, value in enumerate(data) if place in expected]
        else:
            others, files = [data], []
        refusal = None
        if names_file([rest, *others]) or not all(self._is_upload(value) for value in files):
            refusal = Refusal(
                403, "The request names a file that is not among the uploads, kept for an hour: upload the file again."
            )
        if path == JOIN:
            self._remember(str(sent.get("session_hash")), refusal)
        return refusal

    def _remember(self, session: str, refusal: Refusal | None) -> None:
        """Stores why the last request of a session was refused, for clients that wait for the session's events."""
        self._refused.pop(session, None)
        if refusal is not None and len(session) <= _REMEMBERED:
            self._refused[session] = refusal.reason
            if len(self._refused) > _REMEMBERED:
                self._refused.popitem(last=False)

    def _refused_join(self, scope: Scope) -> str | None:
        """Why the session whose events are requested had its last request refused; None if it had not."""
        if scope["path"] != EVENTS or not self._refused:
            return None
        return self._refused.pop(QueryParams(scope["query_string"]).get("session_hash", ""), None)

    def _is_upload(self, value: Any) -> bool:
        """Whether a file component's value is empty or names only uploaded files."""
        if isinstance(value, list):
            return all(isinstance(item, dict) and self._is_upload(item) for item in value)
        if not isinstance(value, dict):
            return value is None
        rest = {key: item for key, item in value.items() if key not in ("path", "url", "meta")}
        url = value.get("url")
        return (
            value.keys() <= _FILE_KEYS
            and value.get("meta") == _META
            and not any(isinstance(item, dict | list) for item in rest.values())
            and not value.get("is_stream")
            and (url is None or (isinstance(url, str) and FILE in url))
            and isinstance(value.get("path"), str)
            and is_file_in(self.quota.folder, value["path"])
        )


def names_file(value: Any) -> bool:
    """Whether a value contains, at any depth, a JSON object that Gradio could take for a file."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            if not item.keys().isdisjoint(("path", "url", "_type")):
                return True
            waiting += item.values()
    return False


def is_file_in(folder: Path, path: str) -> bool:
    """Whether a path, with links and ``..`` resolved, is that of a file in a folder."""
    try:
        found = Path(path).resolve(strict=True)
        return found.is_file() and found.is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):
        return False


def _too_large(scope: Scope, limit: int) -> Refusal | None:
    """Refuses a request whose length is not stated or is over the limit."""
    stated = Headers(scope=scope).get("content-length", "")
    if not (stated.isascii() and stated.isdecimal()):
        return Refusal(411, "The request does not state its length: send it with a Content-Length header.")
    if int(stated) > limit:
        return Refusal(413, f"The request is over the limit of {limit / (1 << 20):.0f} MB: send less.")
    return None


async def _read_body(scope: Scope, receive: Receive) -> bytes | Refusal:
    """Reads a request's body; at most :data:`MAX_JSON_BYTES` are held in memory."""
    if "content-length" in Headers(scope=scope) and (refusal := _too_large(scope, MAX_JSON_BYTES)):
        return refusal
    body = bytearray()
    try:
        async for part in Request(scope, receive).stream():
            body += part
            if len(body) > MAX_JSON_BYTES:
                return Refusal(413, f"The request is over the limit of {MAX_JSON_BYTES >> 20} MB: send less.")
    except ClientDisconnect:
        return Refusal(400, "The request ended before its body was complete: send it again.")
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that returns a body that was already read, then further messages."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
