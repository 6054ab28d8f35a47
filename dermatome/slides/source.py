"""Where a slide's image comes from (HPA, a folder, the inbox), and its verified copy in the data root."""

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
"""Suffixes of files that are slides by themselves."""
IMAGE_STEM = "image"
_OVERVIEW_PX = 640
# A slide without tissue has almost one grey value; real HPA cores have a spread of 20 and more.
_BLANK_SPREAD = 2.0
# A file system's times are as coarse as this on some, and its clock is not ours.
_CLOCK_S = 5.0


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
        """A hash of the address or, for files, of their names and content, wherever the data root is.

        Raises:
            MissingInput: the file is gone.
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
        """The location relative to the data root if it is in it, so that the data root may be moved."""
        if self.origin == "hpa":
            return self.location
        path = Path(self.location).absolute()
        return str(path.relative_to(root) if path.is_relative_to(root) else path)


def sources_now(sources: Mapping[str, SlideSource], root: Path, name: str) -> Callable[[StageRecord], dict[str, str]]:
    """Gives the identity of a slide's source, named ``name``, if it may be another one than the recorded image's.

    Files are read only if they lie elsewhere than recorded, or were put there or changed since the image was read, by
    the file system's clock. Nothing is given of a slide without a source.

    Args:
        sources: where images are now, by slide.
        root: the data root.
        name: of the input in records.
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
        except (FileNotFoundError, MissingInput):  # there is nothing to make another image of
            return {}

    return now


def inbox_sources(inbox: Path, names: Iterable[str] | None = None) -> dict[str, SlideSource]:
    """Returns the sources of the H&E slides in an inbox, by slide; slides with two images are left out.

    A slide's name is the stem of its file, or the name of a folder of DICOM files, as :func:`usable_id` writes it.

    Args:
        inbox: the folder.
        names: names of the files in it and in its folders, if they are known already.
    """
    found = _images(inbox, changed_in(inbox, folders=True) if names is None else names)
    return {slide: next(iter(sources)) for slide, sources in found.items() if len(sources) == 1}


def inbox_clashes(inbox: Path, names: Iterable[str]) -> list[str]:
    """Returns the slides that have two images among the files ``names``, sorted."""
    return sorted(slide for slide, sources in _images(inbox, names).items() if len(sources) > 1)


def inbox_place(name: str) -> str | None:
    """Returns what makes a file ``name`` or ``folder/name`` a slide: itself, its folder, or None."""
    folder, _, file = name.rpartition("/")
    if is_dicom(file):
        return folder or None
    return name if not folder and PurePosixPath(file).suffix.lower() in SLIDE_SUFFIXES else None


def place_source(inbox: Path, place: str) -> SlideSource:
    """Returns the source at a place of :func:`inbox_place`; its slide is empty if the name gives none."""
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
            f"There is not one image of {slide} in {inbox}: put {slide}.svs there, or another of "
            f"{', '.join(SLIDE_SUFFIXES)}, or a folder {slide} with its {DICOM_SUFFIX} files, and no two."
        ) from error


def _images(inbox: Path, names: Iterable[str]) -> dict[str, set[SlideSource]]:
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
    """Puts a slide's image into ``folder`` and checks it by decoding it; its preview is written beside it.

    Args:
        source: where the image is.
        folder: where it is put.
        declared_mpp: microns per pixel if the file states none.
        max_side_px: longest side of an image that is decoded as one array.
        fetch_image: fetches the image at an address of HPA to a path.
        lossless: whether HPA's TIFF is preferred; where there is none, the image at the address is taken.
        kept: folder of the slide's last verified image; an HPA file that is there is not fetched again.
        root: the data root, if locations in it are to be recorded relative to it.

    Raises:
        FetchFailed: the image did not arrive.
        BadImage: it is not a usable image; it is not kept.
        MissingInput: the file is gone.
        StorageFailed: the file may not be read, or ``folder`` not be written.
    """
    started = time.perf_counter()
    http_status: int | None = None
    location = source.location if root is None else source.stored_location(root)
    path = folder / f"{IMAGE_STEM}{DICOM_SUFFIX}"
    if source.origin == "dicom":
        # The label and the overview stay where they are: they may show the patient's name.
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
        # The scale is part of what later stages read: the same pixels at another mpp are other data.
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
    """The verified image that `slide_images` or `nuclei_slides` left in ``folder``, at the scale recorded with it.

    Raises:
        BadImage: the file is not the one that was verified.
        MissingInput: the file is gone.
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
    """Where HPA serves the lossless original of an image."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(path=str(PurePosixPath(parts.path).with_suffix(".tif"))))


def fetch_hpa(
    address: str, path: Path, fetch: Callable[[str, Path], Fetched], lossless: bool, kept: Path | None = None
) -> tuple[str, Path, int | None]:
    """Fetches an image of HPA, or copies the verified one.

    Args:
        address: as the gene's page names it.
        path: where it is put; its suffix becomes that of the file.
        fetch: fetches the file at an address to a path.
        lossless: whether the TIFF is preferred; where there is none, the image at ``address`` is taken.
        kept: see :func:`acquire_slide`.

    Returns:
        Address and path of the file that was taken, and the HTTP status if it was fetched.
    """
    for one in dict.fromkeys([tiff_address(address), address]) if lossless else [address]:
        target = path.with_suffix(PurePosixPath(urlsplit(one).path).suffix.lower())
        if kept is not None and _copy_verified(kept, one, target):
            return one, target, None
        with suppress(*([NotThere] if one != address else [])):
            return one, target, fetch(one, target).status
    raise AssertionError("unreachable")


def _copy_verified(kept: Path, address: str, target: Path) -> bool:
    """Copies the image that was verified before, if it came from the same address and is unharmed."""
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
        raise MissingInput(f"There is no image {source} any more: put it back, or take its partition out.") from error
    except PermissionError as error:
        raise StorageFailed(f"The image {source} may not be read: change its rights.") from error
