"""Images of nuclei with what annotators drew of them: MoNuSAC's and MoNuSeg's folders, and label images.

A case is a folder of images of one patient, each beside its annotation of the same stem, ``<stem>.xml`` (Aperio). Or it
has a folder ``images/`` and, with the same stems, one or both of ``instances/`` (grey PNG or TIFF, a number for each
nucleus) and ``classes/`` (a class for each pixel: grey PNG of their numbers, or RGB in :data:`DRAWN_COLOURS`), and
perhaps ``nuclei/`` (white where there is any nucleus; one without a class is ambiguous).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dermatome.classes import IGNORED, NUCLEUS_LABELS, NucleusClass, RgbImage
from dermatome.errors import BadAnnotation, BadImage, MissingInput
from dermatome.geometry import Box
from dermatome.labels.drawn_maps import BOUNDARY_PX, NucleusMaps, draw_nuclei, ternary_map
from dermatome.labels.imagescope import read_annotation
from dermatome.slides.plain import MAX_SIDE_PX, SUFFIXES, decode_rgb
from dermatome.slides.slide import WHOLE_PX, MppSource, read_slide
from dermatome.storage.files import sha256_bytes, sha256_file

DRAWN_COLOURS = {
    NucleusClass.BACKGROUND: (0, 0, 0),
    NucleusClass.EPITHELIAL: (0, 255, 0),
    NucleusClass.LYMPHOCYTE: (255, 255, 0),
    NucleusClass.NEUTROPHIL: (255, 0, 0),
    NucleusClass.MACROPHAGE: (0, 0, 255),
}
"""Of class images that others drew from MoNuSAC's outlines; a pixel is of the nearest colour, as they are JPEGs."""

IMAGE_SUFFIXES = (*SUFFIXES, ".svs")
_INSTANCES, _CLASSES, _NUCLEI = ("instances",), ("classes", "class_masks"), ("nuclei", "white_masks")
_PATIENT = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}")
# A piece of a class image that is smaller is what JPEG made of an edge.
_LEAST_PIECE_PX = 16


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and the files that say what is on it.

    Attributes:
        name: the files' stem.
        patient: whom it is of: what a TCGA barcode says, or else the case.
        image: RGB or RGBA.
        outlines: Aperio XML, or None.
        instances: label image, or None.
        classes: class image, or None.
        nuclei: image of all nuclei, or None.
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
        """``outlines``, ``instances`` or ``classes``: in the last, nuclei of one class that touch are one."""
        return "outlines" if self.outlines else "instances" if self.instances else "classes"

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        every = (self.image, self.outlines, self.instances, self.classes, self.nuclei)
        return tuple(path for path in every if path is not None)


@dataclass(frozen=True)
class Annotated:
    """An annotated image that was read.

    Attributes:
        rgb: (H, W, 3) uint8.
        maps: the truth.
        mpp: microns per pixel.
        mpp_source: whether a file states it.
    """

    rgb: RgbImage
    maps: NucleusMaps
    mpp: float
    mpp_source: MppSource


def case_folders(folder: Path) -> list[Path]:
    """``folder``, where it is a case itself, or else the cases in it.

    Raises:
        MissingInput: there is no such folder.
    """
    if not folder.is_dir():
        raise MissingInput(f"There is no folder {folder}: give one with annotated images, or with folders of them.")
    if (folder / "images").is_dir() or any(_stems(folder).keys() & {p.stem for p in folder.glob("*.xml")}):
        return [folder]
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def annotated_images(case: Path) -> list[AnnotatedImage]:
    """The annotated images of a case, by name; images that nobody annotated are left out.

    Where MoNuSAC gives an image as ``.svs`` and ``.tif``, the ``.tif`` is taken.

    Raises:
        MissingInput: there is none.
    """
    found: list[AnnotatedImage] = []
    if (case / "images").is_dir():
        images = _stems(case / "images")
        beside = {
            kind: next((_stems(case / name) for name in names if (case / name).is_dir()), {})
            for kind, names in (("instances", _INSTANCES), ("classes", _CLASSES), ("nuclei", _NUCLEI))
        }
        for name, image in images.items():
            files = {kind: stems.get(name) for kind, stems in beside.items()}
            if files["instances"] or files["classes"]:
                found.append(AnnotatedImage(name, _patient(name, case), image, None, **files))
    else:
        for name, image in _stems(case).items():
            outlines = case / f"{name}.xml"
            if outlines.is_file():
                found.append(AnnotatedImage(name, _patient(name, case), image, outlines))
    if not found:
        raise MissingInput(
            f"{case} has no annotated image: put images and their .xml there, or images/ beside instances/ or classes/."
        )
    return found


def case_version(case: Path) -> str:
    """A hash over the files of a case.

    Raises:
        MissingInput: there is no such folder, or no annotated image in it.
    """
    if not case.is_dir():
        raise MissingInput(f"There is no folder {case}: put the patient's annotated images there.")
    files = [path for image in annotated_images(case) for path in image.files]
    text = "".join(f"{path.relative_to(case)} {sha256_file(path)}\n" for path in sorted(files))
    return sha256_bytes(text.encode())[:32]


