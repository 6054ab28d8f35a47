"""`nuclei_runs_report`: all versions of nucleus networks side by side, in one HTML file."""

from typing import TYPE_CHECKING

from assets.nuclei.nuclei_weights import nuclei_weights
from assets.registry import comparison_asset

if TYPE_CHECKING:
    from dermatome.registry.report import ReportLayout


@comparison_asset(nuclei_weights)
def nuclei_runs_report() -> "ReportLayout":
    """Compares all versions of `nuclei_weights`: scores, data, settings, curves and samples.

    `comparison.html` needs no other file; `versions.csv` has a row for each version, `summary.csv` for each score.
    """
    from dermatome.nuclei.maps.report import NUCLEUS_REPORT

    return NUCLEUS_REPORT
