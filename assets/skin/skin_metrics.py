"""`skin_metrics`: every number in one DuckDB file."""

from typing import Any

import dagster as dg

from assets.nuclei.til_scores import til_scores
from assets.skin.epidermis_layers import epidermis_layers
from assets.skin.hpa_agreement import hpa_agreement
from assets.skin.hpa_images import hpa_images
from assets.skin.tissue_champion import tissue_champion
from resources import PathsResource

_SHOWN = 100


@dg.asset(
    deps=[
        dg.AssetDep(hpa_images, partition_mapping=dg.AllPartitionMapping()),
        dg.AssetDep(epidermis_layers, partition_mapping=dg.AllPartitionMapping()),
        hpa_agreement,
        tissue_champion,
        dg.AssetDep(til_scores, partition_mapping=dg.AllPartitionMapping()),
    ],
    pool="metrics",
    code_version="1",
    group_name="skin_metrics",
    kinds={"duckdb"},
)
def skin_metrics(paths: PathsResource) -> dg.MaterializeResult:
    """One DuckDB file with a table for each kind of result, and views, filled from the records and Parquet files.

    The file is replaced atomically: any number of readers can open it at any time.
    """
    from dermatome.warehouse.store import build_store

    root = paths.data_root
    root.sweep()
    store = build_store(root)
    return dg.MaterializeResult(
        metadata={
            "file": dg.MetadataValue.path(str(store.path)),
            "files_read": store.read,
            "files_kept": store.kept,
            "files_unreadable": len(store.unreadable),
            "columns_undeclared": dg.MetadataValue.json(list(store.undeclared)),
            **{f"rows_{name}": dg.MetadataValue.int(count) for name, count in store.rows.items()},
        }
    )


@dg.asset_check(asset=skin_metrics, description="Every mask in the store was computed with the present champion.")
def masks_made_with_champion(paths: PathsResource) -> dg.AssetCheckResult:
    """Names the slides whose masks were computed with other weights."""
    slides = [slide for (slide,) in _query(paths, "select slide from slides_not_from_champion")]
    return dg.AssetCheckResult(
        passed=not slides,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(slides)} masks were computed with other weights than the champion: materialize "
        "epidermis_masks for them."
        if slides
        else "All masks were computed with the champion.",
        metadata={"slides": dg.MetadataValue.json(slides[:_SHOWN]), "count": len(slides)},
    )


@dg.asset_check(asset=skin_metrics, description="Every result file could be read into the store.")
def all_files_readable(paths: PathsResource) -> dg.AssetCheckResult:
    """Names the files that are missing or damaged; the rows of all others are in the store."""
    errors = dict(_query(paths, f"from unreadable_files limit {_SHOWN}"))
    ((count,),) = _query(paths, "select count(*) from unreadable_files")
    return dg.AssetCheckResult(
        passed=not count,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{count} files are missing or damaged: delete the folders of their partitions and materialize "
        "these again."
        if count
        else "All files could be read.",
        metadata={"files": dg.MetadataValue.json(errors), "count": count},
    )


def _query(paths: PathsResource, query: str) -> list[tuple[Any, ...]]:
    import duckdb

    with duckdb.connect(str(paths.data_root.store), read_only=True) as store:
        return store.execute(query).fetchall()
