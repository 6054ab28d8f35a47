"""Settings of `til_scores`."""

from pydantic import Field

from dermatome.storage.settings_model import SettingsModel


class TilSettings(SettingsModel):
    """How TIL are scored.

    Attributes:
        near_um: largest distance between the centres of a lymphocyte and an epithelial nucleus that it is near to, µm.
        square_um: side of the map's squares, µm.
        min_probability: nuclei whose class is less probable than this are left out of counts and distances.
    """

    near_um: float = Field(default=20.0, gt=0)
    square_um: float = Field(default=50.0, gt=0)
    min_probability: float = Field(default=0.0, ge=0, lt=1)
