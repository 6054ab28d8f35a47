"""Settings of `skin_atlas`."""

from pydantic import Field

from dermatome.storage.settings_model import SettingsModel


class AtlasSettings(SettingsModel):
    """How genes are ordered.

    Attributes:
        max_clustered: with more genes than this, rows are sorted by the depth of their staining, as the memory for
            clustering grows with the square of their number (0.4 GB for 10,000).
    """

    max_clustered: int = Field(default=10_000, ge=2)
