"""Training tiles: cut out of annotated slides by saved regions of interest, and read back for training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import IGNORED, TISSUE_LABELS, ClassMap, RgbImage
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.geometry import Box, Size
from dermatome.labels.palette import Palette, PaletteName, decode_mask
from dermatome.registry.manifest import ManifestRow, manifest_row
from dermatome.reports.figures import png_bytes
from dermatome.skin.tiles.rois import MIN_TILE_PX, Roi, read_rois
from dermatome.slides.plain import SUFFIXES, decode_rgb
from dermatome.storage.files import atomic_file, safe_id, sha256_bytes, write_atomic
from dermatome.training.data import Side

__all__ = ["CutTile", "Roi", "TilePair", "cut_tiles", "load_tiles", "manifest_rows", "read_rois", "tiles_sha256"]

MANIFEST = "tiles.json"
PALETTE_FILE = "palette.json"


@dataclass(frozen=True)
class CutTile:
    """One training tile as it was cut: the row of the manifest.

    Attributes:
        name: ``<image>_<roi>``, with ``_<row>-<column>`` where the ROI is divided.
        image: the slide that it shows a part of.
        roi: the ROI's name.
        top_px: of the tile on the slide.
        left_px: likewise.
        height_px: its size.
        width_px: likewise.
        image_sha256: of the image file.
        mask_sha256: of the mask file.
        has_ihc: whether the matching IHC image was cut too.
        patient: whom the slide is of; empty where that is not known.
        licence: of the slide; empty where that is not known.
        mpp: microns per pixel; ``None`` where the annotation does not state it.
    """

    name: str
    image: str
    roi: str
    top_px: int
    left_px: int
    height_px: int
    width_px: int
    image_sha256: str
    mask_sha256: str
    has_ihc: bool
    patient: str = ""
    licence: str = ""
    mpp: float | None = None


@dataclass(frozen=True)
class TilePair:
    """A training tile on disk, read when it is asked for.

    Attributes:
        name: the common stem.
        image_path: RGB image.
        mask_path: mask in the palette's colours, or of numbers.
        palette: what stands for each class in the mask; ``None`` for the numbers of the classes.
        group: what must not be on both sides of a split: the patient, or the slide where the patient is not known, or
            the tile's own name where neither is.
        slide: the slide it is of; empty where that is not known.
        patient: likewise.
        licence: likewise.
        mpp: microns per pixel; ``None`` where that is not known, and the settings of the training count.
    """

    name: str
    image_path: Path
    mask_path: Path
    palette: Palette | None
    group: str
    slide: str = ""
    patient: str = ""
    licence: str = ""
    mpp: float | None = None

    @property
    def place(self) -> str:
        """The name of its mask: the two stains of one place have the same."""
        return self.mask_path.stem

    def class_pixels(self) -> npt.NDArray[np.int64]:
        """(C,) pixels of each class; raises as :meth:`read` does."""
        return pixels_of_classes(self.read()[1])

    def read(self) -> tuple[RgbImage, ClassMap]:
        """(H, W, 3) uint8 RGB and (H, W) uint8 classes, :data:`IGNORED` where nobody knows.

        Raises:
            BadImage: a file is damaged or no image.
            BadAnnotation: image and mask differ in size, or the mask has a colour that the palette does not know.
        """
        image, _ = decode_rgb(self.image_path.read_bytes(), str(self.image_path))
        mask = decode_mask(self.mask_path.read_bytes(), self.palette, str(self.mask_path))
        _check_same_size(image, mask, str(self.image_path), str(self.mask_path))
        return image, mask


def pixels_of_classes(mask: ClassMap) -> npt.NDArray[np.int64]:
    """(C,) pixels of each class; ignored ones do not count."""
    return np.bincount(mask.ravel(), minlength=len(TISSUE_LABELS))[: len(TISSUE_LABELS)].astype(np.int64)


def cut_tiles(
    name: str,
    image: RgbImage,
    mask: ClassMap,
    rois: Sequence[Roi],
    folder: Path,
    *,
    ihc: RgbImage | None = None,
    slide: str = "",
    patient: str = "",
    licence: str = "",
    mpp: float | None = None,
) -> list[CutTile]:
    """Cuts each ROI from a slide, its mask and, where given, its IHC image, into ``folder``.

    Everything is checked before anything is written. Files are PNG in ``images/``, ``masks/`` (numbers of classes) and
    ``ihc/``, beside the manifest ``tiles.json``; :func:`load_tiles` reads them back. A part of an ROI in which
    everything is ignored is left out.

    Args:
        name: of the annotation, used in the tiles' names.
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8 classes, :data:`IGNORED` where nobody knows.
        rois: where to cut.
        folder: for the tiles of this slide.
        ihc: (H, W, 3) uint8, registered to ``image``.
        slide: that the image shows a part of; empty if it is the whole slide.
        patient: whom the slide is of, where that is known.
        licence: of the slide, where that is known.
        mpp: microns per pixel of the image, where that is known.

    Raises:
        BadAnnotation: sizes differ, an ROI is not inside the image or too small to divide, or nothing in them is known.
        StorageFailed: a name is not usable, or the disk is full or not writable.
    """
    size = Size(*image.shape[:2])
    _check_same_size(image, mask, f"The image {name}", "its mask")
    if ihc is not None:
        _check_same_size(image, ihc, f"The image {name}", "its IHC image")
    parts: list[tuple[str, Roi, Box]] = []
    for roi in rois:
        if not roi.box.fits(size):
            raise BadAnnotation(
                f"The ROI {roi.name!r} of {name} (rows {roi.box.top_px} to {roi.box.bottom_px}, columns "
                f"{roi.box.left_px} to {roi.box.right_px}) is not inside the image of {size.width_px}×"
                f"{size.height_px} px: correct its coordinates, or check that it belongs to this image."
            )
        parts += [(safe_id(part, "tile name"), roi, box) for part, box in _divided(name, roi)]
    parts = [(part, roi, box) for part, roi, box in parts if (mask[box.slices] != IGNORED).any()]
    if not parts:
        raise BadAnnotation(f"No pixel in the ROIs of {name} has a class: annotate something in them.")
    rows = []
    for part, roi, box in parts:
        image_file, mask_file = png_bytes(image[box.slices]), png_bytes(mask[box.slices])
        write_atomic(folder / "images" / f"{part}.png", image_file)
        write_atomic(folder / "masks" / f"{part}.png", mask_file)
        if ihc is not None:
            write_atomic(folder / "ihc" / f"{part}.png", png_bytes(ihc[box.slices]))
        rows.append(
            CutTile(
                name=part,
                image=slide or name,
                roi=roi.name,
                top_px=box.top_px,
                left_px=box.left_px,
                height_px=box.size.height_px,
                width_px=box.size.width_px,
                image_sha256=sha256_bytes(image_file),
                mask_sha256=sha256_bytes(mask_file),
                has_ihc=ihc is not None,
                patient=patient,
                licence=licence,
                mpp=mpp,
            )
        )
    with atomic_file(folder / MANIFEST) as file:
        file.write(json.dumps({"tiles": [asdict(row) for row in rows]}, indent=2).encode() + b"\n")
    return rows


def load_tiles(*folders: Path, palette: PaletteName | None = None) -> list[TilePair]:
    """The training tiles in folders with ``images/`` and ``masks/`` (same stems), by name.

    Masks hold numbers of classes, or what ``palette.json`` beside the folders lists. A matching image in ``ihc/`` shows
    the same tissue, so with the same mask it is a tile too, named ``<stem>+ihc``: a network that saw both stains finds
    epidermis in both.

    Args:
        folders: of tiles; ``Images/`` and ``Masks/`` are read too, as public data sets name them.
        palette: shipped palette of folders without ``palette.json``.

    Raises:
        MissingInput: a folder, or a mask or image of a pair is missing, or there are no tiles at all.
        BadAnnotation: the palette is wrong, or two files have one stem.
    """
    pairs: list[TilePair] = []
    for folder in folders:
        colours = palette_in(folder)
        if palette is not None and not (folder / "palette.json").is_file():
            colours = Palette.shipped(palette)
        images, masks = (_by_stem(_spelt(folder, name)) for name in ("images", "masks"))
        alone = sorted(images.keys() ^ masks.keys())
        if alone:
            lacks = "mask" if alone[0] in images else "image"
            raise MissingInput(
                f"{len(alone)} of the tiles in {folder} have no partner (for example {alone[0]!r} has no {lacks}): "
                "give image and mask the same stem."
            )
        origins = _origins(folder / MANIFEST)
        ihc = _by_stem(folder / "ihc") if (folder / "ihc").is_dir() else {}
        seen = [(n, n, images[n]) for n in sorted(images)] + [
            (f"{n}+ihc", n, ihc[n]) for n in sorted(ihc) if n in masks
        ]
        for name, stem, image in seen:
            slide, patient, licence, mpp = origins.get(stem, ("", "", "", None))
            group = patient or slide or stem
            pairs.append(TilePair(name, image, masks[stem], colours, group, slide, patient, licence, mpp))
    if not pairs:
        raise MissingInput(f"There are no tiles in {', '.join(map(str, folders))}: put some in images/ and masks/.")
    return pairs


def palette_in(folder: Path) -> Palette | None:
    """The palette of the masks in a folder; ``None`` if there is no ``palette.json``.

    Raises:
        BadAnnotation: the palette is wrong.
    """
    path = folder / PALETTE_FILE
    return Palette.load(path) if path.is_file() else None


def manifest_rows(tiles: Sequence[TilePair], side: Side) -> list[ManifestRow]:
    """The manifest rows of tiles, by group and name; raises as :meth:`TilePair.read` does."""
    rows = []
    for tile in sorted(tiles, key=lambda tile: (tile.group, tile.name)):
        image, labels = tile.read()
        palette = json.dumps(tile.palette.to_json(), sort_keys=True).encode() if tile.palette else b""
        image_sha256, mask_sha256 = (sha256_bytes(path.read_bytes()) for path in (tile.image_path, tile.mask_path))
        more = {"licence": tile.licence, "palette_sha256": sha256_bytes(palette) if palette else ""}
        pixels = pixels_of_classes(labels).tolist()
        rows.append(manifest_row(tile, side, image, image_sha256, mask_sha256, pixels, **more))
    return rows


def tiles_sha256(tiles: Iterable[TilePair]) -> str:
    """One sha256 over names, files, palettes and origins of ``tiles``, whatever their order."""
    total = hashlib.sha256()
    for tile in sorted(tiles, key=lambda t: (t.name, str(t.image_path))):
        image, mask = tile.image_path.read_bytes(), tile.mask_path.read_bytes()
        line: list[Any] = [tile.name, sha256_bytes(image), sha256_bytes(mask), tile.palette and tile.palette.to_json()]
        line += [tile.slide, tile.patient, tile.licence, *([tile.mpp] if tile.mpp else [])]
        total.update(json.dumps(line).encode())
    return total.hexdigest()


def _spelt(folder: Path, name: str) -> Path:
    """``name`` in ``folder``, or the same with a capital, if that is there."""
    return next((path for path in (folder / name, folder / name.title()) if path.is_dir()), folder / name)


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise MissingInput(f"There is no folder {folder}: training tiles need images/ and masks/.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise BadAnnotation(f"{folder} has two files for the tile {path.stem!r}: leave one.")
        found[path.stem] = path
    return found


def _origins(manifest: Path) -> dict[str, tuple[str, str, str, float | None]]:
    """For each tile's name its slide, patient, licence and mpp, empty where the manifest does not know them."""
    if not manifest.is_file():
        return {}
    try:
        return {
            str(row["name"]): (
                str(row["image"]),
                str(row.get("patient", "")),
                str(row.get("licence", "")),
                row.get("mpp"),
            )
            for row in json.loads(manifest.read_text())["tiles"]
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadAnnotation(f"{manifest} is not a manifest of tiles ({error!r}): cut the tiles again.") from error


def _divided(name: str, roi: Roi) -> list[tuple[str, Box]]:
    size, n = roi.box.size, roi.divide
    if n == 1:
        return [(f"{name}_{roi.name}", roi.box)]
    height, width = size.height_px // n, size.width_px // n
    if not roi.divisible:
        raise BadAnnotation(
            f"The ROI {roi.name!r} of {name} is {size.width_px}×{size.height_px} px and cannot be divided by {n}: "
            f"use a smaller number, so that each part has at least {MIN_TILE_PX} px a side."
        )
    parts = []
    for row in range(n):
        for column in range(n):
            top, left = roi.box.top_px + row * height, roi.box.left_px + column * width
            parts.append((f"{name}_{roi.name}_{row + 1}-{column + 1}", Box(top, left, top + height, left + width)))
    return parts


def _check_same_size(one: npt.NDArray[Any], two: npt.NDArray[Any], one_name: str, two_name: str) -> None:
    if one.shape[:2] != two.shape[:2]:
        raise BadAnnotation(
            f"{one_name} is {one.shape[1]}×{one.shape[0]} px and {two_name} is {two.shape[1]}×{two.shape[0]} px: "
            "export both at the same size."
        )
