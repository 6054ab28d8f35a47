"""One HTTP client for every download: allowed hosts only, bounded time and size, retries, and checked responses.

A file appears complete and checked, or not at all. Every failure is reported in one sentence.
"""

from __future__ import annotations

import hashlib
import http.cookiejar
import ipaddress
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Annotated, Any, Literal, Self
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
import urllib3
from pydantic import Field

import dermatome
from dermatome.errors import BadSetting, FetchFailed
from dermatome.storage.files import atomic_file, sha256_file
from dermatome.storage.settings_model import Effect, SettingsModel

Kind = Literal["page", "image", "file"]

_ACCEPT = {"page": "application/xml, text/xml;q=0.9", "image": "image/jpeg, image/*;q=0.8", "file": "*/*"}
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_CHUNK_BYTES = 1 << 16
NO_VALIDATORS: Mapping[str, str] = MappingProxyType({})
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Header in which Hugging Face states the sha256 of a large file, in the response that redirects to the file.
_STATED_SHA256 = "X-Linked-Etag"


class NotThere(FetchFailed):
    """The host reports that there is nothing at this address (404 or 410)."""


class _Retryable(Exception):
    """A failure that may pass, and how long the host asks to wait before the next try, s."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class _Current(Exception):
    """The existing file is current."""

    def __init__(self, fetched: Fetched) -> None:
        super().__init__()
        self.fetched = fetched


class _Part:
    """The bytes received so far of the file at ``path``, over all tries."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self._file = path, file
        self.size, self.digest, self._etag = 0, hashlib.sha256(), ""

    def resuming(self, kind: Kind) -> dict[str, str]:
        """Headers that request the rest if the file has not changed since; compressed pages are not resumed."""
        if not self.size or not self._etag or kind == "page":
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self._etag}

    def continues_with(self, answer: requests.Response) -> bool:
        """Whether a response is the rest of the file. If not, the file comes anew, and the bytes so far are dropped."""
        begins = answer.headers.get("Content-Range", "").strip().startswith(f"bytes {self.size}-")
        if answer.status_code == 206 and self.size and begins:
            return True
        self._file.seek(0)
        self._file.truncate()
        # Equal weak ETags do not guarantee equal bytes.
        etag = answer.headers.get("ETag", "")
        self.size, self.digest, self._etag = 0, hashlib.sha256(), "" if etag.startswith("W/") else etag
        return False

    def add(self, chunk: bytes) -> None:
        """Adds bytes to the end."""
        self._file.write(chunk)
        self.digest.update(chunk)
        self.size += len(chunk)


class HttpLimits(SettingsModel):
    """Time limits, retries and the number of parallel requests of a client.

    Attributes:
        connect_timeout_s: Time limit for connecting to the host, s.
        timeout_s: Longest time without a byte of the response, s.
        total_timeout_s: Time limit for one complete response, s.
        retries: Tries after the first one, for failures that may pass: 408, 425, 429, 5xx, timeouts, broken
            connections, incomplete responses.
        backoff_s: Wait before the first retry, s; it doubles with each retry, with jitter.
        max_wait_s: Longest wait before a retry, s, even if the host asks for more (Retry-After).
        at_once: Number of parallel requests, over all threads.
        user_agent: The `User-Agent` header.
    """

    connect_timeout_s: Annotated[float, Effect.SPEED] = Field(default=10.0, ge=0.01, le=600)
    timeout_s: Annotated[float, Effect.SPEED] = Field(default=60.0, ge=0.01, le=3600)
    total_timeout_s: Annotated[float, Effect.SPEED] = Field(default=600.0, ge=0.01, le=86_400)
    retries: Annotated[int, Effect.SPEED] = Field(default=4, ge=0, le=20)
    backoff_s: Annotated[float, Effect.SPEED] = Field(default=1.0, ge=0, le=600)
    max_wait_s: Annotated[float, Effect.SPEED] = Field(default=120.0, ge=0, le=3600)
    at_once: Annotated[int, Effect.SPEED] = Field(default=4, ge=1, le=16)
    user_agent: Annotated[str, Effect.LOOKS] = f"dermatome/{dermatome.__version__} (research software)"


