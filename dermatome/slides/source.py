"""Where a slide's image comes from, and getting it from there: an HPA address, or a file in a local folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import numpy as np

from dermatome.errors import BadImage, MissingInput, StorageFailed
from dermatome.slides.dicom import DICOM_SUFFIX, is_dicom, slide_files
from dermatome.slides.preview import preview
from dermatome.slides.slide import SUFFIXES, MppSource, Slide, read_slide
from dermatome.storage.files import (
    atomic_file,
    local_path,
    names_in,
    sha256_bytes,
    sha256_file,
    write_atomic,
)
from dermatome.storage.layout import PREVIEW_FILE, RECORD_FILE
from dermatome.storage.record import Check, StageResult, content_version, read_record

if TYPE_CHECKING:
    from dermatome.hpa.client import HpaClient

IMAGE_STEM = "image"
_OVERVIEW_PX = 640
# A glass slide without tissue has almost one grey value; real HPA cores have a spread of 20 and more.
_BLANK_SPREAD = 2.0


@dataclass(frozen=True)
class SlideSource:
    """Where one slide's image is.

    Attributes:
        slide: slide id.
        origin: ``hpa``, ``folder``, or ``dicom``: a folder with the files of one DICOM slide.
        location: the image's address, its path, or that of the DICOM slide's folder.
        gene: symbol, where known.
        ensembl_id: where known.
    """

    slide: str
    origin: Literal["hpa", "folder", "dicom"]
    location: str
    gene: str = ""
    ensembl_id: str = ""

    @property
    def identity(self) -> str:
        """A hash that changes when the source does: another place, or another file there in a folder of ours.

        Raises:
            MissingInput: the file is gone.
        """
        content = ""
        if self.origin == "folder":
            content = sha256_file(local_path(self.location))
        elif self.origin == "dicom":
            folder = local_path(self.location)
            files = [name for name in names_in(folder) if is_dicom(name)]
            content = " ".join(f"{name} {sha256_file(folder / name)}" for name in files)
        return sha256_bytes(f"{self.origin} {self.location} {content}".encode())[:32]


def folder_sources(folder: Path, slide_of: Iterable[tuple[str, Path]] | None = None) -> list[SlideSource]:
    """One source for each image directly in ``folder``, by name; the file's stem is the slide id."""
    found = slide_of or ((path.stem, path) for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES)
    return [SlideSource(slide=slide, origin="folder", location=str(path)) for slide, path in found]


def acquire_slide(
    source: SlideSource, folder: Path, kept: Path, client: HpaClient, declared_mpp: float, max_side_px: int
) -> StageResult:
    """Gets a slide's image into ``folder`` and checks it by decoding it whole.

    Args:
        source: where the image is.
        folder: where it is put.
        kept: the folder of the slide's last verified image, if there is one: an HPA image is not fetched twice.
        client: of HPA.
        declared_mpp: microns per pixel, as HPA gives none.
        max_side_px: a wider or higher image is refused.

    Raises:
        FetchFailed: it did not arrive.
        BadImage: what arrived is no usable image; it is not kept.
        MissingInput: the file of a folder source is gone.
    """
    started = time.perf_counter()
    if source.origin == "folder":
        return take_slide(source, folder, declared_mpp, max_side_px)
    path = _place_of(source, folder, SUFFIXES)
    http_status: int | None = None
    if not _copy_verified(kept, source, path):
        fetched = client.fetch(source.location, path, kind="image")
        http_status = fetched.status
    fetched_s = time.perf_counter() - started
    return _verified(source, path, declared_mpp, max_side_px, fetched_s, http_status=http_status)


def take_slide(
    source: SlideSource,
    folder: Path,
    declared_mpp: float,
    max_side_px: int,
    suffixes: Sequence[str] = SUFFIXES,
) -> StageResult:
    """Copies the image of a source that is not HPA into ``folder`` and checks it.

    Args:
        source: where the image is.
        folder: where it is put.
        declared_mpp: microns per pixel.
        max_side_px: a wider or higher image that is decoded whole is refused.
        suffixes: of the files that are taken.

    Raises:
        BadImage: it is no usable image.
        MissingInput: the file is gone.
    """
    started = time.perf_counter()
    if source.origin == "dicom":
        path = _copy_pyramid(local_path(source.location), folder)
    else:
        path = _place_of(source, folder, suffixes)
        _copy(local_path(source.location), path)
    copied_s = time.perf_counter() - started
    return _verified(source, path, declared_mpp, max_side_px, copied_s)


