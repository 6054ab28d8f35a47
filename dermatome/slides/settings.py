"""Settings of `slide_images` and `nuclei_slides`."""

from pydantic import Field

from dermatome.slides.plain import MAX_SIDE_PX
from dermatome.slides.slide import DECLARED_MPP
from dermatome.storage.settings_model import SettingsModel


class SlideSettings(SettingsModel):
    """How image files become slides.

    Attributes:
        declared_mpp: microns per pixel of files that state no scale, such as HPA's. A 1 mm core spans about 2,000 of an
            HPA image's 3,000 px.
        max_side_px: larger images are refused, px; TIFFs and vendors' files that are read in parts may be larger.
    """

    declared_mpp: float = Field(default=DECLARED_MPP, gt=0)
    max_side_px: int = Field(default=MAX_SIDE_PX, gt=0)


class SkinImageSettings(SlideSettings):
    """How skin images are chosen and read.

    Attributes:
        tissue: tissue or organ whose images are taken from HPA's pages, named as there.
    """

    tissue: str = "Skin"


class NucleiImageSettings(SlideSettings):
    """How H&E slides are read."""

    declared_mpp: float = Field(default=0.25, gt=0)
