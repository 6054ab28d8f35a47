"""Palette files: which colours of an annotated mask mean which class, by exact colour and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import TISSUE_LABELS, ClassMap, Rgb, RgbImage, TissueClass
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.slides.plain import decode_numbers, decode_rgb
from dermatome.storage.files import write_atomic

_RESCALED = ("16-bit", "CMYK", "YCbCr", "LAB")
"""How conversions begin that change the colours of a mask."""
SHIPPED_FOLDER = Path(__file__).parent / "palettes"


@dataclass(frozen=True)
class Palette:
    """The colours of each class.

    Attributes:
        colours: for each class its colours; the first is the one masks are drawn in. No colour is in two classes.
        other: the class that colours of no class go to, where the palette file names one; otherwise they are an error.
    """

    colours: tuple[tuple[TissueClass, tuple[Rgb, ...]], ...]
    other: TissueClass | None = None

    @classmethod
    def load(cls, path: Path) -> Palette:
        """Reads a palette file: ``{"classes": {"background": [[0, 0, 0]], …}, "other": "background"}``.

        ``other`` is optional and names the class of every colour that is not listed.

        Raises:
            MissingInput: there is no such file.
            BadAnnotation: it is not JSON of that shape, names an unknown class, or gives a colour to two classes.
        """
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise MissingInput(
                f"There is no palette {path}: put one beside images/ and masks/ that lists the colours of each class."
            ) from error
        except (ValueError, RecursionError) as error:
            raise BadAnnotation(f"The palette {path} is not JSON ({error}): correct it.") from error
        return cls.from_json(content, str(path))

    @classmethod
    def from_json(cls, content: Any, where: str) -> Palette:
        """The palette in decoded JSON; ``where`` names its file in errors (see :meth:`load`)."""
        if not isinstance(content, dict) or not isinstance(content.get("classes"), dict) or not content["classes"]:
            raise BadAnnotation(
                f'The palette {where} has no "classes": write {{"classes": {{"background": [[0, 0, 0]], …}}}}.'
            )
        taken: dict[Rgb, str] = {}
        colours = []
        for label, listed in content["classes"].items():
            tissue = _class_named(label, where)
            if not isinstance(listed, list) or not listed:
                raise BadAnnotation(f"The palette {where} gives {label!r} no list of colours: give it at least one.")
            own = tuple(_colour(entry, label, where) for entry in listed)
            for colour in own:
                if taken.setdefault(colour, label) != label:
                    raise BadAnnotation(
                        f"The palette {where} gives the colour {colour} to both {taken[colour]!r} and {label!r}: "
                        "leave it in one of them."
                    )
            colours.append((tissue, own))
        other = content.get("other")
        return cls(tuple(colours), None if other is None else _class_named(other, where))

    @classmethod
    def shipped(cls, name: str = "source") -> Palette:
        """A palette that comes with Dermatome: ``source`` (the source system's), ``skin_pas`` or ``dermatome``."""
        return cls.load(SHIPPED_FOLDER / f"{name}.json")

    def to_json(self) -> dict[str, Any]:
        """What :meth:`load` reads."""
        content: dict[str, Any] = {"classes": {tissue.label: [list(c) for c in own] for tissue, own in self.colours}}
        if self.other is not None:
            content["other"] = self.other.label
        return content

    def save(self, path: Path) -> Path:
        """Writes it to ``path``, whole."""
        return write_atomic(path, json.dumps(self.to_json(), indent=2).encode() + b"\n")


def decode_mask(data: bytes, palette: Palette, name: str) -> RgbImage:
    """Decodes the file of a mask into the palette's colours.

    A mask of one channel holds class numbers, from 0 for background. An 8-bit one may hold greys of the palette
    instead.

    Args:
        data: Bytes of the file.
        palette: Colours of each class.
        name: Name of the file, for errors.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        BadImage: The file is damaged or not an image.
        BadAnnotation: A number is no class of the palette, or colours would change while they are decoded.
    """
    numbers = decode_numbers(data, name)
    if numbers is None:
        rgb, conversions = decode_rgb(data, name)
        changed = [words for words in conversions if words.startswith(_RESCALED)]
        if changed:
            raise BadAnnotation(f"{name} would not keep its colours ({changed[0]}): export the mask as 8-bit RGB.")
        return rgb
    values = np.unique(numbers).tolist()
    colours = {colour for _, own in palette.colours for colour in own}
    listed = [value for value in values if numbers.dtype == np.uint8 and (value, value, value) in colours]
    classes = {int(tissue) for tissue, _ in palette.colours}
    if len(listed) < len(values) and classes.issuperset(values):
        return classes_to_rgb(numbers.astype(np.uint8), palette)
    if len(listed) == len(values) or (any(listed) and palette.other is not None):
        return np.repeat(numbers[..., None], 3, axis=2)
    allowed = ", ".join(f"{int(tissue)} ({tissue.label})" for tissue, _ in palette.colours)
    unknown = next(value for value in values if value not in classes)
    raise BadAnnotation(
        f"{name} is a mask of one channel with the number {unknown}, which is no class of the palette: number the "
        f"classes {allowed}, or export it in the palette's colours."
    )


def rgb_to_classes(rgb: npt.NDArray[np.uint8], palette: Palette, file_name: str) -> ClassMap:
    """The class of each pixel of a drawn mask, by exact colour.

    Args:
        rgb: (H, W, 3) uint8.
        palette: the colours of each class.
        file_name: named in errors.

    Returns:
        (H, W) uint8 of :class:`TissueClass`.

    Raises:
        BadAnnotation: a colour is in no class and the palette names no class for others; colour, count and file are
            named.
    """
    codes = (rgb[..., 0].astype(np.int32) << 16) | (rgb[..., 1].astype(np.int32) << 8) | rgb[..., 2]
    known = sorted((_code(colour), int(tissue)) for tissue, own in palette.colours for colour in own)
    keys = np.array([code for code, _ in known], dtype=np.int32)
    values = np.array([tissue for _, tissue in known], dtype=np.uint8)
    place = np.minimum(np.searchsorted(keys, codes), len(keys) - 1)
    mask: ClassMap = values[place]
    unknown = keys[place] != codes
    if unknown.any():
        if palette.other is None:
            found, counts = np.unique(codes[unknown], return_counts=True)
            worst = int(found[counts.argmax()])
            more = f" and {len(found) - 1} more unknown colours" if len(found) > 1 else ""
            raise BadAnnotation(
                f"{file_name} has the colour {(worst >> 16, worst >> 8 & 255, worst & 255)} in {counts.max()} px"
                f"{more}, which no class of the palette has: add it to a class, correct the mask, or name a class for "
                'unknown colours under "other" in the palette.'
            )
        mask[unknown] = palette.other
    return mask


def classes_to_rgb(mask: ClassMap, palette: Palette) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8: ``mask`` drawn in the first colour of each class; the inverse of :func:`rgb_to_classes`."""
    table = np.zeros((256, 3), dtype=np.uint8)
    for tissue, own in palette.colours:
        table[tissue] = own[0]
    drawn: npt.NDArray[np.uint8] = table[mask]
    return drawn


def _code(colour: Rgb) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _class_named(label: Any, where: str) -> TissueClass:
    if label not in TISSUE_LABELS:
        raise BadAnnotation(f"The palette {where} names the class {label!r}: use one of {', '.join(TISSUE_LABELS)}.")
    return TissueClass(TISSUE_LABELS.index(label))


def _colour(entry: Any, label: str, where: str) -> Rgb:
    if (
        not isinstance(entry, list)
        or len(entry) != 3
        or not all(type(value) is int and 0 <= value <= 255 for value in entry)
    ):
        raise BadAnnotation(
            f"The palette {where} gives {label!r} the colour {entry!r}: write three whole numbers from 0 to 255."
        )
    return entry[0], entry[1], entry[2]
