"""From an Ensembl id to image records: the gene's page, and older releases for images the page no longer shows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dermatome.errors import BadPage
from dermatome.hpa.client import HpaClient
from dermatome.hpa.records import GenePage, merge_records, parse_page
from dermatome.storage.http import Fetched, NotThere

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class GeneImages:
    """A gene's image records, and the pages they come from.

    Attributes:
        page: what the records say together; ``release`` and ``page_sha256`` are those of the first page, while each row
            has those of its own.
        fetched: the gene's page, then archive pages that were read for it.
    """

    page: GenePage
    fetched: tuple[Fetched, ...]

    @property
    def changed(self) -> bool:
        """Whether any page differs from what was on disk before."""
        return any(one.changed for one in self.fetched)


def fetch_gene_images(
    client: HpaClient,
    ensembl_id: str,
    path: Path,
    *,
    tissue: str = "Skin",
    etag: str | None = None,
    last_modified: str | None = None,
) -> GeneImages:
    """Fetches a gene's page to ``path`` and reads its images of ``tissue``.

    Where antibodies have levels for the tissue and no image (newer releases show fewer), the archives are asked for
    them, for each gene anew; their pages are kept beside ``path``, and their rows say which release they are of.

    Args:
        client: see :class:`HpaClient`.
        ensembl_id: the gene.
        path: of the page's file.
        tissue: see :func:`dermatome.hpa.records.parse_page`.
        etag: of the page at ``path``, from an earlier :class:`Fetched`.
        last_modified: likewise.

    Raises:
        FetchFailed: see :meth:`HpaClient.fetch_page`; also when an archive cannot be reached, rather than leaving its
            images out unsaid.
        BadPage: a page cannot be read, or is of another gene.
    """
    fetched = [client.fetch_page(ensembl_id, path, etag, last_modified)]
    page = _parse(path, ensembl_id, tissue)
    tables: list[pa.Table] = [page.records]
    missing = set(page.antibodies_without_images)
    any_antibody = page.outcome == "no_images" and not missing
    for base in client.base_urls[1:]:
        if not missing and not any_antibody:
            break
        if fetched[0].url.startswith(f"{base}/"):
            continue
        try:
            beside = path.with_name(f"{path.stem}.{_host(base)}.xml")
            fetched.append(client.fetch_release(base, ensembl_id, beside))
        except NotThere:
            continue
        older = _parse(beside, ensembl_id, tissue)
        kept = [any_antibody or row in missing for row in older.records["antibody"].to_pylist()]
        found = older.records.filter(kept)
        tables.append(found)
        missing -= set(found["antibody"].to_pylist())
        any_antibody = any_antibody and not found.num_rows
    records = merge_records(tables)
    if records.num_rows > page.records.num_rows:
        added = records.num_rows - page.records.num_rows
        message = f"{page.gene} ({ensembl_id}): {records.num_rows} images of {tissue}, {added} of them from an archive."
        page = dataclasses.replace(page, records=records, outcome="images", message=message)
    return GeneImages(dataclasses.replace(page, antibodies_without_images=tuple(sorted(missing))), tuple(fetched))


def _parse(path: Path, ensembl_id: str, tissue: str) -> GenePage:
    page = parse_page(path, tissue=tissue)
    if page.ensembl_id != ensembl_id:
        raise BadPage(f"{path.name} is the page of {page.ensembl_id}, not of {ensembl_id}: check the gene list.")
    return page


def _host(base: str) -> str:
    parts = urlsplit(base)
    return f"{parts.hostname}-{parts.port}" if parts.port else str(parts.hostname)
