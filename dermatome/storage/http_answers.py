"""What a host's answer must be before a byte of it is kept."""

from __future__ import annotations

from typing import Literal

import requests

from dermatome.errors import FetchFailed
from dermatome.storage.http_retry import Again, retry_after_s

Kind = Literal["page", "image"]


class NotThere(FetchFailed):
    """The host says that there is nothing at this address (404 or 410)."""


def check_status(response: requests.Response, url: str) -> None:
    """Lets status 200 pass.

    Raises:
        NotThere: 404 or 410.
        Again: what may pass: 408, 425, 429, 5xx.
        FetchFailed: any other.
    """
    status = response.status_code
    if status == 200:
        return
    if status in (404, 410):
        raise NotThere(f"{url} is not there ({status}): check the address, or leave it out.")
    if status in (408, 425, 429) or status >= 500:
        raise Again(f"the host answered {status}", retry_after_s(response.headers.get("Retry-After")))
    raise FetchFailed(
        f"{url}: the host answered {status} ({response.reason}); check the address and your access to it."
    )


def check_type(content_type: str | None, kind: Kind, url: str) -> None:
    """Refuses HTML, and for an image all that says it is none.

    Raises:
        FetchFailed: it does.
    """
    kind_found = (content_type or "").split(";")[0].strip().lower()
    if kind_found in ("text/html", "application/xhtml+xml"):
        raise FetchFailed(_is_html(url))
    if kind == "image" and not kind_found.startswith(("image/", "application/octet-stream", "binary/")) and kind_found:
        raise FetchFailed(f"{url} is {kind_found}, not an image: check the address.")


def check_start(data: bytes, url: str) -> None:
    """Refuses HTML that says it is something else.

    Args:
        data: the first bytes of the answer.
        url: for the message.

    Raises:
        FetchFailed: it is HTML.
    """
    start = data[:256].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise FetchFailed(_is_html(url))


def _is_html(url: str) -> str:
    return f"{url} is a web page (HTML), not what was asked for: check the address, and that no login page is between."
