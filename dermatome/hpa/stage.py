"""A gene's page as a stage: fetched if it has changed, parsed, its rows written."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.hpa.gene_images import fetch_gene_images
from dermatome.hpa.records import write_records
from dermatome.storage.files import sha256_file, write_atomic
from dermatome.storage.record import StageResult, content_version

if TYPE_CHECKING:
    import pyarrow as pa

    from dermatome.hpa.client import HpaClient

RECORDS_FILE = "images.parquet"


def make_images(client: HpaClient, gene: str, page_path: Path, folder: Path, tissue: str) -> StageResult:
    """The image records of one gene: `images.parquet`. The page stays at ``page_path``, its HTTP validators beside it.

    Raises:
        FetchFailed: the page did not arrive, or nobody has the gene.
        BadPage: it cannot be read.
    """
    started = time.perf_counter()
    validators = page_path.with_suffix(".json")
    known = _validators(validators, page_path, client.base_urls[0])
    found = fetch_gene_images(
        client, gene, page_path, tissue=tissue, etag=known.get("etag"), last_modified=known.get("last_modified")
    )
    first = found.fetched[0]
    kept = {"url": first.url, "sha256": first.sha256, "etag": first.etag, "last_modified": first.last_modified}
    write_atomic(validators, json.dumps(kept).encode())
    write_records(found.page.records, folder / RECORDS_FILE)
    return StageResult(
        outcome=found.page.outcome,
        message=found.page.message,
        data_version=_version(found.page.records),
        values={
            "gene": found.page.gene,
            "ensembl_id": found.page.ensembl_id,
            "release": found.page.release,
            "images": found.page.records.num_rows,
            "page_url": first.url,
            "page_sha256": found.page.page_sha256,
            "page_bytes": first.bytes,
            "http_status": first.status,
            "pages_read": len(found.fetched),
            "licence": client.settings.licence,
            "attribution": client.settings.attribution,
        },
        seconds={"fetch_and_parse": time.perf_counter() - started},
    )


def _validators(noted: Path, page: Path, base_url: str) -> dict[str, Any]:
    """What was noted of the very page on disk, if it came from ``base_url``; else nothing, and it is asked for anew.

    A "not modified" to the validators of another site, or of another page, would keep the wrong page for good.
    """
    try:
        known = json.loads(noted.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict) or not str(known.get("url", "")).startswith(f"{base_url}/"):
        return {}
    return known if page.is_file() and sha256_file(page) == known.get("sha256") else {}


def _version(records: pa.Table) -> str:
    """Of the rows' content: a page that says the same of its images in other bytes is the same version."""
    rows = records.drop_columns(["page_sha256"]).to_pylist()
    return content_version(json.dumps(row, sort_keys=True, default=str).encode() for row in rows)
