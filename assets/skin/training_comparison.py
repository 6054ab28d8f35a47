"""`training_comparison`: all versions of tissue networks side by side, in one HTML file."""

from pathlib import Path

import dagster as dg

from assets.one import make_one
from assets.skin.tissue_weights import tissue_weights
from dermatome.storage.layout import CHAMPION
from dermatome.storage.record import StageResult, require_record
from resources import PathsResource


@dg.asset(
    deps=[dg.AssetDep(tissue_weights, partition_mapping=dg.AllPartitionMapping())],
    code_version="1",
    group_name="training",
    kinds={"html"},
)
def training_comparison(context: dg.AssetExecutionContext, paths: PathsResource) -> dg.MaterializeResult:
    """Compares all versions of `tissue_weights`: scores, data, settings and samples.

    `comparison.html` needs no other file; `versions.csv` has a row for each version, `summary.csv` for each score.
    """
    from dermatome.reports.training import compare_versions
    from dermatome.skin.tissue.report import TISSUE_REPORT

    root = paths.data_root
    versions = root.partitions("tissue_weights")

    def make(folder: Path) -> StageResult:
        return compare_versions(root, TISSUE_REPORT, versions, folder)

    return make_one(
        context,
        root,
        CHAMPION,
        make=make,
        inputs={version: require_record(root, "tissue_weights", version).data_version for version in versions},
        settings={},
    )
