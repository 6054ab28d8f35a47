"""Reads the scale stated by image files: OME-XML, ImageJ's and vendors' descriptions, TIFF resolution, OpenSlide."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dermatome.errors import BadImage

_MICRONS = {
    1e-6: "pm",
    1e-4: "å angstrom angstroms",
    1e-3: "nm nanometer nanometers nanometre nanometres",
    # The micro sign, the Greek letter, the escape that ImageJ writes, and UTF-8 that was read as Latin-1.
    1.0: r"µm μm \u00b5m âμm um µ μ micron microns micrometer micrometers micrometre micrometres",
    1e3: "mm millimeter millimeters millimetre millimetres",
    1e4: "cm centimeter centimeters centimetre centimetres",
    25.4: "thou mil",
    25.4e3 / 72: "pt",
    25.4e3: "in inch inches",
    1e6: "m meter meters metre metres",
}
_UNITS = {unit: microns for microns, units in _MICRONS.items() for unit in units.split()}
_PER_CM = {2: 2.54, 3: 1.0, 4: 0.1, 5: 1e-4}
"""Centimetres in TIFF's units of resolution: inch, centimetre; and, not of the standard, millimetre and micrometre."""
_LEAST_MPP, _MOST_MPP = 0.05, 20.0
"""Range of microscopes and slide scanners, µm per pixel."""
_MOST_TAG_MPP = 5.0
"""Limit for dots per inch, which are those of screens, printers and flatbed scanners, too."""
_SQUARE = 0.02
"""Relative difference of width and height up to which pixels count as square."""
_OBJECTIVE_MPP = 10.0
"""µm per pixel of a scanner times its magnification: 0.5 at 20×, 0.25 at 40×."""
_FLATBED_DPI = (4800, 6400, 7200, 9600, 12800, 19200)
"""Dots per inch of flatbed and film scanners. A microscope could have them too, but not as round numbers."""
# Bounded in length, as descriptions are untrusted and may contain a megabyte of digits.
_NUMBER = r"((?:\d{0,9}\.\d{1,18}(?!\.?\d)|\d{0,9},?\d{1,9}(?![.,]?\d))(?:e[+-]?\d{1,2})?)"
_IS = r"""["']?(?:\s*[=:>]|(?=\s))\s*["'\[]*"""  # as in `key = 1`, `"key": [1`, `<key>1`, `key 1`
_AXIS = r"(?:[ _-]?\(?[xy]\)?)?"
_MICRON = r"(?:[µμu]m|mi(?:cron|cromet(?:er|re))s?)"
_LENGTH = rf"({_MICRON}|[nm]m)"
_A_PIXEL = r"(?:[ _]?per[ _]?|\s?/\s?)(?:pix(?:el)?|px)"
_PER_PIXEL = rf"{_MICRON}{_A_PIXEL}"
_SIZE = r"(?:(?:physical[ _]?)?pixel|physical)[ _]?size"
_MPP = re.compile(
    rf"(?<![a-z\d])(?:mpp|{_PER_PIXEL}|scanres|{_SIZE}){_AXIS}(?:[ _]?\(?{_LENGTH})?\)?{_IS}{_NUMBER}"
    rf"(?:\s*{_LENGTH}\b)?"
    rf"|resolution{_IS}{_NUMBER}\s?{_LENGTH}\b|(?<![\w.,]){_NUMBER}\s?(?:(nm){_A_PIXEL}|{_PER_PIXEL})\b",
    re.I,
)
_DICOM = re.compile(rf"""pixel[ _]?spacing(?:"[^<>]{{0,200}}+(?=>))?{_IS}{_NUMBER}""", re.I)
"""Philips' pixel spacing, mm, for each level of the pyramid."""
_POWER = r"(4|5|10|20|40|60|63|100)"
_OBJECTIVE = re.compile(
    rf"(?:mag|magnification|lens|\bobjective(?:[ _]?(?:power|name))?){_IS}{_NUMBER}(?!\s?mm)"
    rf"|(?<![\w.,]){_POWER}\s?[x×](?!\w|\s*\d)|(?<!\w)[x×]{_POWER}(?![\w.,])",
    re.I,
)


class Scale(NamedTuple):
    """The scale that a file states.

    Attributes:
        mpp: Microns per pixel; None if the file states no plausible scale.
        objective: Magnification of the objective; None if the file states none.
        notes: Evidence about the scale that is not used, as text.
    """

    mpp: float | None = None
    objective: float | None = None
    notes: tuple[str, ...] = ()


