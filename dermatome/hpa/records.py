"""Image records: one typed row for each image of a tissue on a gene page, stored as Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from dermatome.errors import BadPage, MissingInput, StorageFailed
from dermatome.storage.files import atomic_file, safe_id
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import require_record

RECORDS_FILE = "images.parquet"

_CELL_TYPE = pa.struct([(name, pa.string()) for name in ("cell_type", "staining", "intensity", "quantity", "location")])
IMAGE_RECORD_SCHEMA = pa.schema(
    [
        pa.field("slide", pa.string(), nullable=False),
        pa.field("gene", pa.string(), nullable=False),
        pa.field("ensembl_id", pa.string(), nullable=False),
        ("synonyms", pa.list_(pa.string())),
        ("antibody", pa.string()),
        pa.field("tissue", pa.string(), nullable=False),
        ("organ", pa.string()),
        pa.field("image_url", pa.string(), nullable=False),
        ("image_url_tif", pa.string()),
        ("sex", pa.string()),
        ("age", pa.int16()),
        ("patient_id", pa.string()),
        ("snomed", pa.list_(pa.struct([("code", pa.string()), ("description", pa.string())]))),
        ("cell_types", pa.list_(_CELL_TYPE)),
        ("staining", pa.string()),
        ("intensity", pa.string()),
        ("quantity", pa.string()),
        ("location", pa.string()),
        ("gene_expression", pa.string()),
        ("gene_cell_types", pa.list_(pa.struct([("cell_type", pa.string()), ("level", pa.string())]))),
        ("reliability", pa.string()),
        ("verification", pa.string()),
        ("technology", pa.string()),
        ("release", pa.string()),
        ("licence", pa.string()),
        pa.field("page_sha256", pa.string(), nullable=False),
    ]
)


def slide_id(image_url: str) -> str:
    """The slide id ``<folder>-<stem>`` of an image's address: ``…/images/373/1_A_1_2.jpg`` gives ``373-1_A_1_2``.

    Raises:
        BadPage: The address has no folder and file name, or they are not valid in a file name.
    """
    try:
        path = unquote(urlsplit(image_url).path)
    except ValueError:
        path = ""
    parts = path.split("/")[-2:]
    stem = PurePosixPath(parts[-1]).stem
    if len(parts) == 2 and all(parts) and stem and ".." not in path.split("/"):
        try:
            return safe_id(f"{parts[0]}-{stem}", "slide id")
        except StorageFailed:
            pass
    raise BadPage(
        f"The image address {image_url[:200]!r} gives no usable slide id (<folder>-<stem>): check the page, and leave "
        "it out if its addresses are not HPA's."
    )


def write_records(records: pa.Table, path: Path) -> Path:
    """Writes image records to a Parquet file, atomically, even if there are no rows.

    Raises:
        StorageFailed: The disk is full or not writable.
    """
    with atomic_file(path) as file:
        pq.write_table(records, file, compression="zstd")
    return path


def read_records(path: Path) -> pa.Table:
    """Reads image records that :func:`write_records` wrote.

    Raises:
        MissingInput: There is no such file.
        BadPage: The file is not Parquet, or lacks columns of :data:`IMAGE_RECORD_SCHEMA`.
    """
    try:
        return pq.read_table(path).select(IMAGE_RECORD_SCHEMA.names).cast(IMAGE_RECORD_SCHEMA)
    except FileNotFoundError as error:
        raise MissingInput(f"There are no image records at {path}: parse the gene's page first.") from error
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise BadPage(f"{path.name} contains no image records ({error}): parse the gene's page again.") from error


def gene_images(root: DataRoot, gene: str) -> list[dict[str, Any]]:
    """The image records of a gene in a data root; raises as :func:`read_records` does."""
    rows: list[dict[str, Any]] = read_records(root.folder("hpa_images", gene) / RECORDS_FILE).to_pylist()
    return rows


def slide_facts(root: DataRoot, slide: str, names: Sequence[str]) -> dict[str, str]:
    """What the image records of a slide say in the columns ``names``; empty texts where it is not of HPA.

    Raises:
        MissingInput: the slide has no image yet, or its gene no image records.
    """
    gene = require_record(root, "slide_images", slide).values.get("ensembl_id")
    rows = [row for row in gene_images(root, str(gene)) if row["slide"] == slide] if gene else []
    return {name: "; ".join(sorted({str(row[name]) for row in rows if row[name]})) for name in names}


def merge_records(tables: list[pa.Table]) -> pa.Table:
    """Concatenates the image records of several pages; without pages the table is empty."""
    return pa.concat_tables([IMAGE_RECORD_SCHEMA.empty_table(), *tables])
