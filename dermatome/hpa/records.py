"""Human Protein Atlas gene pages of every release, read into one typed row for each image.

Releases 12 to 25 differ: the root is ``<proteinAtlas>`` or ``<entry>``; ``technology`` is IH or IHC; a tissue is
``skin 1`` without attributes up to release 18 and ``<tissue organ="Skin">Skin 1`` from 19; the gene's own summary names
it ``skin`` in some. Levels come twice: the gene's summary (``entry/tissueExpression``), and what was seen with each
antibody (``entry/antibody/tissueExpression``), which alone has images. RNA sections and ``pathology`` (tumours) name
the same tissues and organs and are not read.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from dermatome.errors import BadPage, MissingInput, StorageFailed
from dermatome.hpa.genes import ENSEMBL_GENE
from dermatome.hpa.licence import licence_of
from dermatome.hpa.page_facts import RUNNING_NUMBER, GeneLevel, PageFacts, base_name
from dermatome.hpa.page_xml import read_page
from dermatome.storage.files import atomic_file, safe_id

MAX_PAGE_BYTES = 64 * 1024 * 1024
Outcome = Literal["images", "no_tissue", "no_images"]

_CELL_TYPE = pa.struct(
    [(name, pa.string()) for name in ("cell_type", "staining", "intensity", "quantity", "location")],
)
IMAGE_RECORD_SCHEMA = pa.schema(
    [
        pa.field("slide", pa.string(), nullable=False),
        pa.field("gene", pa.string(), nullable=False),
        pa.field("ensembl_id", pa.string(), nullable=False),
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


@dataclass(frozen=True)
class GenePage:
    """What one gene page says of one tissue.

    Attributes:
        ensembl_id: the gene's Ensembl id.
        gene: its symbol.
        release: HPA's release number, as the page states it; empty where it does not.
        page_sha256: of the page's bytes.
        records: one row for each image, :data:`IMAGE_RECORD_SCHEMA`.
        outcome: ``images``; ``no_tissue`` where no antibody was tried on the tissue; ``no_images`` where the page
            gives levels for the tissue and no images.
        message: the outcome in one sentence.
        antibodies_without_images: those with levels for the tissue and no image: an older release may have them.
    """

    ensembl_id: str
    gene: str
    release: str
    page_sha256: str
    records: pa.Table
    outcome: Outcome
    message: str
    antibodies_without_images: tuple[str, ...] = ()


def parse_page(source: Path | bytes, *, tissue: str = "Skin", max_bytes: int = MAX_PAGE_BYTES) -> GenePage:
    """Reads the images of ``tissue`` from an HPA gene page of any release, streaming.

    A tissue is meant by its name, with or without HPA's running number (``Skin``: ``skin``, ``skin 1``, ``Skin 2``, not
    ``Foreskin`` and not ``skin cancer``), or by its organ, whatever the case. Only normal tissue counts. Entities, DTDs
    and the network are off: the file is not trusted.

    Args:
        source: the page's path, or its bytes.
        tissue: the tissue's or organ's name.
        max_bytes: a larger page is refused.

    Raises:
        BadPage: not XML, cut short, with a DTD, not one gene's entry, or with an image whose address gives no slide id.
        MissingInput: no such file.
    """
    name = source.name if isinstance(source, Path) else "The page"
    if isinstance(source, bytes):
        return _gene_page(read_page(io.BytesIO(source), name, tissue=tissue, max_bytes=max_bytes), name)
    try:
        with source.open("rb") as file:
            return _gene_page(read_page(file, name, tissue=tissue, max_bytes=max_bytes), name)
    except FileNotFoundError as error:
        raise MissingInput(f"There is no page {source}: check the path, or fetch it first.") from error
    except IsADirectoryError as error:
        raise MissingInput(f"{source} is a folder, not a page: give the path of one XML file.") from error


def slide_id(image_url: str) -> str:
    """The slide's id, ``<folder>-<stem>`` of its image's address: ``…/images/373/1_A_1_2.jpg`` gives ``373-1_A_1_2``.

    Raises:
        BadPage: the address has no folder and file name, or they are not fit to be a file name.
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
    """Writes image records to a Parquet file, whole; zero rows make a file too.

    Raises:
        StorageFailed: the disk is full or not writable.
    """
    with atomic_file(path) as file:
        pq.write_table(records, file, compression="zstd")
    return path


