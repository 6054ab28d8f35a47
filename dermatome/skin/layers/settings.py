"""Settings of `epidermis_layers`."""

from typing import Self

from pydantic import Field, model_validator

from dermatome.classes import WantedVectors
from dermatome.storage.settings_model import SettingsModel


class LayerSettings(SettingsModel):
    """How layers are divided and DAB is graded.

    Attributes:
        layer_um: thickness of a layer, µm; None uses the mean equivalent diameter of the slide's cells.
        max_gap_um: a piece of epidermis farther than this from any dermis is in no layer, µm.
        weak_od: optical density (log10) of DAB from which a pixel counts as weakly stained. This and the next two are
            QuPath's defaults for DAB (positive cell detection: 0.2, 0.4, 0.6).
        moderate_od: optical density from which a pixel counts as moderately stained.
        strong_od: optical density from which a pixel counts as strongly stained.
        min_h_od: mean hematoxylin below which DAB/H is null, as a ratio to almost nothing is meaningless.
        pattern_min_dab_od: a compartment whose mean DAB is below this is not stained.
        pattern_ratio: how many times stronger one compartment must be than the other.
        profile_step_um: step of the fine profile, µm.
        stain_vectors: stain vectors for DAB and hematoxylin of layers: ``standard``, the published ones (Ruifrok and
            Johnston 2001), or ``slide``, estimated on each slide's tissue. Set it to ``slide`` if stains or scanners
            differ, here and in the section `[cells]`.
    """

    layer_um: float | None = Field(default=None, gt=0)
    max_gap_um: float = Field(default=100.0, gt=0)
    weak_od: float = Field(default=0.2, gt=0)
    moderate_od: float = 0.4
    strong_od: float = 0.6
    min_h_od: float = Field(default=0.03, gt=0)
    pattern_min_dab_od: float = Field(default=0.1, gt=0)
    pattern_ratio: float = Field(default=1.7, gt=1)
    profile_step_um: float = Field(default=2.0, gt=0)
    stain_vectors: WantedVectors = "standard"

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if not self.weak_od < self.moderate_od < self.strong_od:
            raise ValueError(
                f"the DAB thresholds weak_od, moderate_od and strong_od are {self.weak_od}, {self.moderate_od} and "
                f"{self.strong_od}: give them in ascending order"
            )
        return self
