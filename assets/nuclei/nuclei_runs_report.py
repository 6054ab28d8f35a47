"""`nuclei_runs_report`: all versions of nucleus networks side by side, in one HTML file."""

import dagster as dg

from assets.comparison import WITH_NEW_VERSIONS, compare
from assets.nuclei.nuclei_weights import nuclei_weights
from resources import PathsResource


@dg.asset(
    deps=[dg.AssetDep(nuclei_weights, partition_mapping=dg.AllPartitionMapping())],
    code_version="1",
    group_name="nuclei_training",
    kinds={"html"},
    automation_condition=WITH_NEW_VERSIONS,
)
def nuclei_runs_report(context: dg.AssetExecutionContext, paths: PathsResource) -> dg.MaterializeResult:
    """Compares all versions of `nuclei_weights`: scores, data, settings, curves and samples.

    `comparison.html` needs no other file; `versions.csv` has a row for each version, `summary.csv` for each score.
    """
    from dermatome.nuclei.maps.report import NUCLEUS_REPORT

    return compare(context, paths.data_root, NUCLEUS_REPORT)
