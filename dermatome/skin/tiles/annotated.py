"""An annotated slide: one folder with an H&E image, its mask, ROIs, a palette, and perhaps an IHC image.

`slide.json` may say whom it is of and under which licence: ``{"patient": "P12", "licence": "CC BY 4.0"}``. Slides of
one patient are then never on both sides of a training's split.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from dermatome.classes import TissueClass
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.imaging.overlay import tint_tissue
from dermatome.labels.palette import Palette, decode_mask
from dermatome.reports.figures import SAMPLES_SHOWN, preview_samples
from dermatome.skin.tiles.crops import cut_tiles, load_tiles, read_rois, tiles_sha256
from dermatome.slides.plain import SUFFIXES, decode_rgb
from dermatome.storage.files import sha256_bytes, sha256_file, write_atomic
from dermatome.storage.layout import PREVIEW_FILE
from dermatome.storage.record import StageResult

_ROI_FILES = ("rois.json", "rois.geojson")
PALETTE_FILE = "palette.json"
SLIDE_FILE = "slide.json"


def annotation_version(folder: Path) -> str:
    """A hash over the files of an annotated slide.

    Raises:
        MissingInput: a file that is needed is not there.
        BadAnnotation: there are two of one kind.
    """
    text = "".join(f"{path.name} {sha256_file(path)}\n" for path in sorted(_files(folder).values()))
    return sha256_bytes(text.encode())[:32]


def make_tiles(source: Path, folder: Path) -> StageResult:
    """Cuts an annotated slide into training tiles below ``folder``.

    Raises:
        MissingInput: a file is missing.
        BadAnnotation: files do not fit one another; see `dermatome.skin.tiles.crops.cut_tiles`.
        BadImage: an image cannot be read.
    """
    files = _files(source)
    images = {kind: decode_rgb(files[kind].read_bytes(), str(files[kind]))[0] for kind in files.keys() & {"he", "ihc"}}
    palette = Palette.load(files["palette"])
    patient, licence = _about(files.get("slide"))
    rows = cut_tiles(
        source.name,
        images["he"],
        decode_mask(files["mask"].read_bytes(), palette, str(files["mask"])),
        read_rois(files["rois"]),
        folder,
        palette,
        ihc=images.get("ihc"),
        patient=patient,
        licence=licence,
    )
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
            "rois": len({row.roi for row in rows}),
            "has_ihc": "ihc" in images,
            "patient": patient or None,
            "licence": licence or None,
            "he_sha256": sha256_file(files["he"]),
            "mask_sha256": sha256_file(files["mask"]),
            "pixels": sum(row.height_px * row.width_px for row in rows),
        },
    )


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise MissingInput(f"There is no folder {folder}: put he.png, mask.png, rois.json and palette.json there.")
    found = {kind: _one(folder, [kind + suffix for suffix in SUFFIXES]) for kind in ("he", "mask", "ihc")}
    found |= {"rois": _one(folder, list(_ROI_FILES)), "palette": _one(folder, [PALETTE_FILE])}
    found |= {"slide": _one(folder, [SLIDE_FILE])}
    for kind, path in found.items():
        if path is None and kind not in ("ihc", "slide"):
            wanted = {"rois": " or ".join(_ROI_FILES), "palette": PALETTE_FILE}.get(kind, f"{kind}.png (or .jpg, .tif)")
            raise MissingInput(f"The annotated slide {folder} has no {wanted}: put it there.")
    return {kind: path for kind, path in found.items() if path is not None}


def _about(path: Path | None) -> tuple[str, str]:
    """Patient and licence of a slide, empty where nobody said."""
    if path is None:
        return "", ""
    try:
        said = json.loads(path.read_bytes())
        if not isinstance(said, dict) or not all(isinstance(said.get(k, ""), str) for k in ("patient", "licence")):
            raise TypeError("not an object of two texts")
    except (ValueError, TypeError, RecursionError) as error:
        raise BadAnnotation(
            f'{path} is not usable ({error}): write {{"patient": "P12", "licence": "CC BY 4.0"}}.'
        ) from error
    return said.get("patient", ""), said.get("licence", "")


def _one(folder: Path, names: list[str]) -> Path | None:
    there = [folder / name for name in names if (folder / name).is_file()]
    if len(there) > 1:
        raise BadAnnotation(f"{folder} has both {there[0].name} and {there[1].name}: leave one.")
    return there[0] if there else None
