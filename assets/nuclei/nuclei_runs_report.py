"""`nuclei_runs_report`: all trainings of nuclei in numbers, in one HTML file and in one PDF."""

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
    """`runs.html` and `runs.pdf`: settings, curves, classes, samples of every version; `runs.csv`, `summary.csv`."""
    from dermatome.nuclei.maps.runs_report import make_runs_report

    root = paths.data_root
    versions = root.partitions("nuclei_weights")

    def make(folder: Path) -> StageResult:
        return make_runs_report(root, versions, folder)

    return make_one(
        context,
        root,
        CHAMPION,
        make=make,
        inputs={version: require_record(root, "nuclei_weights", version).data_version for version in versions},
        settings={},
    )
