"""How the Human Protein Atlas is asked."""

from __future__ import annotations

from dataclasses import dataclass

import dermatome
from dermatome.errors import BadSetting
from dermatome.hpa.licence import ATTRIBUTION, LICENCE_PAGE


@dataclass(frozen=True)
class HpaSettings:
    """How the Human Protein Atlas is asked.

    Attributes:
        base_url: the site whose ``/<ensembl id>.xml`` is asked first.
        archive_urls: older releases, asked in turn for a gene or for images that the site no longer has.
        allowed_hosts: hosts that may be asked; ``.proteinatlas.org`` allows a domain with all below it. A host of this
            machine (127.0.0.1) may be asked without TLS and at any port, another only over TLS and at its own port.
        connect_timeout_s: to reach the host.
        timeout_s: without a byte of the answer.
        total_timeout_s: for one whole answer.
        retries: after the first try, for what may pass (429, 5xx, timeouts, broken connections, cut answers).
        backoff_s: before the first retry; it doubles with each, with jitter.
        max_wait_s: the longest wait before a retry, also where the host asks for more (Retry-After).
        at_once: requests at the same time, over all threads.
        max_page_bytes: a larger page is refused.
        max_image_bytes: a larger image is refused.
        user_agent: who asks.
        licence: recorded with what is fetched; the records of a page name the licence of its release.
        attribution: recorded with what is fetched.
    """

    base_url: str = "https://www.proteinatlas.org"
    archive_urls: tuple[str, ...] = ("https://v19.proteinatlas.org",)
    allowed_hosts: tuple[str, ...] = (".proteinatlas.org",)
    connect_timeout_s: float = 10.0
    timeout_s: float = 60.0
    total_timeout_s: float = 600.0
    retries: int = 4
    backoff_s: float = 1.0
    max_wait_s: float = 120.0
    at_once: int = 4
    max_page_bytes: int = 16 * 1024 * 1024
    max_image_bytes: int = 128 * 1024 * 1024
    user_agent: str = f"dermatome/{dermatome.__version__} (research software; reads gene pages and tissue images)"
    licence: str = f"as stated at {LICENCE_PAGE}"
    attribution: str = ATTRIBUTION

    def __post_init__(self) -> None:
        """Refuses settings that cannot be meant.

        Raises:
            BadSetting: one is out of its range.
        """
        for name, low, high in (
            ("connect_timeout_s", 0.01, 600),
            ("timeout_s", 0.01, 3600),
            ("total_timeout_s", 0.01, 86_400),
            ("retries", 0, 20),
            ("backoff_s", 0, 600),
            ("max_wait_s", 0, 3600),
            ("at_once", 1, 16),
            ("max_page_bytes", 1, 1 << 31),
            ("max_image_bytes", 1, 1 << 33),
        ):
            if not low <= getattr(self, name) <= high:
                raise BadSetting(f"The setting hpa.{name} is {getattr(self, name)}: give one from {low} to {high}.")
