"""Settings of `annotation_queue`."""

from typing import Literal

from pydantic import Field

from dermatome.storage.settings_model import SettingsModel


class QueueSettings(SettingsModel):
    """How regions to annotate are chosen.

    Attributes:
        regions: number of regions to propose.
        slides: number of slides that are ranked; if there are more, this many are drawn with ``seed``.
        side_px: side of a region, px of the slide.
        views: number of flips and quarter turns of a slide whose predictions are compared.
        diversity: how much similarity to an annotated or proposed region lowers a region's rank; 0 ignores it.
        seed: seed for drawing slides.
    """

    regions: int = Field(default=20, ge=1, le=1000)
    slides: int = Field(default=100, ge=1, le=10_000)
    side_px: Literal[256, 512, 1024, 2048] = 512
    views: Literal[2, 4, 8] = 4
    diversity: float = Field(default=1.0, ge=0)
    seed: int = Field(default=0, ge=0)
