"""H&E slides put into the folder ``nuclei_inbox``: images and vendors' files, kept as they are once checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.errors import MissingInput
from dermatome.files import names_in
from dermatome.slide import SUFFIXES
from dermatome.slide_source import SlideSource, take_slide
from dermatome.stage_record import StageResult
from dermatome.wsi import WSI_SUFFIXES

if TYPE_CHECKING:
    from dermatome.files import AnyPath

SLIDE_SUFFIXES = (*SUFFIXES, *WSI_SUFFIXES)


def inbox_sources(inbox: AnyPath) -> dict[str, SlideSource]:
    """By slide, the stem of its file, where its image is; a slide of several files is left out."""
    found: dict[str, list[SlideSource]] = {}
    for name in names_in(inbox):
        path = Path(name)
        if path.suffix.lower() in SLIDE_SUFFIXES:
            found.setdefault(path.stem, []).append(SlideSource(path.stem, "folder", str(inbox / name)))
    return {slide: sources[0] for slide, sources in found.items() if len(sources) == 1}


def inbox_source(inbox: AnyPath, slide: str) -> SlideSource:
    """Where a slide's image is.

    Raises:
        MissingInput: there is none of that name, or more than one.
    """
    try:
        return inbox_sources(inbox)[slide]
    except KeyError as error:
        raise MissingInput(
            f"There is not one image of {slide} in {inbox}: put {slide}.svs there, or another of "
            f"{', '.join(SLIDE_SUFFIXES)}, and no two."
        ) from error


def take_nuclei_slide(source: SlideSource, folder: Path, declared_mpp: float, max_side_px: int) -> StageResult:
    """Copies a slide's image into ``folder`` and checks it; its scale is what the file states, or ``declared_mpp``.

    Raises:
        BadImage: it is no usable image.
        MissingInput: the file is gone.
    """
    return take_slide(source, folder, declared_mpp, max_side_px, SLIDE_SUFFIXES, stated=True)
