"""The manifest of a training version: a Parquet file with the samples it was trained and validated on."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dermatome.classes import RgbImage
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.storage.files import sha256_bytes, write_atomic
from dermatome.training.data import Sample, Side

THUMBNAIL_PX = 32


@dataclass(frozen=True)
class ManifestRow:
    """One sample (tile, annotated image or patch) of a training; unknown values are empty.

    Attributes:
        side: ``train``, ``validation`` or ``hold_out``.
        side: ``train``, ``validation`` or ``hold_out``.
        group: patient, slide or sample that must be on one side only.
        image_sha256: sha256 of the image file, or of the pixels.
        mask_sha256: sha256 of the annotation file, or of the label maps.
        palette_sha256: sha256 of the mask's palette; empty if it has none.
        pixels: pixels of each class, in class order; for cells, outside and inside of them.
        thumbnail: 32 × 32 grey values, by which near-identical samples are found.
        left_out: annotated objects that were not used, such as ``2 × Point``; empty if there are none.
    """

    name: str
    side: Side
    group: str
    slide: str
    patient: str
    licence: str
    image_sha256: str
    mask_sha256: str
    palette_sha256: str
    height_px: int
    width_px: int
    pixels: list[int]
    thumbnail: bytes
    left_out: str = ""


def manifest_row(
    sample: Sample, side: Side, image: RgbImage, image_sha256: str, mask_sha256: str, pixels: Sequence[int], **more: str
) -> ManifestRow:
    """The row of a sample with its (H, W, 3) uint8 image; ``more`` has fields that only some kinds of samples have."""
    fields = {"name": sample.name, "group": sample.group, "slide": sample.slide, "patient": sample.patient}
    fields |= {"licence": "", "palette_sha256": "", "image_sha256": image_sha256, "mask_sha256": mask_sha256} | more
    height_px, width_px = image.shape[:2]
    return ManifestRow(
        side=side, height_px=height_px, width_px=width_px, pixels=list(pixels), thumbnail=thumbnail(image), **fields
    )


def write_manifest(path: Path, rows: Sequence[ManifestRow]) -> str:
    """Writes the manifest and returns its sha256; the same samples and split give the same bytes."""
    columns = pa.table({name: [getattr(row, name) for row in rows] for name in _SCHEMA.names}, schema=_SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(columns, buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())
    return sha256_bytes(buffer.getvalue())


def read_manifest(path: Path) -> list[ManifestRow]:
    """The rows of the manifest at ``path``.

    Raises:
        MissingInput: there is no such file.
        BadAnnotation: it is not a manifest.
    """
    try:
        return [ManifestRow(**row) for row in pq.read_table(io.BytesIO(path.read_bytes())).to_pylist()]
    except FileNotFoundError as error:
        raise MissingInput(f"There is no manifest {path}: train that version again.") from error
    except (pa.ArrowException, TypeError) as error:
        raise BadAnnotation(f"{path} is not a manifest ({error}): train that version again.") from error


def manifest_path(weights: Path) -> Path:
    """Path of the manifest that belongs to the weights file ``weights``."""
    return weights.with_suffix(".tiles.parquet")


def known_sides(rows: Sequence[ManifestRow]) -> dict[str, Side]:
    """The side of each group in this manifest, for a version that is fine-tuned from the manifest's version.

    If the tiles of a single slide were split, its group counts as trained on, and each place of the slide, identified
    by its tile, has a side of its own.
    """
    sides: dict[str, Side] = {}
    for row in rows:
        sides.setdefault(row.name.removesuffix("+ihc"), row.side)
    for row in rows:
        before = sides.get(row.group, row.side) if row.group != row.name.removesuffix("+ihc") else row.side
        sides[row.group] = row.side if before == row.side else "train"
    return sides


def validation_sha256(rows: Sequence[ManifestRow]) -> str:
    """The sha256 of the validation samples; two versions' validation scores can be compared only if it is equal."""
    tested = sorted({(row.image_sha256, row.mask_sha256) for row in rows if row.side == "validation"})
    return sha256_bytes(json.dumps(tested).encode())


def licences(rows: Sequence[ManifestRow]) -> str:
    """The licence of weights trained on these samples, as text."""
    known = sorted({row.licence for row in rows if row.licence})
    unknown = any(not row.licence for row in rows)
    return ", ".join([*known, *(["that of the training tiles, which nobody stated"] if unknown else [])])


_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("name", "side", "group", "slide", "patient", "licence")),
        *((name, pa.string()) for name in ("image_sha256", "mask_sha256", "palette_sha256")),
        *((name, pa.int32()) for name in ("height_px", "width_px")),
        ("pixels", pa.list_(pa.int64())),
        ("thumbnail", pa.binary()),
        ("left_out", pa.string()),
    ]
)


def thumbnail(image: RgbImage) -> bytes:
    """The 32 × 32 grey values of an image, as bytes."""
    import cv2

    grey: Any = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small: Any = cv2.resize(grey, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    return bytes(small.tobytes())