@dataclass(frozen=True)
class Fetched:
    """A file that was fetched, or an existing one that is still current.

    Attributes:
        path: Path of the file.
        url: Final address, after redirects.
        status: 200, or 304 if the file at ``path`` was current.
        bytes: Size of the file.
        sha256: sha256 of the file, hexadecimal.
        validators: Headers of a request for the same address that is answered only if the file there has changed.
        changed: Whether the file differs from the one that was at ``path`` before.
        sha256_stated: Whether the host stated the sha256 itself.
    """

    path: Path
    url: str
    status: int
    bytes: int
    sha256: str
    validators: dict[str, str]
    changed: bool
    sha256_stated: bool = False


class HttpClient:
    """Fetches files; many threads may share one client.

    Args:
        hosts: Allowed hosts: exact hosts, ``host:port``, or ``.domain`` for a domain and all its subdomains. Hosts of
            this machine may be accessed without TLS and at any port, others only over TLS and at the standard port.
        limits: See :class:`HttpLimits`.
        remedy: What the user can do instead, as the end of every message about a failure.
        sleep: Replaces `time.sleep` in tests.

    Raises:
        BadSetting: ``hosts`` is empty, or an entry is not a host.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        limits: HttpLimits | None = None,
        *,
        remedy: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.limits = limits or HttpLimits()
        self._hosts = AllowedHosts(hosts, remedy)
        self._remedy = remedy
        self._sleep = sleep
        self._places = threading.BoundedSemaphore(self.limits.at_once)
        # Proxies of the environment are used, except for this machine's own servers.
        self._sessions = {loopback: _session(self.limits, trust_env=not loopback) for loopback in (True, False)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all connections."""
        for session in self._sessions.values():
            session.close()

    def base(self, url: str) -> str:
        """Returns an address from the settings without a trailing slash.

        Raises:
            BadSetting: It is not an address of an allowed host.
        """
        try:
            return self._hosts.checked(url.rstrip("/"))
        except FetchFailed as error:
            raise BadSetting(f"The address {url!r} in the settings cannot be used: {error}") from error

    def fetch(
        self, url: str, path: Path, *, kind: Kind, max_bytes: int, validators: Mapping[str, str] = NO_VALIDATORS
    ) -> Fetched:
        """Fetches ``url`` to ``path``; the file appears complete, or the old one stays.

        If the host states a sha256 (Hugging Face's ``X-Linked-Etag``), the bytes must have it. A retry resumes an
        interrupted image or file if the host gives an ETag and supports ranges (RFC 9110, 14).

        Args:
            url: Address on an allowed host; ``http://`` is changed to ``https://`` for other machines.
            path: Path of the file.
            kind: Kind of content that is expected. HTML is never accepted.
            max_bytes: A larger file is refused.
            validators: Of the file at ``path``, from an earlier :class:`Fetched`; ignored if there is no file.

        Raises:
            NotThere: The host reports 404 or 410; this is not retried.
            FetchFailed: The address is not allowed, the host refuses, or the response is of another type, too large,
                has another sha256 than stated, or did not arrive in any of the tries.
            StorageFailed: The disk is full or not writable.
        """
        address = self._hosts.checked(url)
        headers = dict(validators) if path.is_file() else {}
        try:
            with atomic_file(path) as file:
                part = _Part(path, file)
                return self._in_tries(url, lambda: self._try(address, part, kind, max_bytes, headers))
        except _Current as current:
            return current.fetched

    def _in_tries(self, url: str, fetch: Callable[[], Fetched]) -> Fetched:
        tries = self.limits.retries + 1
        for attempt in range(tries):
            try:
                with self._places:
                    return fetch()
            except _Retryable as failure:
                if attempt + 1 == tries:
                    text = f"{_shown(url)} did not arrive in {tries} {'tries' if tries > 1 else 'try'} ({failure})"
                    raise self._failed(text, "check the network, and run this again later") from failure
                wait = self.limits.backoff_s * 2.0**attempt * random.uniform(0.5, 1.5)
                wait = min(max(wait, failure.retry_after_s or 0.0), self.limits.max_wait_s)
            self._sleep(wait)
        raise AssertionError("unreachable")

    def _failed(
        self, text: str, remedy: str = "check the address", kind: type[FetchFailed] = FetchFailed
    ) -> FetchFailed:
        return kind(f"{text}: {self._remedy or remedy}.")

    def _try(self, asked: str, part: _Part, kind: Kind, max_bytes: int, headers: dict[str, str]) -> Fetched:
        """Makes one try, following redirects."""
        shown = _shown(asked)
        ends = time.monotonic() + self.limits.total_timeout_s
        url, stated = asked, ""
        for _ in range(_MAX_REDIRECTS + 1):
            with self._get(url, kind, headers | part.resuming(kind)) as answer:
                if urlsplit(url).netloc == urlsplit(asked).netloc:
                    stated = _stated_sha256(answer) or stated
                if answer.status_code in _REDIRECTS and "Location" in answer.headers:
                    url = self._hosts.checked(urljoin(url, answer.headers["Location"]), came_from=url)
                    continue
                if answer.status_code == 304 and headers:
                    size, sha256 = part.path.stat().st_size, sha256_file(part.path)
                    raise _Current(Fetched(part.path, url, 304, size, sha256, headers | _validators(answer), False))
                if not part.continues_with(answer):
                    self._check_status(answer, shown)
                self._check_type(answer, kind, shown)
                before = sha256_file(part.path) if part.path.is_file() else None
                self._receive(answer, part, url, max_bytes, ends)
                sha256 = part.digest.hexdigest()
                if stated and sha256 != stated:
                    text = f"{_shown(url)} has the sha256 {sha256[:12]}…, but the host stated {stated[:12]}…"
                    raise self._failed(f"{text}, so it is not kept")
                found = _validators(answer)
                return Fetched(part.path, url, 200, part.size, sha256, found, sha256 != before, bool(stated))
        raise self._failed(f"{shown} redirects more than {_MAX_REDIRECTS} times")

    def _get(self, url: str, kind: Kind, headers: dict[str, str]) -> requests.Response:
        session = self._sessions[_is_loopback(urlsplit(url).hostname or "")]
        # Images and weights hardly compress, and an uncompressed length can be checked.
        sent = headers | {"Accept": _ACCEPT[kind], "Accept-Encoding": "gzip" if kind == "page" else "identity"}
        timeout = (self.limits.connect_timeout_s, self.limits.timeout_s)
        try:
            return session.get(url, headers=sent, timeout=timeout, allow_redirects=False, stream=True)
        except requests.exceptions.SSLError as error:
            text = f"{_shown(url)}: the host's certificate cannot be trusted ({_reason(error)})"
            raise self._failed(text, "check the network") from error
        except requests.Timeout as error:
            raise _Retryable(f"no answer in {self.limits.timeout_s:g} s") from error
        except requests.ConnectionError as error:
            raise _Retryable(f"no connection: {_reason(error)}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError) as error:
            raise self._failed(f"{_shown(url)} could not be fetched ({_reason(error)})") from error

    def _check_status(self, answer: requests.Response, url: str) -> None:
        status = answer.status_code
        if status == 200:
            return
        if status in (404, 410):
            raise self._failed(f"{url} is not there ({status})", "check the address, or leave it out", NotThere)
        if status in (408, 425, 429) or status >= 500:
            raise _Retryable(f"the host answered {status}", _retry_after_s(answer.headers.get("Retry-After")))
        text = f"{url}: the host answered {status} ({answer.reason})"
        raise self._failed(text, "check the address and your access to it")

    def _check_type(self, answer: requests.Response, kind: Kind, url: str) -> None:
        found = answer.headers.get("Content-Type", "").split(";")[0].strip().lower()
        if found in ("text/html", "application/xhtml+xml"):
            raise self._html(url)
        if kind == "image" and found and not found.startswith(("image/", "application/octet-stream", "binary/")):
            raise self._failed(f"{url} is {found}, not an image")

    def _html(self, url: str) -> FetchFailed:
        remedy = "check the address; the host may require a login"
        return self._failed(f"{url} is a web page (HTML), not the requested file", remedy)

    def _receive(self, answer: requests.Response, part: _Part, url: str, max_bytes: int, ends: float) -> None:
        """Appends the body of the response to ``part``."""
        url = _shown(url)
        too_large = f"{url} is larger than the limit of {max_bytes} bytes"
        declared = answer.headers.get("Content-Length", "")
        if declared.isdecimal() and part.size + int(declared) > max_bytes:
            raise self._failed(too_large, "check the address, or raise the limit in the settings")
        raw: Any = answer.raw
        try:
            # read1 returns as soon as a packet has arrived, so a host that sends slowly cannot exceed the time limit.
            while chunk := raw.read1(_CHUNK_BYTES, decode_content=True):
                if part.size == 0 and chunk[:256].lstrip().lower().startswith((b"<!doctype html", b"<html")):
                    raise self._html(url)
                if part.size + len(chunk) > max_bytes:
                    raise self._failed(too_large, "check the address, or raise the limit in the settings")
                if time.monotonic() > ends:
                    raise _Retryable(f"not complete after {self.limits.total_timeout_s:g} s")
                part.add(chunk)
        except urllib3.exceptions.HTTPError as error:
            raise _Retryable(f"the answer broke off after {part.size} bytes: {_reason(error)}") from error
        if declared.isdecimal() and raw.tell() != int(declared):
            raise _Retryable(f"{raw.tell()} of {declared} bytes arrived")
        if part.size == 0:
            raise _Retryable("the answer is empty")


def download(url: str, path: Path, *, hosts: Sequence[str], max_bytes: int, by_hand: str) -> Fetched:
    """Fetches one large file in one try of at most half an hour; see :meth:`HttpClient.fetch`.

    ``by_hand`` tells the user what to do without it, as the end of a sentence.
    """
    limits = HttpLimits(retries=0, total_timeout_s=1800.0)
    with HttpClient(hosts, limits, remedy=by_hand) as client:
        return client.fetch(url, path, kind="file", max_bytes=max_bytes)


def _stated_sha256(answer: requests.Response) -> str:
    found: str = answer.headers.get(_STATED_SHA256, "").strip('"')
    return found if _SHA256.fullmatch(found) else ""


def _validators(answer: requests.Response) -> dict[str, str]:
    """See :class:`Fetched`."""
    headers = {"If-None-Match": "ETag", "If-Modified-Since": "Last-Modified"}
    return {name: answer.headers[stated] for name, stated in headers.items() if stated in answer.headers}


def _retry_after_s(header: str | None) -> float | None:
    """Seconds that a ``Retry-After`` header requests, as a number or a date (RFC 9110, 10.2.3)."""
    try:
        return urllib3.Retry().parse_retry_after(header or "")
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return None


def _reason(error: BaseException) -> str:
    """The innermost cause in short, as urllib3 wraps it several times."""
    while error.args and isinstance(error.args[-1], BaseException):
        error = error.args[-1]
    text = str(getattr(error, "reason", None) or error)[:200] or type(error).__name__
    return " ".join(text.split())


def _shown(url: str) -> str:
    """An address for messages: without its query, which may hold a signature."""
    return url.split("?")[0][:200]


class AllowedHosts:
    """Checks addresses; see :class:`HttpClient` for the arguments."""

    def __init__(self, hosts: Sequence[str], remedy: str | None = None) -> None:
        self._remedy = remedy or "add it to allowed_hosts in the settings if you trust it"
        self._hosts = tuple(host.strip().lower() for host in hosts)
        for host in self._hosts:
            if not host.strip(".") or re.search(r"[/@*\s]", host):
                raise BadSetting(f"allowed_hosts has {host!r}: give hosts such as 'www.proteinatlas.org' or '.org'.")
        if not self._hosts:
            raise BadSetting("allowed_hosts is empty: give at least one host.")

    def checked(self, url: str, *, came_from: str | None = None) -> str:
        """Returns ``url`` if it is allowed, with the scheme ``https`` unless it is on this machine.

        Pages of old releases name their images by ``http://`` addresses; HPA's hosts serve the same over TLS, so the
        scheme is changed and nothing is sent or accepted unencrypted.

        Raises:
            FetchFailed: It has another scheme, a host that is not allowed, a user name, or an unexpected port.
        """
        via = f" (where {_shown(came_from)} redirects to)" if came_from else ""
        shown = f"{_shown(url)!r}{via}"
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip(".").lower(), parts.port
        except ValueError as error:
            raise FetchFailed(f"{shown} is not an address ({error}): check where this address comes from.") from error
        if parts.scheme not in ("http", "https") or not host:
            raise FetchFailed(f"{shown} is not an http or https address: check where this address comes from.")
        if parts.username is not None or parts.password is not None or re.search(r"[\\\x00-\x20\x7f]", url):
            raise FetchFailed(
                f"{shown} contains a user name, blank or control character: check where this address comes from."
            )
        loopback = _is_loopback(host)
        standard = port in (None, 443 if parts.scheme == "https" else 80)
        by_port = port is not None and (f"{host}:{port}" in self._hosts or f"[{host}]:{port}" in self._hosts)
        by_name = host in self._hosts or any(h.startswith(".") and f".{host}".endswith(h) for h in self._hosts)
        if not (by_port or (by_name and (loopback or standard))):
            raise FetchFailed(f"{_shown(url)}{via} is at a host or port that is not allowed: {self._remedy}.")
        if loopback:
            if came_from is not None and not _is_loopback(urlsplit(came_from).hostname or ""):
                raise FetchFailed(f"{_shown(url)}{via} is on this machine itself: such a redirect is refused.")
        elif parts.scheme == "http":
            parts = parts._replace(scheme="https", netloc=host if port in (None, 80) else f"{host}:{port}")
        return urlunsplit(parts)


def _is_loopback(host: str) -> bool:
    """Whether ``host`` names this machine; decided by the name alone, without a lookup."""
    if host.lower() == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _session(limits: HttpLimits, *, trust_env: bool) -> requests.Session:
    session = requests.Session()
    session.headers["User-Agent"] = limits.user_agent
    session.trust_env = trust_env
    # Otherwise requests would send a password that it finds in a .netrc file.
    session.auth = lambda request: request
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("http://", "https://"):
        session.mount(scheme, _BoundedAdapter(limits))
    return session


class _BoundedAdapter(requests.adapters.HTTPAdapter):
    """Closes a connection if the headers of a response are not complete within the total time limit.

    The time limit of a socket starts again with every byte, so a host that sends one header byte at a time would block
    a thread for ever; requests and urllib3 have no limit for all headers together.
    """

    def __init__(self, limits: HttpLimits) -> None:
        self._limit_s = limits.total_timeout_s
        super().__init__(pool_maxsize=limits.at_once)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        pools = self.poolmanager.pool_classes_by_scheme
        self.poolmanager.pool_classes_by_scheme = {
            scheme: type(pool.__name__, (pool,), {"ConnectionCls": _bounded(pool.ConnectionCls, self._limit_s)})
            for scheme, pool in pools.items()
        }


def _bounded(connection: Any, limit_s: float) -> Any:
    class Bounded(connection):  # type: ignore[misc]
        def __str__(self) -> str:  # error messages begin with it
            return str(self.host)

        def getresponse(self) -> Any:
            timer = threading.Timer(limit_s, _cut, [self.sock])
            timer.daemon = True
            timer.start()
            try:
                return super().getresponse()
            finally:
                timer.cancel()

    return Bounded


def _cut(sock: Any) -> None:
    with suppress(OSError):  # it is closed already
        # The method of the plain socket: that of a TLS socket would change it while another thread reads.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
