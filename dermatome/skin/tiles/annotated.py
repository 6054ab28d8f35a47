"""An annotated slide: a folder with an H&E image, its mask and, optionally, ROIs, a palette and an IHC image.

The mask is an image or ``mask.geojson``. Without ROIs, everything annotated is cut. `slide.json` may state more; each
entry is optional::

    {"patient": "P12", "licence": "CC BY 4.0", "slide": "P12_a", "mpp": 0.5, "elsewhere": "background"}

Slides of one patient are never on both sides of a training's split, nor are annotations of one ``slide``. ``elsewhere``
is the class of pixels outside of all outlines in ``mask.geojson``; by default they are ignored in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from dermatome.classes import IGNORED, TISSUE_LABELS, ClassMap, TissueClass
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.geometry import Box, Size
from dermatome.imaging.overlay import tint_tissue
from dermatome.labels.palette import Palette, decode_mask
from dermatome.labels.tissue_outlines import draw_tissue
from dermatome.reports.figures import SAMPLES_SHOWN, preview_samples
from dermatome.skin.tiles.crops import PALETTE_FILE, cut_tiles, load_tiles, palette_in, tiles_sha256
from dermatome.skin.tiles.rois import Roi, read_rois
from dermatome.slides.plain import SUFFIXES, decode_rgb
from dermatome.storage.files import sha256_bytes, sha256_file, write_atomic
from dermatome.storage.layout import PREVIEW_FILE
from dermatome.storage.record import StageResult, read_stated

_ROI_FILES = ("rois.json", "rois.geojson")
_MASK_FILES = ("mask.ome.tif", "mask.geojson")
SLIDE_FILE = "slide.json"
_MARGIN_PX = 128
LARGEST_TILE_PX = 2048
"""Side limit of the tiles, px, into which annotations without ROIs are cut."""


def _class_named(label: object) -> int:
    number = Palette().class_named(str(label))
    if number is None:
        raise ValueError(f"use one of {', '.join(TISSUE_LABELS)}")
    return number


class About(BaseModel):
    """The facts in `slide.json`; empty or None if not stated."""

    model_config = ConfigDict(strict=True)

    patient: str = ""
    licence: str = ""
    slide: str = ""
    mpp: float | None = Field(default=None, ge=0.01, le=100)
    elsewhere: Annotated[int, BeforeValidator(_class_named)] = IGNORED


def annotation_version(folder: Path) -> str:
    """A hash over the files of an annotated slide.

    Raises:
        MissingInput: a required file is missing.
        BadAnnotation: there are two files of one kind.
    """
    text = "".join(f"{path.name} {sha256_file(path)}\n" for path in sorted(_files(folder).values()))
    return sha256_bytes(text.encode())[:32]


def make_tiles(source: Path, folder: Path) -> StageResult:
    """Cuts an annotated slide into training tiles below ``folder``.

    Raises:
        MissingInput: a file is missing.
        BadAnnotation: the files do not fit each other; see `dermatome.skin.tiles.crops.cut_tiles`.
        BadImage: an image cannot be read.
    """
    files = _files(source)
    images = {kind: decode_rgb(files[kind].read_bytes(), str(files[kind]))[0] for kind in files.keys() & {"he", "ihc"}}
    about, mask = _about(files), read_annotated_mask(source, Size(*images["he"].shape[:2]))
    rois = read_rois(files["rois"]) if "rois" in files else _all_known(mask)
    origin = about.model_dump(exclude={"elsewhere"})
    rows = cut_tiles(source.name, images["he"], mask, rois, folder, ihc=images.get("ihc"), **origin)
    tiles = load_tiles(folder)
    pixels = np.sum([tile.class_pixels() for tile in tiles], axis=0)
    shares = {tissue: float(pixels[tissue] / pixels.sum()) for tissue in TissueClass}
    facts = [(f"{tissue.label} {share:.1%}", tissue.colour) for tissue, share in shares.items()]
    shown = [tint_tissue(*tile.read()) for tile in tiles[:SAMPLES_SHOWN]]
    write_atomic(folder / PREVIEW_FILE, preview_samples(shown, source.name, [f"{len(rows)} tiles", *facts]))
    return StageResult(
        outcome="tiles",
        data_version=tiles_sha256(tiles)[:32],
        values={
            "tiles": len(rows),
            **{f"{tissue.label}_share": share for tissue, share in shares.items()},
            "rois": len({row["roi"] for row in rows}),
            "has_ihc": "ihc" in images,
            "patient": about.patient or None,
            "licence": about.licence or None,
            "he_sha256": sha256_file(files["he"]),
            "mask_sha256": sha256_file(files["mask"]),
            "pixels": sum(row["height_px"] * row["width_px"] for row in rows),
        },
    )


def read_annotated_mask(source: Path, size: Size) -> ClassMap:
    """Reads the mask of an annotated slide, which must have the size of its image.

    Raises:
        MissingInput: there is no mask.
        BadAnnotation, BadImage: it does not fit its image, its palette or its format.
    """
    files = _files(source)
    path, palette = files["mask"], palette_in(source)
    if path.suffix == ".geojson":
        return draw_tissue(path, size, palette, _about(files).elsewhere)
    return decode_mask(path.read_bytes(), palette, str(path))


def _about(files: Mapping[str, Path]) -> About:
    return read_stated(files.get("slide"), About, '{"patient": "P12", "licence": "CC BY 4.0"}')


def _all_known(mask: ClassMap) -> list[Roi]:
    """Tiles that cover all pixels with a class, and a margin around them as context for the network."""
    box = Box.around(mask != IGNORED)
    blocks = box.expanded(_MARGIN_PX, Size(*mask.shape)).blocks(LARGEST_TILE_PX) if box else ()
    return [Roi(f"{part.top_px}-{part.left_px}", part) for part in blocks]


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise MissingInput(f"There is no folder {folder}: put he.png and mask.png (or mask.geojson) there.")
    masks = [f"mask{suffix}" for suffix in SUFFIXES]
    found = {
        "he": _one(folder, [f"he{suffix}" for suffix in SUFFIXES]),
        "ihc": _one(folder, [f"ihc{suffix}" for suffix in SUFFIXES]),
        "mask": _one(folder, [*masks, *_MASK_FILES]),
        "rois": _one(folder, list(_ROI_FILES)),
        "palette": _one(folder, [PALETTE_FILE]),
        "slide": _one(folder, [SLIDE_FILE]),
    }
    for kind, others in (("he", ""), ("mask", ", or mask.geojson")):
        if found[kind] is None:
            raise MissingInput(f"The annotated slide {folder} has no {kind}.png (or .jpg, .tif{others}): put it there.")
    return {kind: path for kind, path in found.items() if path is not None}


def _one(folder: Path, names: list[str]) -> Path | None:
    there = [folder / name for name in names if (folder / name).is_file()]
    if len(there) > 1:
        raise BadAnnotation(f"{folder} has both {there[0].name} and {there[1].name}: keep one of them.")
    return there[0] if there else None