def stated_scale(path: Path) -> Scale:
    """Scale that a TIFF states in its description or, if there is none, in its resolution tags.

    Raises:
        BadImage: The file is damaged, or its pixels are not square.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            unit = page.tags.get("ResolutionUnit")
            # Without a unit, TIFF's is the inch.
            in_cm = _PER_CM.get(2 if unit is None else int(unit.value))
            per_unit = [_ratio(page.tags.get(f"{axis}Resolution")) for axis in "XY"]
            description = page.description
            described, objective, notes = _described(description, per_unit)
    except Exception as error:  # tifffile raises many classes of errors for a damaged file
        raise BadImage(f"{path.name} is damaged or cut short ({error}): fetch it again.") from error
    scale = _scale(described, objective, path.name, _MOST_MPP)
    scale = scale._replace(notes=(*notes, *scale.notes))
    # ImageJ's numbers are in the unit that its description names.
    of_imagej = description.startswith("ImageJ=") and (unit is None or _imagej(description, "unit") is not None)
    if scale.mpp or not in_cm or of_imagej:
        return scale
    found = _dots([value * 2.54 / in_cm if value else None for value in per_unit], objective, path.name)
    return found._replace(notes=scale.notes + found.notes)


def dots_scale(dpi: tuple[float, float] | None, name: str) -> Scale:
    """Scale of a JPEG or PNG that states ``dpi``, dots per inch across and down; most state a screen's, which is none.

    Raises:
        BadImage: The pixels are not square.
    """
    found = _dots([value or None for value in dpi or ()], None, name)
    return found if found.mpp else Scale()


def openslide_scale(properties: Mapping[str, str], name: str) -> Scale:
    """Scale among OpenSlide's properties; ``name`` names the file in errors.

    Raises:
        BadImage: The pixels are not square.
        ValueError: A property is not a number.
    """
    stated = [properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
    objective = properties.get("openslide.objective-power")
    known = [float(value) if value else None for value in stated]
    return _scale(known, float(objective) if objective else None, name, _MOST_MPP)


def check_declared(scale: Scale, declared_mpp: float, given: bool, name: str) -> tuple[str, ...]:
    """Compares the scale that a slide is given with the evidence in its file.

    Args:
        scale: What the file states.
        declared_mpp: Microns per pixel for a file that states none.
        given: Whether a person declared it for this file, rather than for all files without a scale.
        name: Name of the file, for errors.

    Returns:
        Notes on contradictions, as text.

    Raises:
        BadImage: The objective contradicts ``declared_mpp`` by more than a factor of 1.5, and it was not ``given``.
    """
    if scale.mpp:
        if given and _factor(scale.mpp, declared_mpp) > 1 + _SQUARE:
            return (*scale.notes, f"the file states {scale.mpp:g} µm per pixel, used instead of {declared_mpp:g}")
        return scale.notes
    if not scale.objective:
        return scale.notes
    expected = _OBJECTIVE_MPP / scale.objective
    words = f"a {scale.objective:g}× objective, about {expected:g} µm per pixel, and no scale"
    factor = _factor(expected, declared_mpp)
    if factor > 1.5 and not given:
        raise BadImage(
            f"{name} states {words}, which contradicts the declared {declared_mpp:g} µm per pixel: declare the scale "
            "of this slide, with --mpp on the command line."
        )
    return (*scale.notes, f"the file states {words}; {declared_mpp:g} was declared") if factor > 1.1 else scale.notes


def is_microscope(mpp: float) -> bool:
    """Whether a scale, µm per pixel, can be that of a microscope or slide scanner."""
    return _LEAST_MPP <= mpp <= _MOST_MPP


def significant_bits(tags: Mapping[int, Any]) -> int:
    """Number of bits that a TIFF's values use: the smallest number in its tags and its OME-XML."""
    stated = [int(v) for v in _numbers(tags.get(258, 16))] + [int(v).bit_length() for v in _numbers(tags.get(281, ()))]
    ome = _ome_pixels(str(tags.get(270, "")))
    if ome is not None:
        found = [ome.get("SignificantBits"), *(channel.get("SignificantBits") for channel in ome)]
        stated += [int(bits) for bits in found if bits]
    return min((bits for bits in stated if bits > 0), default=16)


