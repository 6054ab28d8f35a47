"""Settings of `gene_profiles`."""

from pydantic import Field

from dermatome.storage.settings_model import SettingsModel


class ProfileSettings(SettingsModel):
    """How intervals over patients are computed.

    Attributes:
        resamples: number of resamples of the patients that a bootstrap interval is computed from.
        confidence: share of the resamples that an interval covers.
        seed: seed for the resamples.
    """

    resamples: int = Field(default=2000, ge=100, le=100_000)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)