def _place_of(source: SlideSource, folder: Path, suffixes: Sequence[str]) -> Path:
    suffix = PurePosixPath(urlsplit(source.location).path).suffix.lower()
    if suffix not in suffixes:
        raise BadImage(f"{source.location} has the suffix {suffix!r}: give a {', '.join(suffixes)} file.")
    return folder / f"{IMAGE_STEM}{suffix}"


def _verified(
    source: SlideSource,
    path: Path,
    declared_mpp: float,
    max_side_px: int,
    fetched_s: float,
    *,
    http_status: int | None = None,
) -> StageResult:
    """What is kept of an image that lies at ``path`` now, checked by decoding it; its preview is put beside it."""
    started = time.perf_counter()
    try:
        slide = read_slide(path, declared_mpp=declared_mpp, max_side_px=max_side_px, name=source.slide)
        if not isinstance(slide.pixels, np.ndarray):
            slide.pixels.check()
    except BadImage as error:
        raise BadImage(f"{error} It came from {source.location}.") from error
    decoded_at = time.perf_counter()
    small = slide.overview(_OVERVIEW_PX)
    write_atomic(path.parent / PREVIEW_FILE, preview(small))
    spread = float(np.std(small.astype(np.float32).mean(axis=2)))
    return StageResult(
        outcome="image",
        # The scale is part of what later stages read: the same pixels at another mpp are other data.
        data_version=content_version([slide.sha256.encode(), f"{slide.mpp} {slide.mpp_source.value}".encode()]),
        values={
            "origin": source.origin,
            "location": source.location,
            "gene": source.gene or None,
            "ensembl_id": source.ensembl_id or None,
            "file": path.name,
            "bytes": sum(file.stat().st_size for file in slide_files(path)),
            "image_sha256": slide.sha256,
            "height_px": slide.size.height_px,
            "width_px": slide.size.width_px,
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source.value,
            "conversions": "; ".join(slide.conversions) or None,
            "http_status": http_status,
            "grey_spread": round(spread, 3),
        },
        seconds={"fetch": fetched_s, "decode": decoded_at - started},
        checks=(
            Check(
                "image_not_blank",
                passed=spread > _BLANK_SPREAD,
                description=f"The file decodes whole; its grey values spread by {spread:.1f} (blank: {_BLANK_SPREAD}).",
                values={"grey_spread": spread},
            ),
        ),
    )


def _copy_verified(kept: Path, source: SlideSource, target: Path) -> bool:
    """Copies the image that was verified before, if it came from the same place and is unharmed."""
    record = read_record(kept / RECORD_FILE)
    if record is None or record.values.get("location") != source.location:
        return False
    name = str(record.values["file"])
    try:
        unharmed = sha256_file(kept / name) == record.values["image_sha256"]
        if unharmed:
            _copy(kept / name, target)
    except MissingInput:
        return False
    return unharmed


def _copy(source: Path, target: Path) -> None:
    try:
        with source.open("rb") as reading, atomic_file(target) as writing:
            shutil.copyfileobj(reading, writing)
    except FileNotFoundError as error:
        raise MissingInput(f"There is no image {source} any more: put it back, or take its partition out.") from error
    except PermissionError as error:
        raise StorageFailed(f"The image {source} may not be read: change its rights.") from error


def _copy_pyramid(source: Path, folder: Path) -> Path:
    """Copies a DICOM slide's levels as ``image.dcm``, ``image-2.dcm``, …, and returns the first, of full resolution.

    The label and the overview stay where they are: they may show the patient's name.
    """
    path = folder / f"{IMAGE_STEM}{DICOM_SUFFIX}"
    for number, file in enumerate(slide_files(source), start=1):
        _copy(file, path if number == 1 else path.with_stem(f"{IMAGE_STEM}-{number}"))
    return path


def open_slide(folder: Path, slide: str, values: dict[str, object]) -> Slide:
    """The verified image that `slide_images` or `nuclei_slides` left in ``folder``, at the scale recorded with it.

    Raises:
        BadImage: the file is not the one that was verified.
        MissingInput: the file is gone.
    """
    found = read_slide(
        folder / str(values["file"]),
        max_side_px=max(int(str(values["height_px"])), int(str(values["width_px"]))),
        name=slide,
    )
    if found.sha256 != values["image_sha256"]:
        raise BadImage(
            f"The image of {slide} is not the one that was verified (sha256 {found.sha256[:12]}… instead of "
            f"{str(values['image_sha256'])[:12]}…): materialize its image again."
        )
    return replace(found, mpp=float(str(values["mpp"])), mpp_source=MppSource(str(values["mpp_source"])))
