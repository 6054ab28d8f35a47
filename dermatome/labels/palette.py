"""Palettes: which colours, numbers or names in an annotated mask stand for which class; all others are errors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dermatome.classes import IGNORED, TISSUE_LABELS, ClassMap, Rgb
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.slides.plain import decode_numbers, decode_rgb
from dermatome.storage.files import write_atomic

_RESCALED = ("16-bit", "CMYK", "YCbCr", "LAB")
"""Prefixes of the descriptions of image conversions that change a mask's colours."""
PaletteName = Literal["queensland", "skin_pas", "dermatome"]
SHIPPED_FOLDER = Path(__file__).parent / "palettes"


IGNORED_LABEL = "ignored"
"""Name in a palette for pixels of unknown class, which are neither trained nor scored on."""


@dataclass(frozen=True)
class Palette:
    """Maps colours, numbers and names to classes: values of :class:`TissueClass`, or :data:`IGNORED`.

    Attributes:
        colours: class of each colour; masks are drawn in the first colour of a class.
        other: class of all colours, numbers and names that are not listed; if None, they are an error.
        numbers: class of each number in a label image; if empty, the numbers are the classes.
        names: class of further names of outlines, in lower case.
    """

    colours: dict[Rgb, int] = field(default_factory=dict, hash=False)
    other: int | None = None
    numbers: dict[int, int] = field(default_factory=dict, hash=False)
    names: dict[str, int] = field(default_factory=dict, hash=False)

    @classmethod
    def load(cls, path: Path) -> Palette:
        """Reads a palette file: ``{"classes": {"background": [[0, 0, 0]], "dermis": [2, "Papillary"], …}}``.

        Classes are those of tissue, and ``ignored``. A list of three numbers is a colour, a number is a value in a
        label image, a text is the name of outlines. ``"other": "background"`` gives the class of everything that is not
        listed.

        Raises:
            MissingInput: there is no such file.
            BadAnnotation: it is not JSON of this form, names an unknown class, or gives an entry to two classes.
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
        """Creates a palette from decoded JSON; ``where`` names its file in errors (see :meth:`load`)."""
        if not isinstance(content, dict) or not isinstance(content.get("classes"), dict) or not content["classes"]:
            raise BadAnnotation(
                f'The palette {where} has no "classes": write {{"classes": {{"background": [[0, 0, 0]], …}}}}.'
            )
        taken: dict[Rgb | int | str, str] = {}
        found: dict[type, dict[Any, int]] = {tuple: {}, int: {}, str: {}}
        for label, listed in content["classes"].items():
            number = _class_named(label, where)
            if not isinstance(listed, list) or not listed:
                raise BadAnnotation(f"The palette {where} gives {label!r} no list of colours: give it at least one.")
            for entry in (_entry(entry, label, where) for entry in listed):
                if taken.setdefault(entry, label) != label:
                    kind = {tuple: "colour", int: "number", str: "name"}[type(entry)]
                    raise BadAnnotation(
                        f"The palette {where} gives the {kind} {entry} to both {taken[entry]!r} and {label!r}: "
                        "keep it in one of them."
                    )
                found[type(entry)][entry] = number
        other = content.get("other")
        return cls(found[tuple], None if other is None else _class_named(other, where), found[int], found[str])

    @classmethod
    def shipped(cls, name: PaletteName) -> Palette:
        """Loads a palette that is part of Dermatome.

        Args:
            name: ``queensland`` for the University of Queensland's skin cancer data set, ``dermatome`` for our own.
        """
        return cls.load(SHIPPED_FOLDER / f"{name}.json")

    def to_json(self) -> dict[str, Any]:
        """The palette as JSON that :meth:`load` reads."""
        entries: dict[str, list[Any]] = {}
        for colour, number in self.colours.items():
            entries.setdefault(_label(number), []).append(list(colour))
        for entry, number in (*self.numbers.items(), *self.names.items()):
            entries.setdefault(_label(number), []).append(entry)
        return {"classes": entries} | ({} if self.other is None else {"other": _label(self.other)})

    def save(self, path: Path) -> Path:
        """Writes the palette to ``path``, atomically, and returns ``path``."""
        return write_atomic(path, json.dumps(self.to_json(), indent=2).encode() + b"\n")

    def class_named(self, name: str) -> int | None:
        """The class of outlines named ``name``, ignoring case; None if neither palette nor classes have that name."""
        name = name.strip().casefold()
        own = {label: number for number, label in enumerate(TISSUE_LABELS)} | {IGNORED_LABEL: IGNORED}
        return (own | self.names).get(name, self.other)


def decode_mask(data: bytes, palette: Palette | None, name: str) -> ClassMap:
    """Decodes a mask file.

    A mask with one channel contains numbers: those listed in the palette, or else class numbers, with 0 for background
    and 255 for ignored pixels. If it is 8-bit, it may contain the palette's greys instead. ``name`` is used in errors.

    Returns:
        (H, W) uint8 of :class:`TissueClass` and :data:`IGNORED`.

    Raises:
        BadImage: The file is damaged or not an image.
        BadAnnotation: A number or colour is not in the palette, or colours would change during decoding.
    """
    numbers = decode_numbers(data, name)
    if numbers is not None:
        return _numbers_to_classes(numbers, palette or Palette(), name)
    rgb, conversions = decode_rgb(data, name)
    changed = [words for words in conversions if words.startswith(_RESCALED)]
    if changed:
        raise BadAnnotation(f"The colours of {name} would change ({changed[0]}): export the mask as 8-bit RGB.")
    if palette is None or not palette.colours:
        raise BadAnnotation(
            f"{name} is a mask in colours without a palette: put a palette.json beside it that lists the colours of "
            "each class, or export it as a label image."
        )
    return rgb_to_classes(rgb, palette, name)


def _numbers_to_classes(numbers: npt.NDArray[Any], palette: Palette, name: str) -> ClassMap:
    values = np.unique(numbers).tolist()
    classes, other = palette.numbers, palette.other
    if not classes:
        greys = [value for value in values if numbers.dtype == np.uint8 and (value, value, value) in palette.colours]
        classes = {number: number for number in palette.colours.values() or range(len(TISSUE_LABELS))}
        if (IGNORED,) * 3 not in palette.colours:  # otherwise 255 is the colour white
            classes[IGNORED] = IGNORED
        if greys == values or (any(greys) and other is not None and not classes.keys() >= set(values)):
            return rgb_to_classes(np.repeat(numbers[..., None], 3, axis=2), palette, name)
        other = None
    unknown = [value for value in values if value not in classes]
    if unknown and other is None:
        allowed = ", ".join(f"{value} ({_label(number)})" for value, number in sorted(classes.items()))
        raise BadAnnotation(
            f"{name} is a mask of one channel with the number {unknown[0]:g}, which is not in the palette: number "
            f"the classes {allowed}, list the numbers in palette.json, or export it in the palette's colours."
        )
    mask: ClassMap = np.full(numbers.shape, other or 0, np.uint8)
    for value, number in classes.items():
        mask[numbers == value] = number
    return mask


def rgb_to_classes(rgb: npt.NDArray[np.uint8], palette: Palette, file_name: str) -> ClassMap:
    """Converts a mask in colours, (H, W, 3) uint8, to classes by exact colour.

    Returns:
        (H, W) uint8 of :class:`TissueClass` and :data:`IGNORED`.

    Raises:
        BadAnnotation: a colour is in no class and the palette has no class for others; the message names colour, count
            and file.
    """
    codes = (rgb[..., 0].astype(np.int32) << 16) | (rgb[..., 1].astype(np.int32) << 8) | rgb[..., 2]
    known = sorted((_code(colour), number) for colour, number in palette.colours.items())
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
                f"{more}, which is in no class of the palette: add it to a class, correct the mask, or set the class "
                'of unknown colours under "other" in the palette.'
            )
        mask[unknown] = palette.other
    return mask


def classes_to_rgb(mask: ClassMap, palette: Palette) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8: ``mask`` in the first colour of each class; the inverse of :func:`rgb_to_classes`."""
    table = np.zeros((256, 3), dtype=np.uint8)
    for colour, number in reversed(palette.colours.items()):
        table[number] = colour
    drawn: npt.NDArray[np.uint8] = table[mask]
    return drawn


def _code(colour: Rgb) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _label(number: int) -> str:
    return IGNORED_LABEL if number == IGNORED else TISSUE_LABELS[number]


def _class_named(label: Any, where: str) -> int:
    if label == IGNORED_LABEL:
        return IGNORED
    if label not in TISSUE_LABELS:
        allowed = ", ".join((*TISSUE_LABELS, IGNORED_LABEL))
        raise BadAnnotation(f"The palette {where} names the class {label!r}: use one of {allowed}.")
    return TISSUE_LABELS.index(label)


def _entry(entry: Any, label: str, where: str) -> Rgb | int | str:
    if type(entry) is int and 0 <= entry < 2**31:
        return entry
    if isinstance(entry, str) and entry.strip():
        return entry.strip().casefold()
    if (
        not isinstance(entry, list)
        or len(entry) != 3
        or not all(type(value) is int and 0 <= value <= 255 for value in entry)
    ):
        raise BadAnnotation(
            f"The palette {where} gives {label!r} the colour {entry!r}: write three integers from 0 to 255, the number "
            "in a label image, or the name of outlines."
        )
    return entry[0], entry[1], entry[2]
