"""How the Human Protein Atlas is asked."""

from __future__ import annotations

from dataclasses import dataclass

from dermatome.errors import BadSetting
from dermatome.hpa.licence import ATTRIBUTION, LICENCE_PAGE
from dermatome.storage.http import HttpLimits


@dataclass(frozen=True)
class HpaSettings(HttpLimits):
    """How the Human Protein Atlas is asked; see :class:`dermatome.storage.http.HttpLimits` for the other settings.

    Attributes:
        base_url: Site whose ``/<ensembl id>.xml`` is asked first.
        archive_urls: Older releases, asked in turn for a gene or for images that the site no longer has.
        allowed_hosts: Hosts that may be asked; see :class:`dermatome.storage.http.HttpClient`.
        max_page_bytes: A larger page is refused.
        max_image_bytes: A larger image is refused.
        licence: Recorded with what is fetched; the records of a page name the licence of its release.
        attribution: Recorded with what is fetched.
    """

    base_url: str = "https://www.proteinatlas.org"
    archive_urls: tuple[str, ...] = ("https://v19.proteinatlas.org",)
    allowed_hosts: tuple[str, ...] = (".proteinatlas.org",)
    max_page_bytes: int = 16 * 1024 * 1024
    max_image_bytes: int = 128 * 1024 * 1024
    licence: str = f"as stated at {LICENCE_PAGE}"
    attribution: str = ATTRIBUTION

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            BadSetting: A setting is out of its range.
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
