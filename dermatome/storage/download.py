"""A file that others publish: fetched from named hosts only, within limits, and checked before it appears."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

import dermatome
from dermatome.errors import FetchFailed
from dermatome.storage.files import atomic_file
from dermatome.storage.http_addresses import Addresses, is_loopback_url
from dermatome.storage.http_bounded import BoundedAdapter

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = (10.0, 60.0)
_SHA256 = re.compile(r"[0-9a-f]{64}")
# What Hugging Face says of a large file before it redirects to where the file lies.
_STATED_SHA256 = "X-Linked-Etag"


@dataclass(frozen=True)
class Downloaded:
    """A file that arrived whole.

    Attributes:
        sha256: of its bytes.
        stated: whether the host that was asked had said that sha256 itself.
    """

    sha256: str
    stated: bool


def download(
    url: str, path: Path, *, hosts: Sequence[str], max_bytes: int, by_hand: str, total_timeout_s: float = 1800.0
) -> Downloaded:
    """Fetches ``url`` to ``path``; the file appears whole and checked, or not at all.

    Only ``hosts`` are asked, over TLS (this machine's own servers without), also where one redirects. Where the host
    that was asked states a sha256 in Hugging Face's ``X-Linked-Etag``, the bytes must have it, wherever they lie.

    Args:
        url: of one of ``hosts``.
        path: where the file goes.
        hosts: exact hosts, or ``.domain`` for a domain with all below it.
        max_bytes: a larger file is refused.
        by_hand: how to go on without this download, as the end of a sentence.
        total_timeout_s: for the whole file.

    Raises:
        FetchFailed: no connection, a host that is not allowed, another status than 200, a file that is too large, too
            slow, not whole or not the one that was stated.
        StorageFailed: the disk is full or not writable.
    """
    addresses = Addresses(hosts, by_hand)
    ends = time.monotonic() + total_timeout_s
    address = asked = addresses.checked(url)
    stated = ""
    with _session(address, total_timeout_s) as session, _in_a_sentence(url, by_hand):
        for _ in range(_MAX_REDIRECTS + 1):
            with session.get(address, stream=True, timeout=_TIMEOUT_S, allow_redirects=False) as answer:
                if urlsplit(address).netloc == urlsplit(asked).netloc:
                    found = answer.headers.get(_STATED_SHA256, "").strip('"')
                    stated = found if _SHA256.fullmatch(found) else stated
                if answer.status_code in _REDIRECTS and "Location" in answer.headers:
                    address = addresses.checked(urljoin(address, answer.headers["Location"]), came_from=address)
                    continue
                if answer.status_code != 200:
                    raise FetchFailed(f"{url} was answered with status {answer.status_code}: {by_hand}.")
                return Downloaded(_store(answer, path, stated, max_bytes, ends, by_hand), bool(stated))
    raise FetchFailed(f"{url} redirects more than {_MAX_REDIRECTS} times: {by_hand}.")


def _store(answer: requests.Response, path: Path, stated: str, max_bytes: int, ends: float, by_hand: str) -> str:
    url = answer.url.split("?")[0]
    declared = answer.headers.get("Content-Length", "")
    too_large = f"{url} is larger than the {max_bytes >> 20} MB that such a file may have: {by_hand}."
    if declared.isdecimal() and int(declared) > max_bytes:
        raise FetchFailed(too_large)
    raw: Any = answer.raw
    size, digest = 0, hashlib.sha256()
    with atomic_file(path) as file:
        # read1 hands over what has arrived, so that a host that drips cannot outlast the limit on time.
        while chunk := raw.read1(_CHUNK_BYTES, decode_content=True):
            size += len(chunk)
            if size > max_bytes:
                raise FetchFailed(too_large)
            if time.monotonic() > ends:
                raise FetchFailed(f"{url} was not whole in time ({size} bytes arrived): {by_hand}.")
            digest.update(chunk)
            file.write(chunk)
        if size == 0 or (declared.isdecimal() and raw.tell() != int(declared)):
            raise FetchFailed(f"{url} ended after {size} of {declared or 'unknown'} bytes: {by_hand}.")
        if stated and digest.hexdigest() != stated:
            raise FetchFailed(
                f"{url} has the sha256 {digest.hexdigest()[:12]}…, and {stated[:12]}… was stated, so it is not kept: "
                f"{by_hand}."
            )
    return digest.hexdigest()


@contextmanager
def _session(url: str, total_timeout_s: float) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.mount("https://", BoundedAdapter(total_timeout_s))
        session.mount("http://", BoundedAdapter(total_timeout_s))
        # Proxies of the environment are used, but none stands before this machine's own servers.
        session.trust_env = not is_loopback_url(url)
        # requests would otherwise send a password it finds in a .netrc file.
        session.auth = lambda request: request
        session.headers.update({"User-Agent": f"dermatome/{dermatome.__version__}", "Accept-Encoding": "identity"})
        yield session


@contextmanager
def _in_a_sentence(url: str, by_hand: str) -> Iterator[None]:
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError) as error:
        raise FetchFailed(f"{url} could not be fetched ({type(error).__name__}): {by_hand}.") from error
