"""Annotated cells: a folder of images, each with its cells in a file beside it.

The file has the image's stem: ``<stem>.xml`` (Aperio ImageScope, as MoNuSeg and MoNuSAC have it), ``<stem>.geojson``
(QuPath), or a label image, ``<stem>_labels.tif`` or ``.png`` (also ``_masks``, as Cellpose names it), whose pixels hold
a number for each cell and 0 elsewhere. ``about.json`` may say what no file states, of all images or of one patient's::

    {"mpp": 0.25, "licence": "CC BY-NC-SA 4.0", "patients": {"<stem>": "P12"}}
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from dermatome.classes import Instances
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.geometry import Size
from dermatome.registry.manifest import ManifestRow, thumbnail
from dermatome.slides.plain import SUFFIXES
from dermatome.slides.slide import DECLARED_MPP, MppSource, Slide, read_slide
from dermatome.storage.files import sha256_bytes, sha256_file
from dermatome.training.data import Side

ABOUT_FILE = "about.json"
_LABEL_ENDINGS = ("_labels", "_masks")
_OUTLINE_SUFFIXES = (".xml", ".geojson")
_MAX_JSON_BYTES = 256 * 1024 * 1024
_MAX_COORDINATE = 10_000_000.0


@dataclass(frozen=True)
class AnnotatedCells:
    """An image and the file of its cells, read when they are asked for.

    Attributes:
        name: folder and stem.
        image_path: RGB image.
        annotation_path: of its cells.
        slide: the image's stem.
        patient: whom it is of; empty where nobody said.
        licence: likewise.
        mpp: microns per pixel as ``about.json`` has it; ``None`` where it does not.
        declared_mpp: what counts where no file states it.
    """

    name: str
    image_path: Path
    annotation_path: Path
    slide: str
    patient: str = ""
    licence: str = ""
    mpp: float | None = None
    declared_mpp: float = DECLARED_MPP

    @property
    def group(self) -> str:
        """The patient, or the slide where nobody said: never on both sides of a split."""
        return self.patient or self.slide

    @property
    def place(self) -> str:
        """Each image shows a place of its own."""
        return self.name

    def read(self) -> tuple[Slide, Instances]:
        """The image, and (H, W) int32, 0 or the cell's number 1..N.

        The scale is that of ``about.json``, else the image file's own, else the one its XML states, else the declared.

        Raises:
            BadImage: the image is damaged or no image.
            BadAnnotation: the file of cells cannot be read, is of another size, or has no cell.
        """
        slide = read_slide(self.image_path, declared_mpp=self.mpp or self.declared_mpp, mpp_given=self.mpp is not None)
        labels, stated_mpp = _read_cells(self.annotation_path, slide.size)
        if not labels.any():
            raise BadAnnotation(
                f"{self.annotation_path} has no cell inside its image: check that they belong together."
            )
        if self.mpp is not None:
            slide = replace(slide, mpp=self.mpp, mpp_source=MppSource.DECLARED)
        elif stated_mpp is not None and slide.mpp_source is MppSource.DECLARED:
            slide = replace(slide, mpp=stated_mpp, mpp_source=MppSource.FILE)
        return slide, labels

    def class_pixels(self) -> npt.NDArray[np.int64]:
        """(2,) pixels outside and inside of cells; raises as :meth:`read` does."""
        return np.bincount(self.read()[1].ravel() > 0, minlength=2).astype(np.int64)


def find_annotated(*folders: Path, declared_mpp: float = DECLARED_MPP) -> list[AnnotatedCells]:
    """The annotated images in folders, by name.

    Args:
        folders: of images and their files of cells.
        declared_mpp: microns per pixel where no file states it.

    Raises:
        MissingInput: a folder or the cells of an image are missing, or there are no images at all.
        BadAnnotation: an image has two files of cells, two images have one name, or ``about.json`` is not usable.
    """
    found: dict[str, AnnotatedCells] = {}
    for folder in folders:
        if not folder.is_dir():
            raise MissingInput(f"There is no folder {folder}: put images there, each with its cells beside it.")
        about = _About.read(folder / ABOUT_FILE)
        for image in sorted(folder.iterdir()):
            if image.suffix.lower() not in SUFFIXES or image.stem.endswith(_LABEL_ENDINGS) or image.name[0] == ".":
                continue
            name = f"{folder.name}/{image.stem}"
            if name in found:
                raise BadAnnotation(f"There are two images {name!r}: rename one, or one of their folders.")
            cells, patient = _beside(image), about.patients.get(image.stem, "")
            found[name] = AnnotatedCells(
                name, image, cells, image.stem, patient, about.licence, about.mpp, declared_mpp
            )
    if not found:
        raise MissingInput(f"There are no annotated images in {', '.join(map(str, folders))}: put some there.")
    return list(found.values())


def annotated_sha256(images: Iterable[AnnotatedCells]) -> str:
    """One sha256 over names, files, stated scales and origins of ``images``, whatever their order."""
    total = hashlib.sha256()
    for image in sorted(images, key=lambda i: (i.name, str(i.image_path))):
        files = [sha256_file(image.image_path), sha256_file(image.annotation_path)]
        stated = [image.mpp, image.declared_mpp, image.patient, image.licence]
        total.update(json.dumps([image.name, *files, *stated]).encode())
    return total.hexdigest()


def cell_manifest_rows(images: Iterable[AnnotatedCells], side: Side) -> Iterator[ManifestRow]:
    """The manifest's row of each image, by name; raises as :meth:`AnnotatedCells.read` does."""
    for image in sorted(images, key=lambda i: (i.group, i.name)):
        slide, labels = image.read()
        yield ManifestRow(
            name=image.name,
            side=side,
            group=image.group,
            slide=image.slide,
            patient=image.patient,
            licence=image.licence,
            image_sha256=sha256_bytes(image.image_path.read_bytes()),
            mask_sha256=sha256_bytes(image.annotation_path.read_bytes()),
            palette_sha256="",
            height_px=labels.shape[0],
            width_px=labels.shape[1],
            pixels=np.bincount(labels.ravel() > 0, minlength=2).tolist(),
            thumbnail=thumbnail(slide.whole()),
        )


