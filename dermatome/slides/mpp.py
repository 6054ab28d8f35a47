"""The scale that an image file states: OME-XML, ImageJ's and Aperio's descriptions, TIFF resolution, OpenSlide."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dermatome.errors import BadImage

# Units with the micro sign, with the Greek letter, and as ImageJ escapes it.
_MICRONS = {"nm": 1e-3, "mm": 1e3, "cm": 1e4} | dict.fromkeys(("µm", "μm", r"\u00B5m", "um", "micron", "microns"), 1.0)
_PER_CM = {2: 2.54, 3: 1.0}
"""Centimetres in TIFF's units of resolution: inch, centimetre."""
_LEAST_MPP, _MOST_MPP = 0.05, 20.0
"""Range of scanners and microscopes; other figures are those of a screen or a printer."""


def stated_mpp(path: Path) -> float | None:
    """Microns per pixel that a TIFF states in its description or its resolution; None if it states no plausible one.

    Raises:
        BadImage: the file is damaged.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            unit, across = page.tags.get("ResolutionUnit"), page.tags.get("XResolution")
            per_unit = across.value[0] / across.value[1] if across is not None and all(across.value) else None
            described = _described_mpp(page.description, per_unit)
            if described is not None or tiff.is_ome:
                return _plausible(described)
            in_cm = _PER_CM.get(int(unit.value)) if unit is not None else None
            return _plausible(10_000 * in_cm / per_unit if in_cm and per_unit else None)
    except Exception as error:  # tifffile raises whatever it stumbles over in a damaged file
        raise BadImage(f"{path.name} is damaged or cut short ({error}): fetch it again.") from error


def openslide_mpp(properties: Mapping[str, str]) -> float | None:
    """Microns per pixel of OpenSlide's properties, the mean of both axes; None if there is no plausible one."""
    stated = [properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
    known = [float(value) for value in stated if value is not None]
    return _plausible(sum(known) / len(known)) if known else None


def check_interleaved(description: str, samples: int, name: str) -> None:
    """Refuses an image whose channels are separate pages: the first page alone would be read as a grey image.

    Args:
        description: of the first page.
        samples: channels of that page.
        name: of the file.

    Raises:
        BadImage: the description names more channels, or is damaged.
    """
    try:
        ome = _ome_pixels(description)
        stated = _imagej(description, "channels") if ome is None else ome.get("SizeC")
        channels = int(stated or 1)
    except (SyntaxError, ValueError) as error:
        raise BadImage(f"{name} is damaged in its description ({error}): export it again.") from error
    if channels > samples:
        raise BadImage(
            f"{name} holds {channels} channels as pages of their own, of which only the first would be read: export it "
            "as RGB with interleaved channels."
        )


def _described_mpp(description: str, per_unit: float | None) -> float | None:
    """``per_unit``: pixels per unit of length, from the page's resolution; ImageJ names the unit in its lines."""
    ome = _ome_pixels(description)
    if ome is not None:
        unit, size = ome.get("PhysicalSizeXUnit", "µm"), ome.get("PhysicalSizeX")
        return float(size) * _MICRONS[unit] if size is not None and unit in _MICRONS else None
    aperio = re.search(r"\|\s*MPP\s*=\s*([\d.]+)", description) if description.startswith("Aperio") else None
    if aperio:
        return float(aperio[1])
    unit = _imagej(description, "unit")
    return _MICRONS[unit] / per_unit if per_unit and unit in _MICRONS else None


def _ome_pixels(description: str) -> Any | None:
    """The first ``Pixels`` element of OME-XML; None if the description is not OME-XML or has none."""
    from lxml import etree

    if not description.rstrip("\0 \r\n").endswith("OME>"):
        return None
    parser = etree.XMLParser(resolve_entities="internal", no_network=True, load_dtd=False, huge_tree=False)
    return etree.fromstring(description.encode(), parser).find(".//{*}Pixels")


def _imagej(description: str, key: str) -> str | None:
    found = re.search(rf"^{key}=(.+)$", description, re.M) if description.startswith("ImageJ=") else None
    return found[1].strip() if found else None


def _plausible(mpp: float | None) -> float | None:
    return mpp if mpp is not None and _LEAST_MPP <= mpp <= _MOST_MPP else None
