"""`skin_metrics`: every number in one DuckDB file."""

import dagster as dg

from assets.nuclei.til_scores import til_scores
from assets.skin.epidermis_layers import epidermis_layers
from assets.skin.hpa_images import hpa_images
from assets.skin.tissue_champion import tissue_champion
from resources import MetricsResource, PathsResource


@dg.asset(
    deps=[
        dg.AssetDep(hpa_images, partition_mapping=dg.AllPartitionMapping()),
        dg.AssetDep(epidermis_layers, partition_mapping=dg.AllPartitionMapping()),
        tissue_champion,
        dg.AssetDep(til_scores, partition_mapping=dg.AllPartitionMapping()),
    ],
    pool="metrics",
    code_version="1",
    group_name="metrics",
    kinds={"duckdb"},
)
def skin_metrics(paths: PathsResource, metrics: MetricsResource) -> dg.MaterializeResult:
    """Tables images, slides, masks, cells, layers, nuclei, training, failures, and views, made from the Parquet files.

    The file is replaced whole: open it at any time, with any number of readers.
    """
    made = metrics.rebuild(paths.data_root)
    return dg.MaterializeResult(
        metadata={
            "file": dg.MetadataValue.path(str(made.path)),
            "partitions_read": dg.MetadataValue.int(made.read),
            "partitions_kept": dg.MetadataValue.int(made.kept),
            "files_missing": dg.MetadataValue.json({"count": len(made.missing), "first": made.missing[:100]}),
            **{f"rows_{name}": dg.MetadataValue.int(count) for name, count in made.rows.items()},
        }
    )


@dg.asset_check(asset=skin_metrics, description="Every mask in the store was made with the present champion.")
def masks_made_with_champion(paths: PathsResource) -> dg.AssetCheckResult:
    """Names the slides whose masks are older than the champion."""
    import duckdb

    with duckdb.connect(str(paths.data_root.store), read_only=True) as store:
        stale = [row[0] for row in store.execute("select slide from slides_not_from_champion").fetchall()]
    return dg.AssetCheckResult(
        passed=not stale,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(stale)} masks were made with other weights than the champion's: materialize epidermis_masks "
        "for them."
        if stale
        else "All masks are the champion's.",
        metadata={"slides": dg.MetadataValue.json(stale[:100]), "count": len(stale)},
    )
