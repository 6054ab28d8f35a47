"""`training_comparison`: all training versions side by side, in one HTML file."""

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
    """`comparison.html`: scores, data, settings, best and worst tiles of every version; it needs no other file."""
    from dermatome.registry.versions import compare_versions

    root = paths.data_root
    versions = root.partitions("tissue_weights")

    def make(folder: Path) -> StageResult:
        return compare_versions(root, versions, folder)

    return make_one(
        context,
        root,
        CHAMPION,
        make=make,
        inputs={version: require_record(root, "tissue_weights", version).data_version for version in versions},
        settings={},
    )
