"""DICOM slides: a folder of .dcm files, one for each pyramid level, besides label, overview and thumbnail."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

from dermatome.errors import BadImage, MissingInput

DICOM_SUFFIX = ".dcm"

_WSI_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class UID of VL Whole Slide Microscopy Image Storage."""
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_TAGS = (0x00080008, 0x00080016, 0x0020000E, 0x00480006, 0x00480007)
"""Tags of Image Type, SOP Class UID, Series Instance UID, Total Pixel Matrix Columns and Rows, in file order."""
_HEAD_BYTES = 1 << 20
"""Bytes that are parsed: the tags lie in the first kilobytes, and false lengths then cannot exhaust memory."""


class _Head(NamedTuple):
    series: str
    pixels: int
    """Number of pixels of a pyramid level, px; 0 for other files."""


def is_dicom(name: str) -> bool:
    """Whether a file name is that of a DICOM file; hidden files, which macOS adds to copied folders, do not count."""
    return name.lower().endswith(DICOM_SUFFIX) and not name.startswith(".")


def is_dicom_folder(path: Path) -> bool:
    """Whether ``path`` is a folder with DICOM files directly in it."""
    return path.is_dir() and any(is_dicom(file.name) for file in path.iterdir())


def slide_files(place: Path) -> list[Path]:
    """The files with a slide's pixels; for a DICOM slide those of its pyramid, full resolution first.

    Args:
        place: a file, the folder of a DICOM slide, or one of its files; in the last case, files of other series in the
            folder are ignored.

    Raises:
        FileNotFoundError: there is no such file.
        MissingInput: the folder holds no DICOM file.
        BadImage: a DICOM file there cannot be read, or they contain no pyramid or several slides.
    """
    if not place.is_dir() and not is_dicom(place.name):
        return [place]
    wanted = None if place.is_dir() else _head(place).series
    folder = place.parent if wanted else place
    heads = {file: _head(file) for file in sorted(folder.iterdir()) if is_dicom(file.name) and file.is_file()}
    if not heads:
        raise MissingInput(f"There is no {DICOM_SUFFIX} file in {folder}: put all files of the slide there.")
    levels = {file: head for file, head in heads.items() if head.pixels and wanted in (None, head.series)}
    if not levels:
        raise BadImage(
            f"{place.name} has no level of a DICOM slide (ImageType VOLUME): put all {DICOM_SUFFIX} files of the slide "
            "into its folder."
        )
    series = {head.series for head in levels.values()}
    if len(series) > 1:
        raise BadImage(
            f"{place.name} contains levels of {len(series)} DICOM slides, by their SeriesInstanceUID: put the files of "
            "each into a folder of its own."
        )
    return sorted(levels, key=lambda file: -levels[file].pixels)


def _head(path: Path) -> _Head:
    from pydicom.filereader import read_partial

    with path.open("rb") as file:
        data = file.read(_HEAD_BYTES)
    if not data:
        raise BadImage(f"{path.name} is empty: fetch it again.")
    try:
        # Deflated data may unpack to any size, and OpenSlide cannot read them.
        if _DEFLATED in data:
            raise ValueError("it is deflated")
        read = read_partial(io.BytesIO(data), lambda tag, _vr, _length: tag > _TAGS[-1], specific_tags=list(_TAGS))
        kind, sop_class, series, width, height = (read[tag].value if tag in read else None for tag in _TAGS)
        if not series:
            raise ValueError("it names no series")
        # A label or overview may show the patient's name; a thumbnail is not a level.
        if sop_class != _WSI_CLASS or isinstance(kind, str) or list(kind or ())[2:3] != ["VOLUME"]:
            return _Head(str(series), 0)
        if not width or not height:
            raise ValueError("it does not state the size of its level")
        return _Head(str(series), int(width) * int(height))
    except Exception as error:  # pydicom raises many classes of errors for a damaged file
        raise BadImage(f"{path.name} is not a readable DICOM file of a slide ({error}): fetch it again.") from error
