"""Settings of `nucleus_maps`."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from dermatome.storage.settings_model import Effect, SettingsModel


class InstanceSettings(SettingsModel):
    """How a ternary map is converted to nuclei.

    Attributes:
        sure_threshold: probability of inside from which a pixel belongs to a sure marker.
        sure_opening_um: parts narrower than twice this are removed from sure markers, µm: specks, and bridges between
            nuclei.
        inside_threshold: probability of inside from which pixels that no sure marker reaches form further markers.
        opening_um: parts narrower than twice this are removed from further markers, µm.
        nucleus_threshold: probability of inside and boundary together from which a pixel belongs to a nucleus.
        reach_um: distance by which a nucleus may extend beyond its marker, µm; boundaries are three pixels wide.
        min_area_um2: smaller nuclei are dropped, µm².
    """

    sure_threshold: float = Field(default=0.7, gt=0, lt=1)
    sure_opening_um: float = Field(default=0.75, ge=0)
    inside_threshold: float = Field(default=0.5, gt=0, lt=1)
    opening_um: float = Field(default=0.5, ge=0)
    nucleus_threshold: float = Field(default=0.5, gt=0, lt=1)
    reach_um: float = Field(default=2.5, gt=0, le=50)
    min_area_um2: float = Field(default=6.0, ge=0)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.inside_threshold > self.sure_threshold:
            raise ValueError(
                f"the inside_threshold {self.inside_threshold} is above the sure_threshold {self.sure_threshold}: "
                "set it to that or less"
            )
        return self


class NucleusSettings(SettingsModel):
    """How the nuclei of a slide are found.

    Attributes:
        tile_px: side of the tiles at the network's resolution, px.
        overlap_px: overlap of neighbouring tiles, px.
        batch: number of tiles per call of the network.
        views: 1, 2, 4 or 8 flips and rotations averaged; each costs as much as one.
        skip_background: classify tiles without tissue as background without running the network on them.
        only_tissue: classify all background as such, whatever the network predicts there: a network trained on patches
            full of tissue cannot classify bright background (:func:`dermatome.imaging.tissue_area.tissue_mask`).
        normalise_stain: normalise the stain of each slide first; None does so if the training patches of the weights
            were normalised.
        instances: how the ternary map is converted to nuclei.
    """

    tile_px: int = 256
    overlap_px: int = 64
    batch: Annotated[int, Effect.SPEED] = 8
    views: int = 1
    skip_background: bool = True
    only_tissue: bool = True
    normalise_stain: bool | None = None
    instances: InstanceSettings = InstanceSettings()
