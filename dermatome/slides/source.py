"""The source of a slide's image (HPA, a folder, the inbox), and the verified copy of the image in the data root."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from dermatome.errors import BadImage, MissingInput, StorageFailed
from dermatome.slides.dicom import DICOM_SUFFIX, is_dicom, slide_files
from dermatome.slides.plain import SUFFIXES
from dermatome.slides.preview import preview
from dermatome.slides.slide import MppSource, Slide, read_slide
from dermatome.slides.vendors import WSI_SUFFIXES
from dermatome.storage.files import (
    atomic_file,
    changed_in,
    local_path,
    names_in,
    sha256_bytes,
    sha256_file,
    usable_id,
    write_atomic,
)
from dermatome.storage.http import Fetched, NotThere
from dermatome.storage.layout import PREVIEW_FILE, RECORD_FILE
from dermatome.storage.record import Check, StageRecord, StageResult, content_version, read_record

SLIDE_SUFFIXES = (*SUFFIXES, *(suffix for suffix in WSI_SUFFIXES if suffix != DICOM_SUFFIX))
"""Suffixes of files that are a slide each."""
IMAGE_STEM = "image"
_OVERVIEW_PX = 640
# A slide without tissue has almost a single grey value; real HPA cores have a standard deviation of 20 and more.
_BLANK_SPREAD = 2.0
# The resolution of some file systems' times; also allows for differences between their clock and ours.
_CLOCK_S = 5.0


@dataclass(frozen=True)
class SlideSource:
    """Where a slide's image comes from.

    Attributes:
        slide: slide id.
        origin: ``hpa``, ``folder``, or ``dicom``: a folder with the files of one DICOM slide.
        location: address of the image, path of the file, or path of the DICOM slide's folder.
        gene: gene symbol, if known.
        ensembl_id: Ensembl id of the gene, if known.
    """

    slide: str
    origin: Literal["hpa", "folder", "dicom"]
    location: str
    gene: str = ""
    ensembl_id: str = ""

    @property
    def identity(self) -> str:
        """A hash of the address or, for files, of their names and content, independent of the data root's place.

        Raises:
            MissingInput: the file is missing.
        """
        place, content = self.location, ""
        if self.origin == "folder":
            content = sha256_file(local_path(self.location))
        elif self.origin == "dicom":
            folder = local_path(self.location)
            files = [name for name in names_in(folder) if is_dicom(name)]
            content = " ".join(f"{name} {sha256_file(folder / name)}" for name in files)
        if self.origin != "hpa":
            place = Path(self.location).name
        return sha256_bytes(f"{self.origin} {place} {content}".encode())[:32]

    def stored_location(self, root: Path) -> str:
        """The location, relative to the data root if it lies in it, so that the data root can be moved."""
        if self.origin == "hpa":
            return self.location
        path = Path(self.location).absolute()
        return str(path.relative_to(root) if path.is_relative_to(root) else path)


def sources_now(sources: Mapping[str, SlideSource], root: Path, name: str) -> Callable[[StageRecord], dict[str, str]]:
    """Returns a function from a record to the identity of the slide's source, if the image may have changed since.

    A file is read only if it has moved, or if the file system's times show that it was put there or changed after the
    image was read. Slides without a source have no entry.

    Args:
        sources: present sources, by slide.
        root: the data root.
        name: name of this input in records.
    """

    def now(record: StageRecord) -> dict[str, str]:
        source = sources.get(record.partition)
        if source is None:
            return {}
        try:
            if source.origin != "hpa" and source.stored_location(root) == record.values.get("location"):
                path = Path(source.location)
                times = [path.stat().st_ctime, *(changed_in(path).values() if path.is_dir() else ())]
                if max(times) < record.made_at.timestamp() - sum(record.seconds.values()) - _CLOCK_S:
                    return {}
            return {name: source.identity}
        except (FileNotFoundError, MissingInput):  # a run could not replace the image either
            return {}

    return now


def inbox_sources(inbox: Path) -> dict[str, SlideSource]:
    """Returns the sources of the H&E slides in an inbox, by slide; slides with two images are left out.

    A slide's name is the stem of its file, or the name of a folder of DICOM files, made valid by :func:`usable_id`.
    """
    images = inbox_images(inbox, changed_in(inbox, folders=True))
    return {slide: next(iter(sources)) for slide, sources in images.items() if len(sources) == 1}


def inbox_place(name: str) -> str | None:
    """Returns the place of the slide that the file ``name`` or ``folder/name`` belongs to: file, folder or None."""
    folder, _, file = name.rpartition("/")
    if is_dicom(file):
        return folder or None
    return name if not folder and PurePosixPath(file).suffix.lower() in SLIDE_SUFFIXES else None


def place_source(inbox: Path, place: str) -> SlideSource:
    """Returns the source at a place of :func:`inbox_place`; its slide is empty if the place has no usable name."""
    if PurePosixPath(place).suffix.lower() in SLIDE_SUFFIXES and not (inbox / place).is_dir():
        return SlideSource(usable_id(PurePosixPath(place).stem), "folder", str(inbox / place))
    return SlideSource(usable_id(place), "dicom", str(inbox / place))


def inbox_source(inbox: Path, slide: str) -> SlideSource:
    """Returns the source of one slide of an inbox.

    Raises:
        MissingInput: the inbox has no image of that name, or more than one.
    """
    try:
        return inbox_sources(inbox)[slide]
    except KeyError as error:
        raise MissingInput(
            f"There is no image of {slide} in {inbox}, or more than one: put exactly one there, {slide}.svs or another "
            f"of {', '.join(SLIDE_SUFFIXES)}, or a folder {slide} with its {DICOM_SUFFIX} files."
        ) from error


def inbox_images(inbox: Path, names: Iterable[str]) -> dict[str, set[SlideSource]]:
    """Returns the images of each slide among the files ``names`` of an inbox and its subfolders."""
    found: dict[str, set[SlideSource]] = {}
    for name in names:
        if (place := inbox_place(name)) is not None:
            source = place_source(inbox, place)
            found.setdefault(source.slide, set()).add(source)
    return {slide: sources for slide, sources in found.items() if slide}


def acquire_slide(
    source: SlideSource,
    folder: Path,
    declared_mpp: float,
    max_side_px: int,
    *,
    fetch_image: Callable[[str, Path], Fetched] | None = None,
    lossless: bool = False,
    kept: Path | None = None,
    root: Path | None = None,
) -> StageResult:
    """Puts a slide's image into ``folder``, checks it by decoding it, and writes its preview beside it.

    Args:
        source: source of the image.
        folder: folder for the image.
        declared_mpp: microns per pixel if the file states none.
        max_side_px: longest side of an image that is decoded as one array, px.
        fetch_image: fetches the image at an address of HPA to a path.
        lossless: whether HPA's TIFF is preferred; if there is none, the image at the address is used.
        kept: folder of the slide's last verified image; if it has the right HPA file, nothing is fetched.
        root: the data root, if locations in it are to be recorded relative to it.

    Raises:
        FetchFailed: the image did not arrive.
        BadImage: the image is not usable; it is not kept.
        MissingInput: the file is missing.
        StorageFailed: the file cannot be read, or ``folder`` cannot be written.
    """
    started = time.perf_counter()
    http_status: int | None = None
    location = source.location if root is None else source.stored_location(root)
    path = folder / f"{IMAGE_STEM}{DICOM_SUFFIX}"
    if source.origin == "dicom":
        # Label and overview are not copied, as they may show the patient's name.
        for number, file in enumerate(slide_files(local_path(source.location)), start=1):
            _copy(file, path if number == 1 else path.with_stem(f"{IMAGE_STEM}-{number}"))
    else:
        suffix = PurePosixPath(urlsplit(source.location).path).suffix.lower()
        if suffix not in SLIDE_SUFFIXES:
            raise BadImage(f"{source.location} has the suffix {suffix!r}: give a {', '.join(SLIDE_SUFFIXES)} file.")
        path = path.with_suffix(suffix)
        if source.origin == "folder":
            _copy(local_path(source.location), path)
        else:
            assert fetch_image is not None
            location, path, http_status = fetch_hpa(source.location, path, fetch_image, lossless, kept)
    fetched = time.perf_counter()
    try:
        slide = read_slide(path, declared_mpp=declared_mpp, max_side_px=max_side_px, name=source.slide)
        if not isinstance(slide.pixels, np.ndarray):
            slide.pixels.check()
    except BadImage as error:
        raise BadImage(f"{error} It came from {location}.") from error
    decoded = time.perf_counter()
    small = slide.overview(_OVERVIEW_PX)
    write_atomic(path.parent / PREVIEW_FILE, preview(small))
    spread = float(np.std(small.astype(np.float32).mean(axis=2)))
    return StageResult(
        outcome="image",
        # The scale is part of the data: the same pixels at another mpp give other results.
        data_version=content_version([slide.sha256.encode(), f"{slide.mpp} {slide.mpp_source.value}".encode()]),
        values={
            "origin": source.origin,
            "location": location,
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
        seconds={"fetch": fetched - started, "decode": decoded - fetched},
        checks=(
            Check(
                "image_not_blank",
                passed=spread > _BLANK_SPREAD,
                description=f"The file decodes whole; its grey values spread by {spread:.1f} (blank: {_BLANK_SPREAD}).",
                values={"grey_spread": spread},
            ),
        ),
    )


def open_slide(folder: Path, slide: str, values: dict[str, object]) -> Slide:
    """The verified image that `slide_images` or `nuclei_slides` stored in ``folder``, with its recorded scale.

    Raises:
        BadImage: the file is not the one that was verified.
        MissingInput: the file is missing.
    """
    found = read_slide(
        folder / str(values["file"]),
        declared_mpp=float(str(values["mpp"])),
        mpp_given=True,
        max_side_px=max(int(str(values["height_px"])), int(str(values["width_px"]))),
        name=slide,
    )
    if found.sha256 != values["image_sha256"]:
        raise BadImage(
            f"The image of {slide} is not the one that was verified (sha256 {found.sha256[:12]}… instead of "
            f"{str(values['image_sha256'])[:12]}…): materialize its image again."
        )
    return replace(found, mpp=float(str(values["mpp"])), mpp_source=MppSource(str(values["mpp_source"])))


def tiff_address(address: str) -> str:
    """The address of the lossless original of an HPA image."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(path=str(PurePosixPath(parts.path).with_suffix(".tif"))))


