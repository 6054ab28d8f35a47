"""Training tiles: cut from annotated slides by saved ROIs, and read for training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dermatome.classes import IGNORED, TISSUE_LABELS, ClassMap, RgbImage
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.geometry import Box, Size
from dermatome.labels.palette import Palette, PaletteName, decode_mask
from dermatome.registry.manifest import ManifestRow, manifest_row
from dermatome.reports.figures import png_bytes
from dermatome.skin.tiles.rois import MIN_TILE_PX, Roi
from dermatome.slides.plain import SUFFIXES, decode_rgb
from dermatome.storage.files import safe_id, sha256_bytes, sha256_file, write_atomic
from dermatome.training.data import Side

MANIFEST = "tiles.json"
PALETTE_FILE = "palette.json"


@dataclass(frozen=True, kw_only=True)
class AnnotatedImage:
    """An image and its annotation on disk, read on demand.

    Attributes:
        name: name of the sample.
        image_path: path of the RGB image.
        mask_path: path of its annotation.
        slide: the slide that it is part of; empty if unknown.
        patient: the patient; empty if unknown.
        licence: the licence; empty if unknown.
        mpp: microns per pixel; None if not stated, so that the training's settings are used.
    """

    name: str
    image_path: Path
    mask_path: Path
    slide: str = ""
    patient: str = ""
    licence: str = ""
    mpp: float | None = None

    @property
    def place(self) -> str:
        """The same for samples that show the same tissue."""
        return self.name

    @property
    def group(self) -> str:
        """The patient, else the slide, else the place; a group is never on both sides of a split."""
        return self.patient or self.slide or self.place

    def manifest_row(self, side: Side, rgb: RgbImage, pixels: npt.NDArray[np.int64], **rest: str) -> ManifestRow:
        """The row of the manifest; ``rest`` are its other fields."""
        image, mask = sha256_file(self.image_path), sha256_file(self.mask_path)
        return manifest_row(self, side, rgb, image, mask, pixels.tolist(), licence=self.licence, **rest)

    def class_pixels(self) -> npt.NDArray[np.int64]:
        """(C,) number of pixels of each class; raises the errors of reading."""
        raise NotImplementedError


A = TypeVar("A", bound=AnnotatedImage)


def samples_sha256(samples: Iterable[A], stated: Callable[[A], list[Any]]) -> str:
    """One sha256 over names, files and further facts of samples, independent of their order."""
    total = hashlib.sha256()
    for sample in sorted(samples, key=lambda sample: (sample.name, str(sample.image_path))):
        files = [sha256_file(path) for path in (sample.image_path, sample.mask_path)]
        total.update(json.dumps([sample.name, *files, *stated(sample)]).encode())
    return total.hexdigest()


@dataclass(frozen=True, kw_only=True)
class TilePair(AnnotatedImage):
    """A training tile; ``palette`` is that of its mask, None if the mask contains class numbers."""

    palette: Palette | None = None

    @property
    def place(self) -> str:
        """The name of its mask, which the two stains of one place share."""
        return self.mask_path.stem

    def class_pixels(self) -> npt.NDArray[np.int64]:
        """(C,) number of pixels of each class; raises the errors of :meth:`read`."""
        return pixels_of_classes(self.read()[1])

    def read(self) -> tuple[RgbImage, ClassMap]:
        """(H, W, 3) uint8 RGB and (H, W) uint8 classes, :data:`IGNORED` for pixels of unknown class.

        Raises:
            BadImage: a file is damaged or not an image.
            BadAnnotation: image and mask differ in size, or the mask has a colour that the palette lacks.
        """
        image, _ = decode_rgb(self.image_path.read_bytes(), str(self.image_path))
        mask = decode_mask(self.mask_path.read_bytes(), self.palette, str(self.mask_path))
        _check_same_size(image, mask, str(self.image_path), str(self.mask_path))
        return image, mask


def pixels_of_classes(mask: ClassMap) -> npt.NDArray[np.int64]:
    """(C,) number of pixels of each class, without ignored ones."""
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
) -> list[dict[str, Any]]:
    """Cuts each ROI from a slide, its mask and, if given, its IHC image, into ``folder``.

    Everything is checked before anything is written. Files are PNG in ``images/``, ``masks/`` (class numbers) and
    ``ihc/``, beside the manifest ``tiles.json``; :func:`load_tiles` reads them. A part of an ROI whose pixels are all
    ignored is left out.

    Tiles are named after the annotation (``name``). ``ihc`` is registered to ``image``; ``slide`` is the one that the
    image is a part of, empty if it is the whole slide. An unknown patient, licence or scale is not recorded.

    Returns:
        The rows of the manifest.

    Raises:
        BadAnnotation: sizes differ, an ROI is not inside the image or too small to divide, or all of them are ignored.
        StorageFailed: a name is not valid, or the disk is full or not writable.
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
        place = {"top_px": box.top_px, "left_px": box.left_px, **vars(box.size)}
        hashes = {"image_sha256": sha256_bytes(image_file), "mask_sha256": sha256_bytes(mask_file)}
        about = {"has_ihc": ihc is not None, "patient": patient, "licence": licence, "mpp": mpp}
        rows.append({"name": part, "image": slide or name, "roi": roi.name, **place, **hashes, **about})
    write_atomic(folder / MANIFEST, json.dumps({"tiles": rows}, indent=2).encode() + b"\n")
    return rows


