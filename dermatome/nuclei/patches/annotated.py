"""Reads annotated images of nuclei: folders as in MoNuSAC and MoNuSeg, and label images.

A case is a folder of images of one patient, each with its annotation beside it
(:mod:`dermatome.labels.annotation_files`). Or it has a folder ``images/`` (or ``Tissue Images/``) and, with the same
stems, ``annotations/``, or one or both of ``instances/`` (grey PNG or TIFF, a number for each nucleus) and ``classes/``
(a class for each pixel: grey PNG with class numbers, or RGB in :data:`DRAWN_COLOURS`), and optionally ``nuclei/``
(white in all nuclei; those without a class are ambiguous). The case of folder names is ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dermatome.classes import NUCLEUS_LABELS, NucleusClass, RgbImage
from dermatome.errors import BadAnnotation, BadImage, MissingInput
from dermatome.geometry import Box, Size
from dermatome.labels.annotation_files import (
    LABEL_MODES,
    annotations_in,
    is_annotation,
    is_outlines,
    read_label_image,
    read_outlines,
)
from dermatome.labels.drawn_maps import BOUNDARY_PX, NucleusMaps, draw_nuclei, label_maps
from dermatome.slides.plain import SUFFIXES, decode_rgb
from dermatome.slides.slide import WHOLE_PX, MppSource, read_slide
from dermatome.storage.files import sha256_bytes, sha256_file

DRAWN_COLOURS = {
    NucleusClass.BACKGROUND: (0, 0, 0),
    NucleusClass.EPITHELIAL: (0, 255, 0),
    NucleusClass.LYMPHOCYTE: (255, 255, 0),
    NucleusClass.NEUTROPHIL: (255, 0, 0),
    NucleusClass.MACROPHAGE: (0, 0, 255),
}
"""Colours of class images drawn from MoNuSAC's outlines; these are JPEGs, so the nearest colour is used."""

IMAGE_SUFFIXES = (*SUFFIXES, ".svs")
_IMAGES, _OUTLINES = ("images", "tissue images", "tissueimages"), ("annotations",)
_INSTANCES, _CLASSES, _NUCLEI = ("instances",), ("classes", "class masks"), ("nuclei", "white masks")
_DOWNLOAD_DEPTH = 3
"""Maximum depth at which cases lie in a download."""
_ARCHIVE_RUBBISH = "__MACOSX"
_PATIENT = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}")
# Smaller pieces of a class image are JPEG artefacts at edges.
_LEAST_PIECE_PX = 16


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and the files of its annotation.

    Attributes:
        patient: the patient, from a TCGA barcode if there is one, else the case.
        image: RGB or RGBA.
    """

    name: str
    patient: str
    image: Path
    outlines: Path | None = None
    instances: Path | None = None
    classes: Path | None = None
    nuclei: Path | None = None

    @property
    def kind(self) -> str:
        """``outlines``, ``instances`` or ``classes``; in ``classes``, touching nuclei of one class are one."""
        return "outlines" if self.outlines else "instances" if self.instances else "classes"

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the image and its annotation."""
        every = (self.image, self.outlines, self.instances, self.classes, self.nuclei)
        return tuple(path for path in every if path is not None)


@dataclass(frozen=True)
class Annotated:
    """An annotated image that was read."""

    rgb: RgbImage
    maps: NucleusMaps
    mpp: float
    mpp_source: MppSource


def case_folders(folder: Path) -> list[Path]:
    """``folder`` if it is a case, or else the cases in it, as in downloads of MoNuSAC and MoNuSeg.

    Raises:
        MissingInput: there is no such folder.
    """
    if not folder.is_dir():
        raise MissingInput(f"There is no folder {folder}: give one with annotated images, or with folders of them.")
    if _is_case(folder):
        return [folder]
    below = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    return [case for path in below if path.name != _ARCHIVE_RUBBISH for case in _cases_in(path) or [path]]


