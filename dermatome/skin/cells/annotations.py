"""Annotated cells: a folder of images, each with its cells in a file beside it.

:mod:`dermatome.labels.annotation_files` lists the kinds of files. ``about.json`` may state what no file does, for all
images or for those of one patient::

    {"mpp": 0.25, "licence": "CC BY-NC-SA 4.0", "patients": {"<stem>": "P12"}}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, ValidationError

from dermatome.classes import Instances
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.labels.annotation_files import annotations_in, in_words, is_annotation, read_maps
from dermatome.labels.drawn_maps import NucleusMaps
from dermatome.registry.manifest import ManifestRow, manifest_row
from dermatome.slides.plain import SUFFIXES
from dermatome.slides.slide import DECLARED_MPP, MppSource, Slide, read_slide
from dermatome.storage.files import sha256_bytes, sha256_file
from dermatome.storage.record import first_mistake
from dermatome.training.data import Side

ABOUT_FILE = "about.json"


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
        slide, maps = self.read_maps()
        return slide, maps.instances

    def read_maps(self) -> tuple[Slide, NucleusMaps]:
        """The image, and its cells with what was left out of the annotation; raises as :meth:`read` does."""
        slide = read_slide(self.image_path, declared_mpp=self.mpp or self.declared_mpp, mpp_given=self.mpp is not None)
        maps, stated_mpp = read_maps(self.annotation_path, slide.size, classes=False)
        if not maps.instances.any():
            raise BadAnnotation(
                f"{self.annotation_path} has no cell inside its image: check that they belong together."
            )
        if self.mpp is not None:
            slide = replace(slide, mpp=self.mpp, mpp_source=MppSource.DECLARED)
        elif stated_mpp is not None and slide.mpp_source is MppSource.DECLARED:
            slide = replace(slide, mpp=stated_mpp, mpp_source=MppSource.FILE)
        return slide, maps

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
        about, annotations = _About.read(folder / ABOUT_FILE), annotations_in(folder)
        for image in sorted(folder.iterdir()):
            if image.suffix.lower() not in SUFFIXES or image.name[0] == "." or is_annotation(image.name):
                continue
            name = f"{folder.name}/{image.stem}"
            if name in found:
                raise BadAnnotation(f"There are two images {name!r}: rename one, or one of their folders.")
            cells, patient = annotations.get(image.stem), about.patients.get(image.stem, "")
            if cells is None:
                raise MissingInput(
                    f"There are no cells beside {image}: put {image.stem}.xml, {image.stem}.geojson or "
                    f"{image.stem}_labels.tif there."
                )
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
        slide, maps = image.read_maps()
        image_sha256, mask_sha256 = (
            sha256_bytes(path.read_bytes()) for path in (image.image_path, image.annotation_path)
        )
        pixels = np.bincount(maps.instances.ravel() > 0, minlength=2).tolist()
        more = {"licence": image.licence, "left_out": in_words(maps.left_out)}
        yield manifest_row(image, side, slide.whole(), image_sha256, mask_sha256, pixels, **more)


class _About(BaseModel):
    """What ``about.json`` says of the images of its folder."""

    mpp: float | None = Field(default=None, ge=0.01, le=100)
    licence: str = ""
    patients: dict[str, str] = {}

    @classmethod
    def read(cls, path: Path) -> _About:
        try:
            return cls.model_validate_json(path.read_bytes()) if path.is_file() else cls()
        except ValidationError as error:
            raise BadAnnotation(
                f"{path} is not usable ({first_mistake(error)}): "
                'write {"mpp": 0.25, "licence": "CC BY 4.0", "patients": {}}.'
            ) from error
