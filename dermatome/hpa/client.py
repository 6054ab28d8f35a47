"""A polite client of the Human Protein Atlas: few requests at once, patient, and trusting nothing that arrives."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin

import requests
import urllib3

from dermatome.errors import FetchFailed
from dermatome.hpa.genes import ENSEMBL_GENE
from dermatome.hpa.settings import HpaSettings
from dermatome.storage.files import atomic_file, sha256_file
from dermatome.storage.http_addresses import Addresses, is_loopback_url
from dermatome.storage.http_answers import Kind, NotThere, check_start, check_status, check_type
from dermatome.storage.http_bounded import BoundedAdapter
from dermatome.storage.http_retry import Again, delay_s

__all__ = ["Fetched", "HpaClient", "HpaSettings", "Kind", "NotThere"]

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Fetched:
    """What arrived, or what was there already and is still current.

    Attributes:
        path: where it lies.
        url: where it came from in the end, after redirects and archives.
        status: 200, or 304 where the file on disk is current.
        bytes: size of the file.
        sha256: of the file.
        etag: to be given with the next request for it.
        last_modified: likewise.
        content_type: as the host says.
        changed: whether the file's bytes differ from those that were at ``path`` before.
    """

    path: Path
    url: str
    status: int
    bytes: int
    sha256: str
    etag: str | None
    last_modified: str | None
    content_type: str | None
    changed: bool


class HpaClient:
    """Fetches pages and images; one client may be used by many threads.

    Args:
        settings: see :class:`HpaSettings`.
        sleep: how to wait; tests give their own.

    Raises:
        BadSetting: an address in the settings is not one of an allowed host.
    """

    def __init__(self, settings: HpaSettings | None = None, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.settings = settings or HpaSettings()
        self._addresses = Addresses(self.settings.allowed_hosts)
        self._bases = [self._addresses.base(url) for url in (self.settings.base_url, *self.settings.archive_urls)]
        self._sleep = sleep
        self._places = threading.BoundedSemaphore(self.settings.at_once)
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._lock = threading.Lock()

    def __enter__(self) -> HpaClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections of every thread."""
        with self._lock:
            for session in self._sessions:
                session.close()
            self._sessions.clear()
            self._local = threading.local()

    @property
    def base_urls(self) -> tuple[str, ...]:
        """The site, then the archives, as they are asked."""
        return tuple(self._bases)

    def fetch_page(
        self, ensembl_id: str, path: Path, etag: str | None = None, last_modified: str | None = None
    ) -> Fetched:
        """Fetches a gene's XML page from the site, or from the first archive that still has the gene.

        Raises:
            FetchFailed: the id is none, no release has the gene, or see :meth:`fetch`.
        """
        if not ENSEMBL_GENE.fullmatch(ensembl_id):
            raise FetchFailed(
                f"{ensembl_id[:40]!r} is not an Ensembl gene id (ENSG and 11 digits): mend the gene list."
            )
        for base in self._bases:
            try:
                return self.fetch(f"{base}/{ensembl_id}.xml", path, kind="page", etag=etag, last_modified=last_modified)
            except NotThere:
                continue
        raise NotThere(
            f"The gene {ensembl_id} is unknown to the Human Protein Atlas (404 at {', '.join(self._bases)}): check the "
            "id, or leave the gene out."
        )

    def fetch(
        self,
        url: str,
        path: Path,
        *,
        kind: Kind,
        etag: str | None = None,
        last_modified: str | None = None,
    ) -> Fetched:
        """Fetches ``url`` to ``path``; the file appears whole or stays as it was.

        Args:
            url: of an allowed host. HPA's old ``http://`` image addresses are asked over TLS.
            path: where the file goes.
            kind: what is expected; HTML is never accepted.
            etag: of the file at ``path``, as an earlier :class:`Fetched` gave it; ignored where there is no file.
            last_modified: likewise.

        Raises:
            NotThere: 404 or 410; not tried again.
            FetchFailed: the address is not allowed, the host refuses, the answer is of another type, larger than the
                limit or did not arrive in any of the tries.
            StorageFailed: the disk is full or not writable.
        """
        address = self._addresses.checked(url)
        conditions = {}
        if path.is_file():
            conditions = {"If-None-Match": etag, "If-Modified-Since": last_modified}
        headers = {name: value for name, value in conditions.items() if value}
        tries = self.settings.retries + 1
        for attempt in range(tries):
            try:
                with self._places:
                    return self._once(address, path, kind, headers)
            except Again as again:
                if attempt + 1 == tries:
                    raise FetchFailed(
                        f"{url} did not arrive in {tries} {'tries' if tries > 1 else 'try'} ({again}): check the "
                        "network, and run this again later."
                    ) from again
                wait = delay_s(attempt, again.retry_after_s, self.settings.backoff_s, self.settings.max_wait_s)
            self._sleep(wait)
        raise AssertionError("unreachable")

    def _once(self, url: str, path: Path, kind: Kind, headers: dict[str, str]) -> Fetched:
        ends = time.monotonic() + self.settings.total_timeout_s
        address = url
        for _ in range(_MAX_REDIRECTS + 1):
            with self._answer(address, kind, headers) as response:
                if response.status_code in _REDIRECTS and "Location" in response.headers:
                    address = self._addresses.checked(urljoin(address, response.headers["Location"]), came_from=address)
                    continue
                if response.status_code == 304 and headers:
                    return _still_current(response, path, address, headers)
                check_status(response, url)
                return self._store(response, path, kind, address, ends)
        raise FetchFailed(f"{url} redirects more than {_MAX_REDIRECTS} times: check the address.")

    def _answer(self, url: str, kind: Kind, headers: dict[str, str]) -> requests.Response:
        try:
            return self._session(url).get(
                url,
                headers={
                    **headers,
                    "User-Agent": self.settings.user_agent,
                    "Accept": "image/jpeg, image/*;q=0.8" if kind == "image" else "application/xml, text/xml;q=0.9",
                    # An image does not get smaller, and its length can be checked when it comes as it is.
                    "Accept-Encoding": "identity" if kind == "image" else "gzip",
                },
                timeout=(self.settings.connect_timeout_s, self.settings.timeout_s),
                allow_redirects=False,
                stream=True,
            )
        except requests.exceptions.SSLError as error:
            raise FetchFailed(
                f"{url}: the host's certificate cannot be trusted ({error}); check the network."
            ) from error
        except requests.Timeout as error:
            raise Again(f"no answer in {self.settings.timeout_s:g} s") from error
        except requests.ConnectionError as error:
            raise Again(f"no connection: {_reason(error)}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError) as error:
            raise FetchFailed(f"{url} cannot be asked ({_reason(error)}): check the address.") from error

    def _store(self, response: requests.Response, path: Path, kind: Kind, url: str, ends: float) -> Fetched:
        content_type = response.headers.get("Content-Type")
        check_type(content_type, kind, url)
        before = sha256_file(path) if path.is_file() else None
        with atomic_file(path) as file:
            size, sha256 = self._receive(response, file, kind, url, ends)
        return Fetched(
            path=path,
            url=url,
            status=response.status_code,
            bytes=size,
            sha256=sha256,
            etag=response.headers.get("ETag"),
            last_modified=response.headers.get("Last-Modified"),
            content_type=content_type,
            changed=sha256 != before,
        )

    def _receive(
        self, response: requests.Response, file: IO[bytes], kind: Kind, url: str, ends: float
    ) -> tuple[int, str]:
        limit = self.settings.max_image_bytes if kind == "image" else self.settings.max_page_bytes
        declared = response.headers.get("Content-Length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise FetchFailed(_too_large(url, limit))
        raw: Any = response.raw
        size, digest = 0, hashlib.sha256()
        try:
            # read1 hands over what one packet brought, so that a host that drips cannot outlast the limit on time.
            while chunk := raw.read1(_CHUNK_BYTES, decode_content=True):
                if size == 0:
                    check_start(chunk, url)
                size += len(chunk)
                if size > limit:
                    raise FetchFailed(_too_large(url, limit))
                if time.monotonic() > ends:
                    raise Again(f"not whole after {self.settings.total_timeout_s:g} s")
                digest.update(chunk)
                file.write(chunk)
        except urllib3.exceptions.HTTPError as error:
            raise Again(f"the answer broke off after {size} bytes: {_reason(error)}") from error
        if declared.isdecimal() and raw.tell() != int(declared):
            raise Again(f"{raw.tell()} of {declared} bytes arrived")
        if size == 0:
            raise Again("the answer is empty")
        return size, digest.hexdigest()

    def _session(self, url: str) -> requests.Session:
        """This thread's session; one for this machine's own servers, which no proxy may stand before."""
        name = "loopback" if is_loopback_url(url) else "outside"
        session: requests.Session | None = getattr(self._local, name, None)
        if session is None:
            session = requests.Session()
            for scheme in ("http://", "https://"):
                session.mount(scheme, BoundedAdapter(self.settings.total_timeout_s))
            session.trust_env = name == "outside"
            # requests would otherwise send a password it finds in a .netrc file.
            session.auth = _no_credentials
            setattr(self._local, name, session)
            with self._lock:
                self._sessions.append(session)
        # Cookies would tie requests together and are nothing we need.
        session.cookies.clear()
        return session


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _still_current(response: requests.Response, path: Path, url: str, sent: dict[str, str]) -> Fetched:
    return Fetched(
        path=path,
        url=url,
        status=304,
        bytes=path.stat().st_size,
        sha256=sha256_file(path),
        etag=response.headers.get("ETag", sent.get("If-None-Match")),
        last_modified=response.headers.get("Last-Modified", sent.get("If-Modified-Since")),
        content_type=response.headers.get("Content-Type"),
        changed=False,
    )


def _too_large(url: str, limit: int) -> str:
    return f"{url} is larger than the limit of {limit} bytes: check the address, or raise the limit in the settings."


def _reason(error: BaseException) -> str:
    """The innermost cause, short: urllib3 wraps it several times over."""
    while error.args and isinstance(error.args[-1], BaseException):
        error = error.args[-1]
    return str(getattr(error, "reason", None) or error)[:200] or type(error).__name__