def read_records(path: Path) -> pa.Table:
    """Image records as :func:`write_records` wrote them.

    Raises:
        MissingInput: no such file.
        BadPage: the file is not Parquet, or lacks columns of :data:`IMAGE_RECORD_SCHEMA`.
    """
    try:
        table = pq.read_table(path)
        return table.select(IMAGE_RECORD_SCHEMA.names).cast(IMAGE_RECORD_SCHEMA)
    except FileNotFoundError as error:
        raise MissingInput(f"There are no image records at {path}: parse the gene's page first.") from error
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise BadPage(f"{path.name} holds no image records ({error}): parse the gene's page again.") from error


def merge_records(tables: list[pa.Table]) -> pa.Table:
    """Image records of several pages in one table; none gives an empty one."""
    return pa.concat_tables([IMAGE_RECORD_SCHEMA.empty_table(), *tables])


def _gene_page(facts: PageFacts, name: str) -> GenePage:
    if not ENSEMBL_GENE.fullmatch(facts.ensembl_id):
        raise BadPage(
            f"{name} names no Ensembl gene (its identifier is {facts.ensembl_id[:40]!r}): fetch one gene's XML page "
            "from the Human Protein Atlas."
        )
    rows = _rows(facts, name)
    where = f"{facts.gene or facts.ensembl_id} ({facts.ensembl_id}), release {facts.release or 'unknown'}"
    outcome: Outcome
    if rows:
        outcome, message = "images", f"{where}: {len(rows)} image{'s' if len(rows) > 1 else ''} of {facts.tissue}."
    elif facts.images_by_antibody or facts.gene_levels:
        outcome = "no_images"
        message = f"{where}: levels for {facts.tissue} and no images of it; an older release may have them."
    else:
        outcome = "no_tissue"
        message = f"{where}: no antibody staining of {facts.tissue}; choose another tissue or leave the gene out."
    return GenePage(
        ensembl_id=facts.ensembl_id,
        gene=facts.gene or facts.ensembl_id,
        release=facts.release,
        page_sha256=facts.page_sha256,
        records=pa.Table.from_pylist(rows, schema=IMAGE_RECORD_SCHEMA),
        outcome=outcome,
        message=message,
        antibodies_without_images=tuple(key for key, images in facts.images_by_antibody.items() if key and not images),
    )


def _rows(facts: PageFacts, name: str) -> list[dict[str, Any]]:
    kind = next((kind for kind in ("reliability", "validation") if facts.verifications.get(kind)), None)
    gene = {
        "gene": facts.gene or facts.ensembl_id,
        "ensembl_id": facts.ensembl_id,
        "reliability": facts.verifications[kind] if kind else None,
        "verification": kind,
        "release": facts.release or None,
        "licence": licence_of(facts.release),
        "page_sha256": facts.page_sha256,
    }
    rows: dict[tuple[str, str | None, str], dict[str, Any]] = {}
    addresses: dict[str, str] = {}
    for row in facts.rows:
        url = row["image_url"]
        slide = slide_id(url)
        if addresses.setdefault(slide, url) != url:
            raise BadPage(
                f"{name} gives two images the slide id {slide} ({addresses[slide][:150]} and {url[:150]}): fetch the "
                "page again, or leave it out."
            )
        level = _gene_level(facts.gene_levels, row["tissue"], row["cell_types"])
        summary = {
            "gene_expression": level.expression if level else None,
            "gene_cell_types": level.cell_types if level else [],
        }
        # The same image listed twice for one antibody and tissue says nothing new.
        rows.setdefault((slide, row["antibody"], row["tissue"]), {"slide": slide, **gene, **row, **summary})
    return list(rows.values())


def _gene_level(levels: list[GeneLevel], tissue: str, cell_types: list[dict[str, str | None]]) -> GeneLevel | None:
    """The gene's summary for an antibody's tissue.

    Release 18 calls both ``skin 1`` and ``skin 2`` only ``skin`` there: the one that shares most cell types is meant.
    """
    same = [level for level in levels if level.tissue.casefold() == tissue.casefold()]
    if not same:
        plain = [level for level in levels if not RUNNING_NUMBER.search(level.tissue)]
        same = [level for level in plain if base_name(level.tissue) == base_name(tissue)]
    seen = _names(cell_types)
    return max(same, key=lambda level: len(seen & _names(level.cell_types)), default=None)


def _names(cells: list[dict[str, str | None]]) -> set[str]:
    return {(cell["cell_type"] or "").casefold() for cell in cells}