def read_annotated(image: AnnotatedImage, declared_mpp: float, boundary_px: int = BOUNDARY_PX) -> Annotated:
    """Reads an image and draws what is known of it.

    Args:
        image: its files.
        declared_mpp: microns per pixel where no file states them.
        boundary_px: of the ternary map.

    Raises:
        BadImage: the image cannot be read.
        BadAnnotation: what belongs to it cannot, or does not fit.
        MissingInput: a file is gone.
    """
    drawn = None if image.outlines is None else read_annotation(image.outlines)
    stated_mpp = None if drawn is None else drawn.mpp
    slide = read_slide(image.image, declared_mpp=stated_mpp or declared_mpp, mpp_given=stated_mpp is not None)
    if slide.size.area_px > WHOLE_PX:
        raise BadImage(f"{image.image} is too large to be annotated whole: export the annotated regions of it.")
    rgb, mpp, source = slide.region(Box.whole(slide.size), slide.size), slide.mpp, slide.mpp_source
    if drawn is not None:
        if stated_mpp is not None:
            mpp, source = stated_mpp, MppSource.FILE
        return Annotated(rgb, draw_nuclei(drawn, slide.size, boundary_px), mpp, source)
    classes = None if image.classes is None else _read_classes(image.classes)
    instances = _read_labels(image.instances) if image.instances else _pieces(classes)
    white = None if image.nuclei is None else decode_rgb(image.nuclei.read_bytes(), image.nuclei.name)[0][..., 0] > 127
    for path, array in ((image.classes, classes), (image.instances, instances), (image.nuclei, white)):
        if array is not None and array.shape != rgb.shape[:2]:
            raise BadAnnotation(
                f"{path or image.classes} is {array.shape[1]}×{array.shape[0]} px and its image "
                f"{rgb.shape[1]}×{rgb.shape[0]}: export both at the same size."
            )
    return Annotated(rgb, _labelled(instances, classes, white, boundary_px), mpp, source)


def _labelled(
    instances: npt.NDArray[np.int32],
    classes: npt.NDArray[np.uint8] | None,
    white: npt.NDArray[np.bool_] | None,
    boundary_px: int,
) -> NucleusMaps:
    """The maps of label images; the class of a nucleus is that of most of its pixels that have one."""
    seen = np.union1d(0, np.unique(instances))
    instances = np.searchsorted(seen, instances).astype(np.int32)
    kinds = np.full(seen.size, IGNORED, np.uint8)
    kinds[0] = 0
    if classes is not None:
        votes = np.bincount(instances.ravel() * len(NUCLEUS_LABELS) + classes.ravel(), minlength=seen.size * 5)
        votes = votes.reshape(seen.size, -1)[:, 1:]
        told = votes.max(axis=1) > 0
        kinds[told] = votes.argmax(axis=1)[told] + 1
        kinds[0] = 0
    semantic, ternary = kinds[instances], ternary_map(instances, boundary_px)
    unknown = instances == 0
    if white is not None:
        unknown &= white
    else:
        unknown &= (classes > 0) if classes is not None else False
    semantic[unknown] = ternary[unknown] = IGNORED
    return NucleusMaps(instances, semantic, ternary, kinds)


def _pieces(classes: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.int32]:
    """A number for each connected piece of one class."""
    from skimage.measure import label

    assert classes is not None
    pieces: npt.NDArray[np.int32] = label(classes, background=0, connectivity=1).astype(np.int32)
    pieces[np.bincount(pieces.ravel())[pieces] < _LEAST_PIECE_PX] = 0
    return pieces


def _read_classes(path: Path) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 of :class:`NucleusClass`, from grey numbers or drawn colours."""
    with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as image:
        grey = image.mode in ("L", "P")
    if grey:
        numbers = _read_labels(path)
        if numbers.max(initial=0) > max(NucleusClass):
            raise BadAnnotation(
                f"{path} has the class {numbers.max()}: use 0 to {max(NucleusClass):d}, which are "
                f"{', '.join(NUCLEUS_LABELS)}."
            )
        return numbers.astype(np.uint8)
    drawn = decode_rgb(path.read_bytes(), path.name)[0]
    far = np.stack([((drawn.astype(np.int32) - colour) ** 2).sum(axis=2) for colour in DRAWN_COLOURS.values()], axis=-1)
    nearest: npt.NDArray[np.uint8] = np.array(list(DRAWN_COLOURS), np.uint8)[far.argmin(axis=2)]
    return nearest


def _read_labels(path: Path) -> npt.NDArray[np.int32]:
    """(H, W) int32 of a grey PNG or TIFF."""
    try:
        with Image.open(path, formats=("PNG", "TIFF")) as image:
            if max(image.size) > MAX_SIDE_PX or image.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
                raise BadAnnotation(
                    f"{path} is {image.width}×{image.height} px of type {image.mode}: give a label image of whole "
                    f"numbers in grey, of at most {MAX_SIDE_PX} px a side."
                )
            values: npt.NDArray[Any] = np.asarray(image)
    except FileNotFoundError as error:
        raise MissingInput(f"There is no label image {path}: put it back.") from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise BadAnnotation(f"The label image {path} is damaged ({error}): export it again.") from error
    if values.min(initial=0) < 0:
        raise BadAnnotation(f"The label image {path} has numbers below 0: number nuclei from 1.")
    return values.astype(np.int32)


def _stems(folder: Path) -> dict[str, Path]:
    """Images by stem; of one image in several formats, the first of :data:`IMAGE_SUFFIXES`."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda p: (p.stem, p.suffix.lower() == ".svs", p.name)):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            if path.stem in found and path.suffix.lower() != ".svs":
                raise BadImage(f"{folder} has both {found[path.stem].name} and {path.name}: leave one.")
            found.setdefault(path.stem, path)
    return found


def _patient(name: str, case: Path) -> str:
    told = _PATIENT.match(name)
    return told[0] if told else case.name