def fetch_hpa(
    address: str, path: Path, fetch: Callable[[str, Path], Fetched], lossless: bool, kept: Path | None = None
) -> tuple[str, Path, int | None]:
    """Fetches an image of HPA, or copies the verified one.

    Args:
        address: address in the gene's page.
        path: path of the file; its suffix is replaced by that of the image.
        fetch: fetches the file at an address to a path.
        lossless: whether the TIFF is preferred; if there is none, the image at ``address`` is used.
        kept: see :func:`acquire_slide`.

    Returns:
        Address and path of the file, and the HTTP status if it was fetched.
    """
    for url in dict.fromkeys([tiff_address(address), address]) if lossless else [address]:
        target = path.with_suffix(PurePosixPath(urlsplit(url).path).suffix.lower())
        if kept is not None and _copy_verified(kept, url, target):
            return url, target, None
        with suppress(*([NotThere] if url != address else [])):
            return url, target, fetch(url, target).status
    raise AssertionError("unreachable")


def _copy_verified(kept: Path, address: str, target: Path) -> bool:
    """Copies the image that was verified before, if it is undamaged and came from the same address."""
    try:
        record = read_record(kept / RECORD_FILE)
    except StorageFailed:  # the record is damaged: the image is fetched again
        return False
    if record is None or record.values.get("location") != address:
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
        raise MissingInput(f"The image {source} no longer exists: put it back, or remove its partition.") from error
    except PermissionError as error:
        raise StorageFailed(f"The image {source} cannot be read: change its permissions.") from error