def _is_case(folder: Path) -> bool:
    return _folder(folder, _IMAGES) is not None or bool(_stems(folder).keys() & annotations_in(folder).keys())


def _cases_in(folder: Path, depth: int = _DOWNLOAD_DEPTH) -> list[Path]:
    if _is_case(folder):
        return [folder]
    below = sorted(path for path in folder.iterdir() if path.is_dir()) if depth else ()
    return [case for path in below for case in _cases_in(path, depth - 1)]


def annotated_images(case: Path) -> list[AnnotatedImage]:
    """The annotated images of a case, or of a folder of cases, by name; images without annotation are left out.

    If MoNuSAC provides an image as ``.svs`` and ``.tif``, the ``.tif`` is used.

    Raises:
        MissingInput: there is no such folder, or no image in it.
        BadAnnotation: two images have one name, or an image has two annotations.
    """
    found: dict[str, AnnotatedImage] = {}
    for image in (image for folder in case_folders(case) for image in _images_of(folder)):
        if found.setdefault(image.name, image) != image:
            raise BadAnnotation(f"There are both {found[image.name].image} and {image.image}: rename one.")
    if not found:
        raise MissingInput(
            f"{case} has no annotated image: put images and their .xml there, or images/ beside instances/ or classes/."
        )
    return list(found.values())


def _images_of(case: Path) -> list[AnnotatedImage]:
    found: list[AnnotatedImage] = []
    images = _folder(case, _IMAGES)
    outlines = annotations_in((_folder(case, _OUTLINES) or images) if images else case)
    beside = {
        kind: _stems(path) if images and (path := _folder(case, names)) else {}
        for kind, names in (("instances", _INSTANCES), ("classes", _CLASSES), ("nuclei", _NUCLEI))
    }
    for name, image in _stems(images or case).items():
        files = {kind: stems.get(name) for kind, stems in beside.items()}
        drawn = outlines.get(name)
        if drawn is not None and not (files["instances"] or files["classes"]):
            kind = "outlines" if is_outlines(drawn) else "instances"
            found.append(AnnotatedImage(name, _patient(name, case), image, **{kind: drawn}))
        elif files["instances"] or files["classes"]:
            found.append(AnnotatedImage(name, _patient(name, case), image, None, **files))
    return found


def _folder(case: Path, names: tuple[str, ...]) -> Path | None:
    """The folder in ``case`` that has one of ``names``, ignoring upper and lower case."""
    found = {re.sub("[ _-]+", " ", path.name.casefold()): path for path in sorted(case.iterdir()) if path.is_dir()}
    return next((found[name] for name in names if name in found), None)


def case_version(case: Path) -> str:
    """A hash over the files of a case.

    Raises:
        MissingInput: there is no such folder, or no annotated image in it.
    """
    files = [path for image in annotated_images(case) for path in image.files]
    text = "".join(f"{path.relative_to(case)} {sha256_file(path)}\n" for path in sorted(files))
    return sha256_bytes(text.encode())[:32]


