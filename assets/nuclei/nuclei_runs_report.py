"""`nuclei_runs_report`: all versions of nucleus networks side by side, in one HTML file."""

from pathlib import Path

import dagster as dg

from assets.nuclei.nuclei_weights import nuclei_weights
from assets.one import make_one
from dermatome.storage.layout import CHAMPION
from dermatome.storage.record import StageResult, require_record
from resources import PathsResource


@dg.asset(
    deps=[dg.AssetDep(nuclei_weights, partition_mapping=dg.AllPartitionMapping())],
    code_version="1",
    group_name="nuclei_training",
    kinds={"html"},
)
def nuclei_runs_report(context: dg.AssetExecutionContext, paths: PathsResource) -> dg.MaterializeResult:
    """Compares all versions of `nuclei_weights`: scores, data, settings, curves and samples.

    `comparison.html` needs no other file; `versions.csv` has a row for each version, `summary.csv` for each score.
    """
    from dermatome.nuclei.maps.report import NUCLEUS_REPORT
    from dermatome.reports.training import compare_versions

    root = paths.data_root
    versions = root.partitions("nuclei_weights")

    def make(folder: Path) -> StageResult:
        return compare_versions(root, NUCLEUS_REPORT, versions, folder)

    return make_one(
        context,
        root,
        CHAMPION,
        make=make,
        inputs={version: require_record(root, "nuclei_weights", version).data_version for version in versions},
        settings={},
    )
