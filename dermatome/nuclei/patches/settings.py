"""Settings of `nuclei_patches`."""

from typing import Self

from pydantic import Field, model_validator

from dermatome.labels.drawn_maps import BOUNDARY_PX
from dermatome.storage.settings_model import SettingsModel


class PatchSettings(SettingsModel):
    """How patches are cut; the defaults are the source system's.

    Attributes:
        size_px: side of a patch, px.
        stride_px: step from one patch to the next, px; the last patches of an image are moved in to end at its edge.
        least_foreground: smallest share of pixels in nuclei, 0 to 1; other patches are left out.
        boundary_px: width of the boundary in the ternary map, px.
        declared_mpp: microns per pixel of images whose files do not state them.
        normalise_stain: normalise the stain of each image first; networks trained on such patches do the same to
            slides.
    """

    size_px: int = Field(default=256, ge=32, le=8192)
    stride_px: int = Field(default=128, ge=1)
    least_foreground: float = Field(default=0.01, ge=0, le=1)
    boundary_px: int = Field(default=BOUNDARY_PX, ge=1, le=64)
    declared_mpp: float = Field(default=0.25, gt=0)
    normalise_stain: bool = False

    @model_validator(mode="after")
    def _no_gaps(self) -> Self:
        if self.stride_px > self.size_px:
            raise ValueError(
                f"the stride_px {self.stride_px} is above the size_px {self.size_px}: set it to that or less"
            )
        return self
