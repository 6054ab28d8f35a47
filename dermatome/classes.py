"""The classes of the masks by name (files contain their numbers), and the array types that all modules share."""

from enum import IntEnum, StrEnum
from typing import Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

Rgb = tuple[int, int, int]
RgbImage = npt.NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""
ClassMap = npt.NDArray[np.uint8]
"""(H, W) uint8, the class of each pixel."""
Instances = npt.NDArray[np.int32]
"""(H, W) int32, 0 background, 1..N."""
BoolMap = npt.NDArray[np.bool_]
"""(H, W) bool."""
Floats = npt.NDArray[np.float32]
WantedVectors = Literal["standard", "slide"]
"""Stain vectors to separate hematoxylin and DAB with: the published ones, or each slide's own."""


class LabelArray(Protocol):
    """(H, W) labels in memory or in tiles; ``labels[top:bottom, left:right]`` reads a part."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width, px."""
        ...

    def __getitem__(self, key: tuple[slice, slice], /) -> Any:
        """Returns a part as a numpy array."""
        ...


class _Class(IntEnum):
    """A class of pixels: its number, and its colour in 8-bit RGB."""

    colour: Rgb

    def __new__(cls, number: int, colour: Rgb = (255, 255, 255)) -> Self:
        made = int.__new__(cls, number)
        made._value_, made.colour = number, colour
        return made

    @property
    def label(self) -> str:
        """The lower-case name used in tables, palettes and cards."""
        return self.name.lower()


class TissueClass(_Class):
    """Class of a pixel on a skin slide; the numbers are those of the source system's masks.

    The colours are from Okabe and Ito's palette, which is readable for the colour-blind.
    """

    BACKGROUND = 0, (255, 255, 255)
    DERMIS = 1, (86, 180, 233)
    EPIDERMIS = 2, (204, 121, 167)
    KERATIN = 3, (230, 159, 0)


TISSUE_LABELS: tuple[str, ...] = tuple(c.label for c in TissueClass)


class NucleusClass(_Class):
    """Class of a pixel on an H&E slide, by its nucleus; numbers and colours are those of the source system."""

    BACKGROUND = 0, (255, 255, 255)  # not drawn over an image
    EPITHELIAL = 1, (255, 0, 0)
    LYMPHOCYTE = 2, (0, 128, 255)
    NEUTROPHIL = 3, (255, 255, 0)
    MACROPHAGE = 4, (0, 255, 0)


NUCLEUS_LABELS: tuple[str, ...] = tuple(c.label for c in NucleusClass)

UNCLASSIFIED = "unclassified"
"""Class name in tables of a nucleus that the semantic map shows as background; it exists, but counts for no class."""
UNCLASSIFIED_COLOUR: Rgb = (128, 128, 128)


class TernaryClass(_Class):
    """Position of a pixel in a nucleus; numbers and colours are those of the source system."""

    BACKGROUND = 0, (255, 255, 255)  # not drawn over an image
    INSIDE = 1, (0, 200, 100)
    BOUNDARY = 2, (255, 100, 0)


TERNARY_LABELS: tuple[str, ...] = tuple(c.label for c in TernaryClass)

IGNORED = 255
"""Value in a mask or map for a pixel of unknown class, which is neither trained nor scored on."""


class StainingPattern(StrEnum):
    """Where in the epidermis an IHC slide is stained with DAB; see :mod:`dermatome.skin.layers.measure`."""

    BASAL = "basal"
    SUPRABASAL = "suprabasal"
    WHOLE = "whole"
    NEGATIVE = "negative"