def check_interleaved(description: str, samples: int, name: str) -> None:
    """Refuses an image if only some of its channels would be read: the first page, or the first three of many.

    Raises:
        BadImage: the description of the first page names more than ``samples`` channels, or is damaged; or there are
            more than those of RGB with transparency, or of CMYK.
    """
    if samples > 4:
        raise BadImage(f"{name} holds {samples} channels, of which only three would be read: export it as RGB.")
    try:
        ome = _ome_pixels(description)
        stated = _imagej(description, "channels") if ome is None else ome.get("SizeC")
        channels = int(stated or 1)
    except (SyntaxError, ValueError) as error:
        raise BadImage(f"{name} is damaged in its description ({error}): export it again.") from error
    if channels > samples:
        raise BadImage(
            f"{name} stores {channels} channels as separate pages, of which only the first would be read: export it "
            "as RGB with interleaved channels."
        )


def _described(
    description: str, per_unit: list[float | None]
) -> tuple[list[float | None], float | None, tuple[str, ...]]:
    """Reads a description: microns per pixel in x and y, magnification of the objective, notes on what is not usable.

    ``per_unit``: pixels per unit of length from the resolution tags; ImageJ names the unit in its description.
    """
    ome = _ome_pixels(description)
    if ome is not None:
        stated = [(ome.get(f"PhysicalSize{axis}"), ome.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY"]
        nominal = {float(o.get("NominalMagnification") or 0) for o in ome.getroottree().iterfind(".//{*}Objective")}
        sizes = [_float(size) * (_unit(unit) or 0) if size else None for size, unit in stated]
        strange = {unit for size, unit in stated if size and not _unit(unit)}
        return sizes, nominal.pop() if len(nominal) == 1 else None, _strange(strange)
    objective = _OBJECTIVE.search(description)
    power = _float(next(filter(None, objective.groups()))) if objective else None
    found = [_microns(each) for each in _MPP.finditer(description)][:2]
    if not found and (spacing := _DICOM.search(html.unescape(description))):
        found = [1000 * _float(spacing[1])]
    if found or not (unit := _imagej(description, "unit")):
        return list(found), power, ()
    names = [unit, _imagej(description, "yunit") or unit]
    units = [_unit(name) for name in names]
    sizes = [unit / value if value and unit else None for unit, value in zip(units, per_unit, strict=True)]
    return sizes, power, _strange({name for name, unit in zip(names, units, strict=True) if not unit})


def _microns(found: re.Match[str]) -> float:
    """The number in a match of :data:`_MPP`, converted to µm if it states another unit."""
    stated = [group for group in found.groups() if group]
    number, *units = sorted(stated, key=str.isalpha)
    return _float(number) * ((units and _unit(units[0])) or 1.0)


def _dots(dpi: list[float | None], objective: float | None, name: str) -> Scale:
    """Scale of dots per inch across and down, if they are a microscope's."""
    dots = {round(value) for value in dpi if value}
    if dots <= {*_FLATBED_DPI} and dots:
        return Scale(None, objective or None, (f"{max(dots)} dots per inch, as the file states, are a scanner's",))
    return _scale([25_400 / value if value else None for value in dpi], objective, name, _MOST_TAG_MPP)


def _strange(units: set[str]) -> tuple[str, ...]:
    # ImageJ's images without a scale use pixels as the unit.
    named = sorted(unit for unit in units if not unit.casefold().startswith("pixel"))
    return tuple(f"a scale in {unit[:20]!r}, as the file states, is in no unit of length" for unit in named)


def _scale(sizes: list[float | None], objective: float | None, name: str, most: float) -> Scale:
    """Scale for pixel ``sizes`` in x and y, µm. One may be missing; the mpp is None if it exceeds ``most``."""
    known = [size for size in sizes if size]
    if not known:
        return Scale(None, objective or None)
    words = " × ".join(f"{size:.4g}" for size in known)
    if not all(_LEAST_MPP <= size <= most for size in known):
        return Scale(None, objective or None, (f"{words} µm per pixel, as the file states, is no microscope's scale",))
    if _factor(max(known), min(known)) > 1 + _SQUARE:
        raise BadImage(f"{name} states pixels of {words} µm, which are not square: resample it to square pixels.")
    even = max(known) - min(known) < 1e-3 * max(known)
    mean = sum(known) / len(known)
    return Scale(mean, objective or None, () if even else (f"pixels of {words} µm taken as square",))


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


def _unit(name: str) -> float | None:
    return _UNITS.get(name.strip().casefold())


def _ratio(tag: Any) -> float | None:
    return tag.value[0] / tag.value[1] if tag is not None and all(tag.value) else None


def _float(text: str) -> float:
    return float(text.replace(",", "."))


def _factor(one: float, other: float) -> float:
    return max(one / other, other / one)


def _numbers(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
