"""Corrections of tissue masks: regions of slides whose classes a person checked, saved as annotated slides.

The folder ``annotations/<slide>_<left>-<top>-<width>x<height>/`` contains ``he.png``, the region's pixels;
``mask.png``, class numbers, with 255 for unchecked pixels; and ``slide.json`` with slide, patient, licence, mpp, author
and date.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from dermatome.classes import IGNORED, TISSUE_LABELS, BoolMap, ClassMap
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.geometry import Box, Size
from dermatome.hpa.records import slide_facts
from dermatome.labels.palette import decode_mask
from dermatome.reports.figures import png_bytes
from dermatome.skin.stage_files import load_tissue_mask
from dermatome.skin.tiles.annotated import SLIDE_FILE
from dermatome.slides.slide import Slide
from dermatome.storage.files import folders_in, safe_id, sha256_bytes, write_atomic
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import read_record

LEAST_SIDE_PX, LARGEST_SIDE_PX = 64, 2048
_MASK_FILE, _IMAGE_FILE = "mask.png", "he.png"
_AUTHOR_CHARACTERS = 80


class Conflict(BadAnnotation):
    """Somebody else has saved the region since it was opened."""


@dataclass(frozen=True)
class Saved:
    """Facts about a saved correction.

    Attributes:
        name: name of its folder in ``annotations/``.
        slide: the slide that it belongs to.
        left_px: left edge of the region on the slide, px; similarly ``top_px``, ``width_px``, ``height_px``.
        author: name that the author entered.
        saved: time of saving, UTC in ISO 8601.
        confirmed: whether the author stated that all of the region is correct.
    """

    name: str
    slide: str
    left_px: int
    top_px: int
    width_px: int
    height_px: int
    author: str
    saved: str
    confirmed: bool

    @property
    def box(self) -> Box:
        """The region on the slide."""
        return Box(self.top_px, self.left_px, self.top_px + self.height_px, self.left_px + self.width_px)


@dataclass(frozen=True, eq=False)
class Region:
    """A region of a slide that is opened for correction.

    Attributes:
        predicted: (H, W) uint8 classes of the tissue mask; :data:`IGNORED` if the slide has none.
        labels: (H, W) uint8 classes: checked ones where there are any, elsewhere the prediction.
        known: (H, W) bool, pixels that were checked.
        version: version of the saved correction, for :func:`save_correction`; empty if there is none.
        earlier: the saved correction, if there is one.
    """

    predicted: ClassMap
    labels: ClassMap
    known: BoolMap
    version: str
    earlier: Saved | None


def region_box(size: Size, left_px: int, top_px: int, width_px: int, height_px: int) -> Box:
    """The requested region of a slide, moved and cut so that it lies on the slide.

    Raises:
        BadAnnotation: it is too small or too large.
    """
    if not all(LEAST_SIDE_PX <= side <= LARGEST_SIDE_PX for side in (width_px, height_px)):
        raise BadAnnotation(
            f"A region of {width_px}×{height_px} px cannot be corrected: choose {LEAST_SIDE_PX} to {LARGEST_SIDE_PX} "
            "px a side."
        )
    left = max(0, min(left_px, size.width_px - width_px))
    top = max(0, min(top_px, size.height_px - height_px))
    return Box(top, left, min(top + height_px, size.height_px), min(left + width_px, size.width_px))


def saved_corrections(root: DataRoot, slide: str) -> list[Saved]:
    """The corrections of a slide, by name."""
    start = f"{slide}_"
    found = (_saved(root.annotations / name) for name in folders_in(root.annotations) if name.startswith(start))
    return [saved for saved in found if saved is not None and saved.slide == slide]


def open_region(root: DataRoot, slide: Slide, box: Box) -> Region:
    """Reads the prediction of a region, and its saved correction if there is one.

    Raises:
        BadAnnotation, BadImage: the saved correction was changed by hand and cannot be read.
        StorageFailed: the mask is not the one that was written.
    """
    shape = (box.size.height_px, box.size.width_px)
    predicted, known = np.full(shape, IGNORED, np.uint8), np.zeros(shape, bool)
    if read_record(root.record("epidermis_masks", slide.name)) is not None:
        mask, _ = load_tissue_mask(root, slide.name, slide.size)
        predicted = np.array(mask[box.slices], np.uint8)
    labels, folder = predicted.copy(), _folder(root, slide.name, box)
    data, earlier = _mask_of(folder), _saved(folder)
    if data:
        corrected = decode_mask(data, None, str(folder / _MASK_FILE))
        if corrected.shape != shape:
            raise BadAnnotation(
                f"{folder / _MASK_FILE} does not have the size of its region: delete the folder, or correct it."
            )
        known = (corrected != IGNORED) | bool(earlier and earlier.confirmed)
        labels[known] = corrected[known]
    return Region(predicted, labels, known, sha256_bytes(data) if data else "", earlier)


def save_correction(
    root: DataRoot, slide: Slide, box: Box, mask: ClassMap, *, author: str, version: str, confirmed: bool = False
) -> tuple[Saved, str]:
    """Saves a region's classes as an annotated slide; returns the saved correction and its new version.

    In ``mask`` (H, W) uint8, :data:`IGNORED` marks unchecked pixels. ``version`` is that of the opened region. If the
    author has ``confirmed`` that everything was checked, ignored pixels are those that even a person cannot classify.

    Raises:
        BadAnnotation: there is no author, the mask has another size or a number that is not a class, or all of it is
            ignored.
        Conflict: somebody else saved the region since it was opened; nothing is saved.
        StorageFailed: the disk is full or the folder is not writable.
    """
    author = " ".join(author.split())
    if not 0 < len(author) <= _AUTHOR_CHARACTERS or not author.isprintable():
        raise BadAnnotation(f"An annotation has an author: enter a name of at most {_AUTHOR_CHARACTERS} characters.")
    if (
        mask.shape != (box.size.height_px, box.size.width_px)
        or not ((mask < len(TISSUE_LABELS)) | (mask == IGNORED)).all()
    ):
        raise BadAnnotation(
            "The mask does not fit the region, or contains a number that is not a class: open the region again."
        )
    if not (mask != IGNORED).any():
        raise BadAnnotation("Nothing is annotated yet: paint something, or confirm that all of the region is right.")
    folder = _folder(root, slide.name, box)
    root.check_writable()
    root.annotations.mkdir(exist_ok=True)
    with FileLock(root.annotations / ".saving", fallback_to_soft=False):
        there = _mask_of(folder)
        if (sha256_bytes(there) if there else "") != version:
            other = _saved(folder)
            who = f"by {other.author} at {other.saved}" if other else "by somebody else"
            raise Conflict(
                f"This region was saved {who} since you opened it, so yours is not saved, as it would erase that: "
                "download your mask, open the region again, and correct what is missing."
            )
        patient, licence = _origin(root, slide.name)
        saved = Saved(
            folder.name, slide.name, box.left_px, box.top_px, box.size.width_px, box.size.height_px, author,
            datetime.now(UTC).isoformat(timespec="seconds"), confirmed,
        )  # fmt: skip
        about = asdict(saved) | {"patient": patient, "licence": licence, "mpp": slide.mpp, "image_sha256": slide.sha256}
        write_atomic(folder / _IMAGE_FILE, png_bytes(slide.region(box, box.size)))
        write_atomic(folder / SLIDE_FILE, json.dumps(about, indent=1).encode() + b"\n")
        data = png_bytes(mask)
        write_atomic(folder / _MASK_FILE, data)
    return saved, sha256_bytes(data)


def encode_runs(values: npt.NDArray[Any]) -> list[int]:
    """Run-length encodes an integer array in reading order: value, number of pixels, next value, …"""
    flat = values.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=int(flat[0]) + 1))
    runs = np.column_stack([flat[starts].astype(np.int64), np.diff(starts, append=flat.size)])
    return [int(number) for number in runs.ravel()]


def decode_runs(runs: Sequence[Any], size: Size) -> ClassMap:
    """Decodes the result of :func:`encode_runs` to (H, W) uint8.

    Raises:
        BadAnnotation: the runs are not integers from 0, or do not fill ``size`` exactly.
    """
    whole = not len(runs) % 2 and all(type(number) is int and 0 <= number < 2**31 for number in runs)
    values, lengths = np.array(runs if whole else [], np.int64).reshape(-1, 2).T
    if int(lengths.sum()) != size.area_px or (values > IGNORED).any():
        raise BadAnnotation("The mask did not arrive complete: open the region again.")
    mask: ClassMap = values.astype(np.uint8).repeat(lengths).reshape(size.height_px, size.width_px)
    return mask


def _folder(root: DataRoot, slide: str, box: Box) -> Path:
    size = box.size
    name = f"{slide}_{box.left_px}-{box.top_px}-{size.width_px}x{size.height_px}"
    return root.annotations / safe_id(name, "The annotation")


def _mask_of(folder: Path) -> bytes:
    try:
        return (folder / _MASK_FILE).read_bytes()
    except FileNotFoundError:
        return b""


def _saved(folder: Path) -> Saved | None:
    """The facts in `slide.json` of a correction; None for other annotated slides."""
    try:
        stated = json.loads((folder / SLIDE_FILE).read_bytes())
        return Saved(**{name: stated[name] for name in Saved.__dataclass_fields__} | {"name": folder.name})
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _origin(root: DataRoot, slide: str) -> tuple[str, str]:
    """Patient and licence of a slide of HPA, empty for others."""
    try:
        patient, licence = slide_facts(root, slide, ("patient_id", "licence")).values()
    except MissingInput:
        return "", ""
    return patient, licence
