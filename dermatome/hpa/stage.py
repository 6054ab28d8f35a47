"""The stage `hpa_images`: from an Ensembl id to the image records of its gene page and of older releases."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa

from dermatome.errors import BadPage, MissingInput
from dermatome.hpa.client import HpaClient
from dermatome.hpa.pages import GenePage, check_tissue, parse_page
from dermatome.hpa.records import RECORDS_FILE, merge_records, write_records
from dermatome.storage.files import sha256_file, write_atomic
from dermatome.storage.http import NO_VALIDATORS, Fetched, NotThere
from dermatome.storage.record import StageResult, content_version


def fetch_gene_images(
    client: HpaClient,
    ensembl_id: str,
    path: Path,
    *,
    tissue: str = "Skin",
    validators: Mapping[str, str] = NO_VALIDATORS,
) -> tuple[GenePage, list[Fetched]]:
    """Fetches a gene's page to ``path`` and reads its images of ``tissue``.

    If antibodies have levels for the tissue but no image (newer releases show fewer images), their images are taken
    from the archived releases. Archived pages are stored beside ``path``, and their rows state the release they are
    from. ``validators`` are those of the page at ``path``, from an earlier :class:`Fetched`.

    Returns:
        The page, and all downloads, the page's first.

    Raises:
        FetchFailed: See :meth:`HpaClient.fetch_page`; also if an archive cannot be reached, as its images would
            otherwise be missing unnoticed.
        BadPage: A page cannot be read, or belongs to another gene.
    """
    fetched = [client.fetch_page(ensembl_id, path, validators)]
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
    return dataclasses.replace(page, antibodies_without_images=tuple(sorted(missing))), fetched


def _parse(path: Path, ensembl_id: str, tissue: str) -> GenePage:
    page = parse_page(path, tissue=tissue)
    if page.ensembl_id != ensembl_id:
        raise BadPage(f"{path.name} is the page of {page.ensembl_id}, not of {ensembl_id}: check the gene list.")
    return page


def _host(base: str) -> str:
    parts = urlsplit(base)
    return f"{parts.hostname}-{parts.port}" if parts.port else str(parts.hostname)


def make_images(
    client: HpaClient, gene: str, page_path: Path, folder: Path, tissue: str, file: str = RECORDS_FILE
) -> StageResult:
    """Writes the image records of one gene to ``folder / file``; the page and its ETag stay at ``page_path``.

    Raises:
        FetchFailed: The page did not arrive, or no release has the gene.
        BadPage: The page cannot be read.
        BadSetting: There is no such tissue.
    """
    started = time.perf_counter()
    noted = page_path.with_suffix(".json")
    known = _validators(noted, page_path, client.base_urls[0])
    page, fetched = fetch_gene_images(client, gene, page_path, tissue=tissue, validators=known)
    check_tissue(page, tissue)
    first = fetched[0]
    note = {"url": first.url, "sha256": first.sha256, "validators": first.validators}
    write_atomic(noted, json.dumps(note).encode())
    write_records(page.records, folder / file)
    return StageResult(
        outcome=page.outcome,
        message=page.message,
        data_version=_version(page.records),
        values={
            "gene": page.gene,
            "ensembl_id": page.ensembl_id,
            "release": page.release,
            "images": page.records.num_rows,
            "page_url": first.url,
            "page_sha256": page.page_sha256,
            "page_bytes": first.bytes,
            "http_status": first.status,
            "pages_read": len(fetched),
            "licence": client.settings.licence,
            "attribution": client.settings.attribution,
        },
        seconds={"fetch_and_parse": time.perf_counter() - started},
    )


def _validators(noted: Path, page: Path, base_url: str) -> dict[str, str]:
    """The validators of the page on disk if it came from ``base_url``, else none, so that it is refetched.

    A response "not modified" to those of another site or page would keep the wrong page for ever.
    """
    try:
        known = json.loads(noted.read_bytes())
        same = known["url"].startswith(f"{base_url}/") and known["sha256"] == sha256_file(page)
        return dict(known["validators"]) if same else {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, MissingInput):
        return {}


def _version(records: pa.Table) -> str:
    """Data version of the rows: a page whose bytes changed but whose rows did not keeps its version."""
    rows = records.drop_columns(["page_sha256"]).to_pylist()
    return content_version(json.dumps(row, sort_keys=True, default=str).encode() for row in rows)
