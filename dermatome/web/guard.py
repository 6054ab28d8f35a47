"""ASGI middleware that refuses requests of unknown hosts and of other sites, before a server without a login sees them.

Any web page can make a browser send requests to a server on 127.0.0.1. Two headers that the page cannot change reveal
such requests: ``Host`` (against DNS rebinding) and ``Origin`` or ``Sec-Fetch-Site`` (against cross-site requests). The
web app and Dagster's web server use the same guard, so it imports neither Gradio nor Dagster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_POLICY_VIOLATION = 1008


class Refusal(NamedTuple):
    """Why a request is refused: the HTTP status, and one sentence for the sender."""

    status: int
    reason: str


Check = Callable[[Scope], Refusal | None]


class SiteGuard:
    """Passes on only requests that name a trusted host and come from the server's own pages or from no page.

    A link on another site may open a page, as the browser then shows it and does not give its content to that site.

    Args:
        app: ASGI application to protect.
        hosts: host names and addresses that are trusted besides the loopback addresses.
        check: further check of each HTTP request and WebSocket; None for no further check.
        framed: whether a page may also be opened in a frame; a header tells the browser which sites may do so.
    """

    def __init__(
        self, app: ASGIApp, hosts: Iterable[str] = (), check: Check | None = None, *, framed: bool = False
    ) -> None:
        self._app = app
        self._shown = ("document", "iframe") if framed else ("document",)
        self._hosts = frozenset(LOOPBACK) | {_bracketed(host) for host in hosts}
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection, as ASGI defines it."""
        refusal = None
        if scope["type"] in ("http", "websocket"):
            refusal = refused_site(scope, self._hosts, self._shown) or (self._check and self._check(scope))
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await refuse(scope, receive, send, refusal)


def refused_site(scope: Scope, hosts: Iterable[str], shown: Iterable[str] = ("document",)) -> Refusal | None:
    """Checks the host that a request names and the site that it comes from.

    ``hosts`` are in lower case, IPv6 addresses in brackets; ``shown`` lists the values of ``Sec-Fetch-Dest`` with which
    a link on another site may open a page.
    """
    headers = Headers(scope=scope)
    named = headers.getlist("host")
    host = named[0].lower() if len(named) == 1 else ""
    if _name_of(host) not in hosts:
        return Refusal(403, "This server does not answer to the host name of this request: start it with --allow-host.")
    site = headers.getlist("sec-fetch-site")
    if any(value not in ("same-origin", "none") for value in site) and not _opens_page(scope, shown):
        return Refusal(403, "This request comes from another web site, which this server refuses: open its own page.")
    for origin in headers.getlist("origin"):
        if _netloc_of(origin) != host:
            return Refusal(403, "This request comes from another origin, which this server refuses: open its own page.")
    return None


async def refuse(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    """Answers an HTTP request with the reason as JSON, or closes a WebSocket before it is accepted."""
    if scope["type"] == "websocket":
        await WebSocketClose(_POLICY_VIOLATION, refusal.reason)(scope, receive, send)
    else:
        answer = JSONResponse({"detail": refusal.reason}, refusal.status, {"x-content-type-options": "nosniff"})
        await answer(scope, receive, send)


def _opens_page(scope: Scope, shown: Iterable[str]) -> bool:
    """Whether a browser shows the response as a page, in one of the places ``shown``, and hides it from scripts."""
    headers = Headers(scope=scope)
    return (
        scope["type"] == "http"
        and scope["method"] in ("GET", "HEAD")
        and headers.getlist("sec-fetch-mode") == ["navigate"]
        and headers.getlist("sec-fetch-dest") in [[place] for place in shown]
    )


def _name_of(host: str) -> str:
    """Host name of a ``Host`` header, without the port."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]


def _netloc_of(origin: str) -> str:
    """Host name and port of an ``Origin`` header; empty for ``null`` and other values that are not origins."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _bracketed(host: str) -> str:
    """Host name as in a ``Host`` header: IPv6 addresses in brackets."""
    host = host.strip().lower()
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