@dataclass(frozen=True)
class _About:
    """What ``about.json`` says of the images of its folder."""

    mpp: float | None
    licence: str
    patients: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> _About:
        if not path.is_file():
            return cls(None, "", {})
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            mpp, licence, patients = said.get("mpp"), said.get("licence", ""), said.get("patients", {})
            usable = isinstance(licence, str) and all(isinstance(p, str) for p in patients.values())
            if not usable or not (mpp is None or 0.01 <= float(mpp) <= 100):
                raise TypeError("a text, or a scale of 0.01 to 100, is something else")
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise BadAnnotation(
                f'{path} is not usable ({error}): write {{"mpp": 0.25, "licence": "CC BY 4.0", "patients": {{}}}}.'
            ) from error
        return cls(None if mpp is None else float(mpp), licence, patients)


def _beside(image: Path) -> Path:
    ends = [f"{ending}{suffix}" for ending in _LABEL_ENDINGS for suffix in (".tif", ".tiff", ".png")]
    there = [path for end in (*_OUTLINE_SUFFIXES, *ends) if (path := image.with_name(image.stem + end)).is_file()]
    if not there:
        raise MissingInput(
            f"There are no cells beside {image}: put {image.stem}.xml, {image.stem}.geojson or {image.stem}_labels.tif "
            "there."
        )
    if len(there) > 1:
        raise BadAnnotation(f"{image} has both {there[0].name} and {there[1].name}: leave one.")
    return there[0]


def _read_cells(path: Path, size: Size) -> tuple[Instances, float | None]:
    """The cells in a file, and the scale it states."""
    if path.suffix not in _OUTLINE_SUFFIXES:
        return read_label_image(path, size), None
    from dermatome.labels.drawn_maps import AMBIGUOUS, draw_nuclei
    from dermatome.labels.imagescope import Annotation, read_annotation

    read = read_annotation(path) if path.suffix == ".xml" else read_geojson(path)
    # Of which class a cell is does not matter here; what nobody could tell is no cell.
    regions = (replace(r, name="" if r.name.casefold() != AMBIGUOUS else AMBIGUOUS) for r in read.regions)
    return draw_nuclei(Annotation(tuple(regions), read.mpp, read.source), size).instances, read.mpp


def read_label_image(path: Path, size: Size) -> Instances:
    """A label image, its cells numbered 1..N without gaps.

    Args:
        path: PNG or TIFF of whole numbers, one channel.
        size: of the image it belongs to; checked before anything is decoded.

    Raises:
        BadAnnotation: damaged, of another size, or no label image.
    """
    try:
        with warnings.catch_warnings(), Image.open(path, formats=("PNG", "TIFF")) as opened:
            warnings.simplefilter("ignore")
            if opened.size != (size.width_px, size.height_px):
                raise BadAnnotation(
                    f"{path} is {opened.width}×{opened.height} px and its image {size.width_px}×{size.height_px}: "
                    "export both at the same size."
                )
            if opened.mode not in ("L", "I", "I;16", "I;16B", "I;16L"):
                raise BadAnnotation(f"{path} holds colours, not a number for each cell: export it as 16-bit labels.")
            values = np.asarray(opened)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, EOFError) as error:
        raise BadAnnotation(f"{path} cannot be read as a label image ({error}): export it again.") from error
    if values.min(initial=0) < 0:
        raise BadAnnotation(f"{path} holds numbers below 0: number cells from 1, with 0 for the background.")
    numbers, inverse = np.unique(values, return_inverse=True)
    labels: Any = inverse.reshape(values.shape) + (0 if numbers[0] == 0 else 1)
    return np.asarray(labels, dtype=np.int32)


def read_geojson(path: Path) -> Any:
    """The outlines of polygons in a GeoJSON file (QuPath's), in pixels of the image; holes count as filled.

    Raises:
        BadAnnotation: no such file, or larger than any export is.
    """
    from dermatome.labels.imagescope import Annotation, Region

    if path.stat().st_size > _MAX_JSON_BYTES:
        raise BadAnnotation(f"{path} is larger than {_MAX_JSON_BYTES >> 20} MB: export fewer cells to a file.")
    regions = []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        features = content if isinstance(content, list) else content.get("features", [content])
        for feature in features:
            geometry = feature["geometry"]
            if geometry["type"] not in ("Polygon", "MultiPolygon"):
                raise ValueError(f"a {geometry['type']} is no outline of a cell")
            parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
            regions += [Region(np.array([[float(x), float(y)] for x, y, *_ in part[0]]), "") for part in parts]
        if not all((np.abs(region.outline) <= _MAX_COORDINATE).all() for region in regions):
            raise ValueError("a coordinate is no place on an image")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise BadAnnotation(f"{path} is no GeoJSON of polygons ({error!r}): export cells from QuPath again.") from error
    return Annotation(tuple(regions), None, path.name)
