"""Settings of `hpa_agreement`."""

from pydantic import Field

from dermatome.storage.settings_model import SettingsModel


class AgreementSettings(SettingsModel):
    """How HPA's annotation is compared with the measurements.

    Attributes:
        folds: number of parts that antibodies are divided into; the levels of each part are read with thresholds that
            were learnt on the others.
        min_antibodies: scores of fewer antibodies than this have no interval.
        resamples: number of resamples of the antibodies that a bootstrap interval is computed from.
        confidence: share of the resamples that an interval covers.
        seed: seed for folds and resamples.
        listed: number of disagreements that the report lists.
    """

    folds: int = Field(default=5, ge=2, le=50)
    min_antibodies: int = Field(default=20, ge=2)
    resamples: int = Field(default=1000, ge=100, le=100_000)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)
    listed: int = Field(default=50, ge=0)
