"""Settings of `epidermis_masks`."""

from typing import Annotated

from pydantic import Field

from dermatome.classes import TissueClass
from dermatome.storage.settings_model import Effect, SettingsModel


class CleanupSettings(SettingsModel):
    """Areas below which a connected piece takes the class of most of its border.

    Attributes:
        min_epidermis_um2: for epidermis that touches no keratin, µm². A mixed piece of epidermis and keratin is kept
            unless it is smaller than a quarter of this.
        min_keratin_um2: for keratin that touches no epidermis, µm²; small, as flakes come off.
        min_dermis_um2: for dermis, µm²; below the cross-section of a dermal papilla.
        min_background_um2: for background, µm²: vacuoles and small gaps in tissue.
        max_keratin_gap_um2: background up to this area, µm², becomes keratin if most of its border is keratin, as
            annotators draw the horny layer with the gaps between its lamellae.
        border_share: pieces cut by the image's edge are removed only below this share of those areas.
    """

    min_epidermis_um2: float = Field(default=1000.0, ge=0)
    min_keratin_um2: float = Field(default=30.0, ge=0)
    min_dermis_um2: float = Field(default=150.0, ge=0)
    min_background_um2: float = Field(default=100.0, ge=0)
    max_keratin_gap_um2: float = Field(default=2000.0, ge=0)
    border_share: float = Field(default=0.25, ge=0)

    @property
    def min_areas_um2(self) -> dict[TissueClass, float]:
        """The area for each class, in the order of cleaning: holes before islands."""
        return {
            TissueClass.BACKGROUND: self.min_background_um2,
            TissueClass.DERMIS: self.min_dermis_um2,
            TissueClass.KERATIN: self.min_keratin_um2,
            TissueClass.EPIDERMIS: self.min_epidermis_um2,
        }


class TissueSettings(SettingsModel):
    """How tissue is segmented.

    Attributes:
        coarse_mpp: microns per pixel of the coarse pass; None uses the weights card's.
        tile_px: side of the tiles at the network's resolution, px; None uses the card's.
        overlap_px: overlap of neighbouring tiles at the network's resolution, px; None uses a quarter of the tile.
        batch: number of tiles per call of the network.
        views: 1, 2, 4 or 8 flips and rotations averaged in the fine pass; each costs as much as one, and they improve
            IoU by a few thousandths.
        significant_share: regions of epidermis and keratin are refined if they have this share of the largest's area.
        margin_um: margin added on each side of a region, µm.
        refine_whole_px: a slide whose sides at the network's resolution are at most this is refined as one region, px.
        cleanup: areas of specks and holes.
        any_scale: segment slides whose scale is far from that of the network's training, instead of refusing them.
    """

    coarse_mpp: float | None = Field(default=None, gt=0)
    tile_px: int | None = None
    overlap_px: int | None = None
    batch: Annotated[int, Effect.SPEED] = 8
    views: int = 1
    significant_share: float = Field(default=0.10, ge=0, le=1)
    margin_um: float = Field(default=64.0, ge=0)
    refine_whole_px: int = 320
    cleanup: CleanupSettings = CleanupSettings()
    any_scale: bool = False
