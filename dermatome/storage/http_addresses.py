"""Which addresses may be asked: the hosts of the settings, over TLS, and nothing a page or a redirect slips in."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit, urlunsplit

from dermatome.errors import BadSetting, FetchFailed


class Addresses:
    """The allowed hosts, ready to check addresses with.

    Args:
        allowed_hosts: exact hosts, ``host:port``, or ``.domain`` for a domain with all below it.
        remedy: what to do where another host is met, as the end of a sentence.

    Raises:
        BadSetting: none is given, or one is no host.
    """

    def __init__(
        self,
        allowed_hosts: Sequence[str],
        remedy: str = "add it to hpa.allowed_hosts in the settings if you trust it",
    ) -> None:
        self._remedy = remedy
        self._allowed = tuple(host.strip().lower() for host in allowed_hosts)
        for host in self._allowed:
            if not host.strip(".") or "/" in host or "@" in host or "*" in host or any(c.isspace() for c in host):
                raise BadSetting(
                    f"hpa.allowed_hosts has {host!r}: give hosts such as 'www.proteinatlas.org' or '.org'."
                )
        if not self._allowed:
            raise BadSetting("hpa.allowed_hosts is empty: give at least one host.")

    def base(self, url: str) -> str:
        """A site's address out of the settings, without a slash at its end.

        Raises:
            BadSetting: it is no address of an allowed host.
        """
        try:
            return self.checked(url.rstrip("/"))
        except FetchFailed as error:
            raise BadSetting(f"The address {url!r} in the hpa settings cannot be used: {error}") from error

    def checked(self, url: str, *, came_from: str | None = None) -> str:
        """``url`` if it may be asked, over TLS where it is not this machine's own.

        Pages of old releases name their images by ``http://`` addresses; HPA's hosts serve the same over TLS, so the
        scheme is changed rather than anything sent or believed in the clear.

        Raises:
            FetchFailed: another scheme, a host that is not allowed, a user name in it, or an unexpected port.
        """
        via = f" (where {came_from} redirects to)" if came_from else ""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip(".").lower(), parts.port
        except ValueError as error:
            raise FetchFailed(
                f"{url[:200]!r}{via} is not an address ({error}): check the page it stands on."
            ) from error
        if parts.scheme not in ("http", "https") or not host:
            raise FetchFailed(f"{url[:200]!r}{via} is not an http or https address: check the page it stands on.")
        if parts.username is not None or parts.password is not None or "\\" in parts.netloc:
            raise FetchFailed(f"{url[:200]!r}{via} has a user name in it: check the page it stands on.")
        if any(ord(char) <= 32 or ord(char) == 127 for char in url):
            raise FetchFailed(
                f"{url[:200]!r}{via} has blanks or control characters in it: check the page it stands on."
            )
        loopback = is_loopback(host)
        own_port = port in (None, 443 if parts.scheme == "https" else 80)
        if not self._allows(host, port, any_port=loopback or own_port):
            raise FetchFailed(f"{url[:200]}{via} is at a host or port that is not allowed: {self._remedy}.")
        if came_from is not None and loopback and not is_loopback_url(came_from):
            raise FetchFailed(f"{came_from} redirects to this machine itself ({url[:200]}), which is not followed.")
        return urlunsplit(parts if loopback else _over_tls(parts, host, port))

    def _allows(self, host: str, port: int | None, *, any_port: bool) -> bool:
        if port is not None and (f"{host}:{port}" in self._allowed or f"[{host}]:{port}" in self._allowed):
            return True
        by_domain = any(entry.startswith(".") and f".{host}".endswith(entry) for entry in self._allowed)
        return any_port and (host in self._allowed or by_domain)


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by its name alone; nothing is looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_loopback_url(url: str) -> bool:
    """Whether the host of ``url`` is this machine."""
    return is_loopback((urlsplit(url).hostname or "").lower())


def _over_tls(parts: SplitResult, host: str, port: int | None) -> SplitResult:
    if parts.scheme == "https":
        return parts
    return parts._replace(scheme="https", netloc=host if port in (None, 80) else f"{host}:{port}")
