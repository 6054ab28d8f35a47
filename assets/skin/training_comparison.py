"""`training_comparison`: all versions of tissue networks side by side, in one HTML file."""

from typing import TYPE_CHECKING

from assets.registry import comparison_asset
from assets.skin.tissue_weights import tissue_weights

if TYPE_CHECKING:
    from dermatome.registry.report import ReportLayout


@comparison_asset(tissue_weights)
def training_comparison() -> "ReportLayout":
    """Compares all versions of `tissue_weights`: scores, data, settings and samples.

    `comparison.html` needs no other file; `versions.csv` has a row for each version, `summary.csv` for each score.
    """
    from dermatome.skin.tissue.report import TISSUE_REPORT

    return TISSUE_REPORT