def load_tiles(*folders: Path, palette: PaletteName | None = None) -> list[TilePair]:
    """The training tiles in folders with ``images/`` and ``masks/`` (same stems), by name.

    Masks contain class numbers, or what ``palette.json`` beside the folders lists. A matching image in ``ihc/`` shows
    the same tissue, so it is also a tile, with the same mask and the name ``<stem>+ihc``: a network trained on both
    stains finds epidermis in both.

    ``Images/`` and ``Masks/`` are read too, as in public data sets. ``palette`` is the shipped palette for folders
    without ``palette.json``.

    Raises:
        MissingInput: a folder, or the mask or image of a pair is missing, or there are no tiles at all.
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
        for suffix, shown in (("", images), ("+ihc", ihc)):
            pairs += [
                TilePair(
                    name=stem + suffix, image_path=shown[stem], mask_path=masks[stem], palette=colours,
                    **origins.get(stem, {}),
                )
                for stem in sorted(shown.keys() & masks.keys())
            ]  # fmt: skip
    if not pairs:
        raise MissingInput(f"There are no tiles in {', '.join(map(str, folders))}: put some in images/ and masks/.")
    return pairs


def palette_in(folder: Path) -> Palette | None:
    """The palette of the masks in a folder; None if there is no ``palette.json``.

    Raises:
        BadAnnotation: the palette is wrong.
    """
    path = folder / PALETTE_FILE
    return Palette.load(path) if path.is_file() else None


def manifest_rows(tiles: Sequence[TilePair], side: Side) -> list[ManifestRow]:
    """The manifest rows of tiles, by group and name; raises the errors of :meth:`TilePair.read`."""
    rows = []
    for tile in sorted(tiles, key=lambda tile: (tile.group, tile.name)):
        image, labels = tile.read()
        colours = json.dumps(tile.palette.to_json(), sort_keys=True) if tile.palette else ""
        palette = sha256_bytes(colours.encode()) if colours else ""
        rows.append(tile.manifest_row(side, image, pixels_of_classes(labels), palette_sha256=palette))
    return rows


def tiles_sha256(tiles: Iterable[TilePair]) -> str:
    """One sha256 over names, files, palettes and origins of ``tiles``, independent of their order."""

    def stated(tile: TilePair) -> list[Any]:
        scale = [tile.mpp] if tile.mpp else []
        return [tile.palette and tile.palette.to_json(), tile.slide, tile.patient, tile.licence, *scale]

    return samples_sha256(tiles, stated)


def _spelt(folder: Path, name: str) -> Path:
    """``name`` in ``folder``, or the capitalised name if that exists."""
    return next((path for path in (folder / name, folder / name.title()) if path.is_dir()), folder / name)


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise MissingInput(f"There is no folder {folder}: training tiles need images/ and masks/.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise BadAnnotation(f"{folder} has two files for the tile {path.stem!r}: keep one of them.")
        found[path.stem] = path
    return found


def _origins(manifest: Path) -> dict[str, dict[str, Any]]:
    """Slide, patient, licence and mpp of each tile by name; empty if the manifest does not state them."""
    if not manifest.is_file():
        return {}
    try:
        return {
            str(row["name"]): {"slide": str(row["image"]), "mpp": row.get("mpp")}
            | {key: str(row.get(key, "")) for key in ("patient", "licence")}
            for row in json.loads(manifest.read_text())["tiles"]
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadAnnotation(f"{manifest} is not a manifest of tiles ({error!r}): cut the tiles again.") from error


def _divided(name: str, roi: Roi) -> list[tuple[str, Box]]:
    size, n = roi.box.size, roi.divide
    if n == 1:
        return [(f"{name}_{roi.name}", roi.box)]
    if not roi.divisible:
        raise BadAnnotation(
            f"The ROI {roi.name!r} of {name} is {size.width_px}×{size.height_px} px and cannot be divided by {n}: "
            f"use a smaller number, so that each part has at least {MIN_TILE_PX} px a side."
        )
    height, width = size.height_px // n, size.width_px // n
    first = Box(0, 0, height, width).moved(roi.box.top_px, roi.box.left_px)
    return [
        (f"{name}_{roi.name}_{row + 1}-{column + 1}", first.moved(row * height, column * width))
        for row in range(n)
        for column in range(n)
    ]


def _check_same_size(one: npt.NDArray[Any], two: npt.NDArray[Any], one_name: str, two_name: str) -> None:
    if one.shape[:2] != two.shape[:2]:
        raise BadAnnotation(
            f"{one_name} is {one.shape[1]}×{one.shape[0]} px and {two_name} is {two.shape[1]}×{two.shape[0]} px: "
            "export both at the same size."
        )
