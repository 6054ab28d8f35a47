"""The frozen list of the tiles a version was trained and validated on: one Parquet file, named by the weights card."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dermatome.classes import TISSUE_LABELS, RgbImage
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.skin.tiles.crops import TilePair
from dermatome.storage.files import sha256_bytes, write_atomic

THUMBNAIL_PX = 32
Side = Literal["train", "validation", "hold_out"]


@dataclass(frozen=True)
class ManifestRow:
    """One tile as it was used.

    Attributes:
        name: of the tile.
        side: what it was used for.
        group: patient, slide or tile that must not be on two sides.
        slide: empty where not known.
        patient: likewise.
        licence: likewise.
        image_sha256: of the image file.
        mask_sha256: of the mask file, or the file of its cells.
        palette_sha256: of the colours its mask was read by; empty for cells.
        height_px: of the tile.
        width_px: likewise.
        pixels: of each class, in the order of the classes; for cells, outside and inside of them.
        thumbnail: 32 × 32 grey values, by which near-identical tiles are found.
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


def manifest_rows(tiles: Sequence[TilePair], side: Side) -> list[ManifestRow]:
    """The rows of ``tiles``, by name.

    Raises:
        BadImage: a tile cannot be read.
        BadAnnotation: a tile's mask does not fit.
    """
    return [_row(tile, side) for tile in sorted(tiles, key=lambda t: (t.group, t.name))]


def write_manifest(path: Path, rows: Sequence[ManifestRow]) -> str:
    """Writes the manifest whole and returns its sha256: the same tiles and split, the same bytes."""
    columns = pa.table({name: [getattr(row, name) for row in rows] for name in _SCHEMA.names}, schema=_SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(columns, buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())
    return sha256_bytes(buffer.getvalue())


def read_manifest(path: Path) -> list[ManifestRow]:
    """The manifest at ``path``.

    Raises:
        MissingInput: there is none.
        BadAnnotation: it is no such file.
    """
    try:
        return [ManifestRow(**row) for row in pq.read_table(io.BytesIO(path.read_bytes())).to_pylist()]
    except FileNotFoundError as error:
        raise MissingInput(f"There is no manifest of tiles {path}: train that version again.") from error
    except (pa.ArrowException, TypeError) as error:
        raise BadAnnotation(f"{path} is not a manifest of tiles ({error}): train that version again.") from error


def manifest_path(weights: Path) -> Path:
    """Where the manifest of the weights at ``weights`` is."""
    return weights.with_suffix(".tiles.parquet")


def known_sides(rows: Sequence[ManifestRow]) -> dict[str, Side]:
    """The side of each group, for a training that goes on from the one of this manifest.

    The tiles of a single slide are split among themselves: then its group counts as trained on, and each place of it,
    by its tiles' name, has a side of its own.
    """
    sides: dict[str, Side] = {}
    for row in rows:
        sides.setdefault(row.name.removesuffix("+ihc"), row.side)
    for row in rows:
        before = sides.get(row.group, row.side) if row.group != row.name.removesuffix("+ihc") else row.side
        sides[row.group] = row.side if before == row.side else "train"
    return sides


def validation_sha256(rows: Sequence[ManifestRow]) -> str:
    """One sha256 over the files that are validated on: versions' own scores compare only where it is the same."""
    tested = sorted({(row.image_sha256, row.mask_sha256) for row in rows if row.side == "validation"})
    return sha256_bytes(json.dumps(tested).encode())


def licences(rows: Sequence[ManifestRow]) -> str:
    """The licence of weights trained on these tiles, in words."""
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
    ]
)


def _row(tile: TilePair, side: Side) -> ManifestRow:
    image, labels = tile.read()
    return ManifestRow(
        name=tile.name,
        side=side,
        group=tile.group,
        slide=tile.slide,
        patient=tile.patient,
        licence=tile.licence,
        image_sha256=sha256_bytes(tile.image_path.read_bytes()),
        mask_sha256=sha256_bytes(tile.mask_path.read_bytes()),
        palette_sha256=sha256_bytes(json.dumps(tile.palette.to_json(), sort_keys=True).encode()),
        height_px=labels.shape[0],
        width_px=labels.shape[1],
        pixels=np.bincount(labels.ravel(), minlength=len(TISSUE_LABELS)).tolist(),
        thumbnail=thumbnail(image),
    )


def thumbnail(image: RgbImage) -> bytes:
    """The 32 × 32 grey values of an image that a manifest keeps."""
    import cv2

    grey: Any = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small: Any = cv2.resize(grey, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    return bytes(small.tobytes())
