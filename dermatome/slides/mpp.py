"""What programs write into a TIFF's description: OME-XML, or ImageJ's and Aperio's lines."""

from __future__ import annotations

import re
from typing import Any

from dermatome.errors import BadImage

# With the micro sign and the Greek letter, and as ImageJ escapes it.
_MICRONS = {"nm": 1e-3, "mm": 1e3, "cm": 1e4} | dict.fromkeys(("µm", "μm", r"\u00B5m", "um", "micron", "microns"), 1.0)


def ome_pixels(description: str) -> Any | None:
    """The first ``Pixels`` element of OME-XML; None where the description is none, or has none.

    Raises:
        lxml.etree.XMLSyntaxError: it is not whole.
    """
    from lxml import etree

    if not description.rstrip("\0 \r\n").endswith("OME>"):
        return None
    parser = etree.XMLParser(resolve_entities="internal", no_network=True, load_dtd=False, huge_tree=False)
    return etree.fromstring(description.encode(), parser).find(".//{*}Pixels")


def check_interleaved(description: str, samples: int, name: str) -> None:
    """Refuses an image whose channels are pages of their own: the first page alone would be read as a grey image.

    Args:
        description: of the first page.
        samples: how many channels that page has.
        name: of the file.

    Raises:
        BadImage: there are more channels than that, or the description that says so is damaged.
    """
    try:
        ome = ome_pixels(description)
        stated = _imagej(description, "channels") if ome is None else ome.get("SizeC")
        channels = int(stated or 1)
    except (SyntaxError, ValueError) as error:
        raise BadImage(f"{name} is damaged in its description ({error}): export it again.") from error
    if channels > samples:
        raise BadImage(
            f"{name} holds {channels} channels as pages of their own, of which only the first would be read: export it "
            "as RGB with interleaved channels."
        )


def described_mpp(description: str, per_unit: float | None) -> float | None:
    """Microns per pixel that a description states; None where it states none.

    Args:
        description: of the first page.
        per_unit: pixels per unit of length, from the page's resolution; ImageJ names the unit in its lines.

    Raises:
        ValueError: what it states is no number.
        lxml.etree.XMLSyntaxError: the OME-XML is not whole.
    """
    ome = ome_pixels(description)
    if ome is not None:
        unit, size = ome.get("PhysicalSizeXUnit", "µm"), ome.get("PhysicalSizeX")
        return float(size) * _MICRONS[unit] if size is not None and unit in _MICRONS else None
    aperio = re.search(r"\|\s*MPP\s*=\s*([\d.]+)", description) if description.startswith("Aperio") else None
    if aperio:
        return float(aperio[1])
    unit = _imagej(description, "unit")
    return _MICRONS[unit] / per_unit if per_unit and unit in _MICRONS else None


def _imagej(description: str, key: str) -> str | None:
    found = re.search(rf"^{key}=(.+)$", description, re.M) if description.startswith("ImageJ=") else None
    return found[1].strip() if found else None
