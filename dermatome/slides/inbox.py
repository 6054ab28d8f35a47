"""H&E slides put into the folder ``nuclei_inbox``: images and vendors' files, kept as they are once checked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from dermatome.errors import MissingInput
from dermatome.slides.dicom import DICOM_SUFFIX, is_dicom
from dermatome.slides.slide import SUFFIXES
from dermatome.slides.source import SlideSource, take_slide
from dermatome.slides.vendors import WSI_SUFFIXES
from dermatome.storage.files import changed_in
from dermatome.storage.record import StageResult

SLIDE_SUFFIXES = (*SUFFIXES, *(suffix for suffix in WSI_SUFFIXES if suffix != DICOM_SUFFIX))
"""Of files that are slides by themselves."""


def inbox_sources(inbox: Path, names: Iterable[str] | None = None) -> dict[str, SlideSource]:
    """By slide, where its image is: the stem of a file's name, or the name of a folder of DICOM files.

    A slide that there are two images of is left out; see :func:`inbox_clashes`.

    Args:
        inbox: the folder.
        names: of the files there and in its folders, where they are known already.
    """
    found = _images(inbox, changed_in(inbox, folders=True) if names is None else names)
    return {slide: next(iter(sources)) for slide, sources in found.items() if len(sources) == 1}


def inbox_clashes(inbox: Path, names: Iterable[str]) -> list[str]:
    """The slides that there are two images of among the files ``names``; sorted."""
    return sorted(slide for slide, sources in _images(inbox, names).items() if len(sources) > 1)


def _images(inbox: Path, names: Iterable[str]) -> dict[str, set[SlideSource]]:
    found: dict[str, set[SlideSource]] = {}
    for name in names:
        place = inbox_place(name)
        if place == name:
            slide = PurePosixPath(name).stem
            found.setdefault(slide, set()).add(SlideSource(slide, "folder", str(inbox / name)))
        elif place is not None:
            found.setdefault(place, set()).add(SlideSource(place, "dicom", str(inbox / place)))
    return found


def inbox_place(name: str) -> str | None:
    """What a file of the inbox, ``name`` or ``folder/name``, is a slide's image by: itself, its folder, or nothing."""
    folder, _, file = name.rpartition("/")
    if is_dicom(file):
        return folder or None
    return name if not folder and PurePosixPath(file).suffix.lower() in SLIDE_SUFFIXES else None


def inbox_source(inbox: Path, slide: str) -> SlideSource:
    """Where a slide's image is.

    Raises:
        MissingInput: there is none of that name, or more than one.
    """
    try:
        return inbox_sources(inbox)[slide]
    except KeyError as error:
        raise MissingInput(
            f"There is not one image of {slide} in {inbox}: put {slide}.svs there, or another of "
            f"{', '.join(SLIDE_SUFFIXES)}, or a folder {slide} with its {DICOM_SUFFIX} files, and no two."
        ) from error


def take_nuclei_slide(source: SlideSource, folder: Path, declared_mpp: float, max_side_px: int) -> StageResult:
    """Copies a slide's image into ``folder`` and checks it; its scale is what the file states, or ``declared_mpp``.

    Raises:
        BadImage: it is no usable image.
        MissingInput: the file is gone.
    """
    return take_slide(source, folder, declared_mpp, max_side_px, SLIDE_SUFFIXES)
