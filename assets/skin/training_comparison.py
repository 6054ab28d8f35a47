"""`training_comparison`: all versions of tissue networks side by side, in one HTML file."""

import dagster as dg

from assets.comparison import WITH_NEW_VERSIONS, compare
from assets.skin.tissue_weights import tissue_weights
from resources import PathsResource


@dg.asset(
    deps=[dg.AssetDep(tissue_weights, partition_mapping=dg.AllPartitionMapping())],
    code_version="1",
    group_name="skin_training",
    kinds={"html"},
    automation_condition=WITH_NEW_VERSIONS,
)
def training_comparison(context: dg.AssetExecutionContext, paths: PathsResource) -> dg.MaterializeResult:
    """Compares all versions of `tissue_weights`: scores, data, settings and samples.

    `comparison.html` needs no other file; `versions.csv` has a row for each version, `summary.csv` for each score.
    """
    from dermatome.skin.tissue.report import TISSUE_REPORT

    return compare(context, paths.data_root, TISSUE_REPORT)
