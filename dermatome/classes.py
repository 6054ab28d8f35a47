"""The classes of the masks, by name. Numbers appear on disk only."""

from enum import IntEnum, StrEnum

Rgb = tuple[int, int, int]


class TissueClass(IntEnum):
    """What a pixel of a skin slide is; the numbers are those of the source system's masks."""

    BACKGROUND = 0
    DERMIS = 1
    EPIDERMIS = 2
    KERATIN = 3

    @property
    def label(self) -> str:
        """The lower-case name used in tables, palettes and cards."""
        return self.name.lower()

    @property
    def colour(self) -> Rgb:
        """The colour it is drawn in: Okabe and Ito's palette, which colour-blind readers can tell apart."""
        return _TISSUE_COLOURS[self]


_TISSUE_COLOURS: dict[TissueClass, Rgb] = {
    TissueClass.BACKGROUND: (255, 255, 255),
    TissueClass.DERMIS: (86, 180, 233),
    TissueClass.EPIDERMIS: (204, 121, 167),
    TissueClass.KERATIN: (230, 159, 0),
}

TISSUE_LABELS: tuple[str, ...] = tuple(c.label for c in TissueClass)


class StainingPattern(StrEnum):
    """Where in the epidermis the DAB of an IHC slide lies; how it is told is said in :mod:`dermatome.skin.layers`."""

    BASAL = "basal"
    SUPRABASAL = "suprabasal"
    WHOLE = "whole"
    NEGATIVE = "negative"
