"""Fetches gene pages and images of the Human Protein Atlas, with older releases as a fallback for pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from dermatome.errors import FetchFailed
from dermatome.hpa.genes import ENSEMBL_GENE
from dermatome.hpa.settings import HpaSettings
from dermatome.storage.http import NO_VALIDATORS, Fetched, HttpClient, NotThere


class HpaClient(HttpClient):
    """Fetches pages and images; many threads may share one client.

    Args:
        settings: See :class:`HpaSettings`.
        sleep: Replaces `time.sleep` in tests.

    Raises:
        BadSetting: An address in the settings is not on an allowed host.
    """

    def __init__(self, settings: HpaSettings | None = None, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.settings = settings or HpaSettings()
        super().__init__(self.settings.allowed_hosts, self.settings, sleep=sleep)
        self.base_urls = tuple(self.base(url) for url in (self.settings.base_url, *self.settings.archive_urls))

    def fetch_page(self, ensembl_id: str, path: Path, validators: Mapping[str, str] = NO_VALIDATORS) -> Fetched:
        """Fetches a gene's XML page from the site, or from the first archived release that has the gene.

        Raises:
            FetchFailed: The id is not an Ensembl gene id, or no release has the gene; see also
            :meth:`HttpClient.fetch`.
        """
        if not ENSEMBL_GENE.fullmatch(ensembl_id):
            raise FetchFailed(
                f"{ensembl_id[:40]!r} is not an Ensembl gene id (ENSG and 11 digits): correct the gene list."
            )
        for base in self.base_urls:
            try:
                return self.fetch_release(base, ensembl_id, path, validators)
            except NotThere:
                continue
        raise NotThere(
            f"The gene {ensembl_id} is unknown to the Human Protein Atlas (404 at {', '.join(self.base_urls)}): check "
            "the id, or leave the gene out."
        )

    def fetch_release(
        self, base_url: str, ensembl_id: str, path: Path, validators: Mapping[str, str] = NO_VALIDATORS
    ) -> Fetched:
        """Fetches a gene's XML page from one release; see :meth:`HttpClient.fetch`."""
        url, most = f"{base_url}/{ensembl_id}.xml", self.settings.max_page_bytes
        return self.fetch(url, path, kind="page", max_bytes=most, validators=validators)

    def fetch_image(self, url: str, path: Path) -> Fetched:
        """Fetches an image; see :meth:`HttpClient.fetch`."""
        return self.fetch(url, path, kind="image", max_bytes=self.settings.max_image_bytes)