def read_annotated(
    image: AnnotatedImage, declared_mpp: float, boundary_px: int = BOUNDARY_PX, *, mpp_given: bool = False
) -> Annotated:
    """Reads an image and draws its annotation.

    Args:
        image: files of the image and its annotation.
        declared_mpp: microns per pixel if no file states them.
        boundary_px: width of the boundary in the ternary map, px.
        mpp_given: see :func:`dermatome.slides.slide.read_slide`.

    Raises:
        BadImage: the image cannot be read.
        BadAnnotation: its annotation cannot be read, or does not fit.
        MissingInput: a file is missing.
    """
    drawn = None if image.outlines is None else read_outlines(image.outlines)
    stated_mpp = None if drawn is None else drawn.mpp
    given = mpp_given or stated_mpp is not None
    slide = read_slide(image.image, declared_mpp=stated_mpp or declared_mpp, mpp_given=given)
    if slide.size.area_px > WHOLE_PX:
        raise BadImage(f"{image.image} is too large to be annotated whole: export the annotated regions of it.")
    rgb, mpp, source = slide.region(Box.whole(slide.size), slide.size), slide.mpp, slide.mpp_source
    if drawn is not None:
        if stated_mpp is not None:
            mpp, source = stated_mpp, MppSource.FILE
        return Annotated(rgb, draw_nuclei(drawn, slide.size, boundary_px), mpp, source)
    classes = None if image.classes is None else _read_classes(image.classes, slide.size)
    instances = read_label_image(image.instances, slide.size) if image.instances else _pieces(classes)
    white = None if image.nuclei is None else _read_white(image.nuclei)
    for path, array in ((image.classes, classes), (image.nuclei, white)):
        if array is not None and array.shape != rgb.shape[:2]:
            raise BadAnnotation(
                f"{path} is {array.shape[1]}×{array.shape[0]} px and its image "
                f"{rgb.shape[1]}×{rgb.shape[0]}: export both at the same size."
            )
    return Annotated(rgb, label_maps(instances, classes, white, boundary_px), mpp, source)


def _read_white(path: Path) -> npt.NDArray[np.bool_]:
    """(H, W) bool: white pixels of a mask; in a mask with only 0 and 1, those with 1."""
    grey = decode_rgb(path.read_bytes(), path.name)[0][..., 0]
    if 1 < grey.max(initial=0) <= 127:
        raise BadAnnotation(f"{path} has no white, its highest value is {grey.max()}: export it as 0 and 255.")
    return np.asarray(grey > (0 if grey.max(initial=0) == 1 else 127))


def _pieces(classes: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.int32]:
    """(H, W) int32: a number for each connected piece of one class."""
    from skimage.measure import label

    assert classes is not None
    pieces: npt.NDArray[np.int32] = label(classes, background=0, connectivity=1).astype(np.int32)
    pieces[np.bincount(pieces.ravel())[pieces] < _LEAST_PIECE_PX] = 0
    return pieces


def _read_classes(path: Path, size: Size) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 of :class:`NucleusClass`, from grey numbers or drawn colours."""
    with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as image:
        numbered, black_and_white = image.mode in LABEL_MODES, image.mode == "1"
    if black_and_white:
        raise BadAnnotation(
            f"{path} is black and white, and states no class: put it into nuclei/, or export a class for each pixel."
        )
    if numbered:
        numbers = read_label_image(path, size, objects=False)
        if numbers.max(initial=0) > max(NucleusClass):
            raise BadAnnotation(
                f"{path} has the class {numbers.max()}: use 0 to {max(NucleusClass):d}, which are "
                f"{', '.join(NUCLEUS_LABELS)}."
            )
        return numbers.astype(np.uint8)
    drawn, conversions = decode_rgb(path.read_bytes(), path.name)
    if "16-bit" in str(conversions):
        raise BadAnnotation(f"{path} holds 16-bit colours: export the classes as 8-bit RGB, or as class numbers.")
    far = np.stack([((drawn.astype(np.int32) - colour) ** 2).sum(axis=2) for colour in DRAWN_COLOURS.values()], axis=-1)
    nearest: npt.NDArray[np.uint8] = np.array(list(DRAWN_COLOURS), np.uint8)[far.argmin(axis=2)]
    return nearest


def _stems(folder: Path) -> dict[str, Path]:
    """Images by stem; if an image exists in several formats, the first of :data:`IMAGE_SUFFIXES` is used."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda p: (p.stem, p.suffix.lower() == ".svs", p.name)):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "." and not is_annotation(path.name):
            if path.stem in found and path.suffix.lower() != ".svs":
                raise BadImage(f"{folder} has both {found[path.stem].name} and {path.name}: keep one of them.")
            found.setdefault(path.stem, path)
    return found


def _patient(name: str, case: Path) -> str:
    barcode = _PATIENT.match(name)
    return barcode[0] if barcode else case.name
