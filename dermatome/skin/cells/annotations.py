"""Annotated cells: a folder of images, each with a file of its cells beside it.

:mod:`dermatome.labels.annotation_files` lists the supported files. ``about.json`` may state facts that are in no file,
for all images or for those of one patient::

    {"mpp": 0.25, "licence": "CC BY-NC-SA 4.0", "patients": {"<stem>": "P12"}}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from dermatome.classes import Instances
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.labels.annotation_files import annotations_in, in_words, is_annotation, read_maps
from dermatome.labels.drawn_maps import NucleusMaps
from dermatome.registry.manifest import ManifestRow
from dermatome.skin.tiles.crops import AnnotatedImage, samples_sha256
from dermatome.slides.plain import SUFFIXES
from dermatome.slides.slide import DECLARED_MPP, MppSource, Slide, read_slide
from dermatome.storage.record import read_stated
from dermatome.training.data import Side

ABOUT_FILE = "about.json"


@dataclass(frozen=True, kw_only=True)
class AnnotatedCells(AnnotatedImage):
    """An image and the file of its cells; ``declared_mpp`` is used if no file states the microns per pixel."""

    declared_mpp: float = DECLARED_MPP

    def read(self) -> tuple[Slide, Instances]:
        """The image, and (H, W) int32 instances: 0 or the cell's number 1..N.

        The scale is that of ``about.json``, else of the image file, else of the XML, else ``declared_mpp``.

        Raises:
            BadImage: the image is damaged or not an image.
            BadAnnotation: the file of cells cannot be read, is of another size, or has no cell.
        """
        slide, maps = self.read_maps()
        return slide, maps.instances

    def read_maps(self) -> tuple[Slide, NucleusMaps]:
        """The image, and its cells with what was left out of the annotation; raises the errors of :meth:`read`."""
        slide = read_slide(self.image_path, declared_mpp=self.mpp or self.declared_mpp, mpp_given=self.mpp is not None)
        maps, stated_mpp = read_maps(self.mask_path, slide.size, classes=False)
        if not maps.instances.any():
            raise BadAnnotation(f"{self.mask_path} has no cell inside its image: check that they belong together.")
        if self.mpp is not None:
            slide = replace(slide, mpp=self.mpp, mpp_source=MppSource.DECLARED)
        elif stated_mpp is not None and slide.mpp_source is MppSource.DECLARED:
            slide = replace(slide, mpp=stated_mpp, mpp_source=MppSource.FILE)
        return slide, maps

    def class_pixels(self) -> npt.NDArray[np.int64]:
        """(2,) number of pixels outside and inside of cells; raises the errors of :meth:`read`."""
        return _pixels(self.read()[1])


def _pixels(instances: Instances) -> npt.NDArray[np.int64]:
    return np.bincount(instances.ravel() > 0, minlength=2).astype(np.int64)


def find_annotated(*folders: Path, declared_mpp: float = DECLARED_MPP) -> list[AnnotatedCells]:
    """The annotated images in folders, by name.

    ``declared_mpp`` is used for images whose files state no scale.

    Raises:
        MissingInput: a folder or the cells of an image are missing, or there are no images at all.
        BadAnnotation: an image has two files of cells, two images have one name, or ``about.json`` is not usable.
    """
    found: dict[str, AnnotatedCells] = {}
    for folder in folders:
        if not folder.is_dir():
            raise MissingInput(f"There is no folder {folder}: put images there, each with its cells beside it.")
        example = '{"mpp": 0.25, "licence": "CC BY 4.0", "patients": {}}'
        about, annotations = read_stated(folder / ABOUT_FILE, _About, example), annotations_in(folder)
        for image in sorted(folder.iterdir()):
            if image.suffix.lower() not in SUFFIXES or image.name[0] == "." or is_annotation(image.name):
                continue
            name = f"{folder.name}/{image.stem}"
            if name in found:
                raise BadAnnotation(f"There are two images {name!r}: rename one, or one of their folders.")
            cells = annotations.get(image.stem)
            if cells is None:
                raise MissingInput(
                    f"There are no cells beside {image}: put {image.stem}.xml, {image.stem}.geojson or "
                    f"{image.stem}_labels.tif there."
                )
            found[name] = AnnotatedCells(
                name=name, image_path=image, mask_path=cells, slide=image.stem,
                patient=about.patients.get(image.stem, ""), licence=about.licence, mpp=about.mpp,
                declared_mpp=declared_mpp,
            )  # fmt: skip
    if not found:
        raise MissingInput(f"There are no annotated images in {', '.join(map(str, folders))}: put some there.")
    return list(found.values())


def annotated_sha256(images: Iterable[AnnotatedCells]) -> str:
    """One sha256 over names, files, stated scales and origins of ``images``, independent of their order."""
    return samples_sha256(images, lambda image: [image.mpp, image.declared_mpp, image.patient, image.licence])


def cell_manifest_rows(images: Iterable[AnnotatedCells], side: Side) -> Iterator[ManifestRow]:
    """The manifest row of each image, by name; raises the errors of :meth:`AnnotatedCells.read`."""
    for image in sorted(images, key=lambda i: (i.group, i.name)):
        slide, maps = image.read_maps()
        yield image.manifest_row(side, slide.whole(), _pixels(maps.instances), left_out=in_words(maps.left_out))


class _About(BaseModel):
    """The facts in ``about.json`` about the images of its folder."""

    mpp: float | None = Field(default=None, ge=0.01, le=100)
    licence: str = ""
    patients: dict[str, str] = {}
