"""`skin_metrics`: all numbers of both pipelines in one DuckDB file, and an asset for each table and view in it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from assets.slide_asset import sqlite_held
from dermatome.storage.layout import FAILURES
from dermatome.warehouse.dictionary import table_meaning
from dermatome.warehouse.tables import TABLES, UNREADABLE, VIEWS, read_by_view
from resources import PathsResource

if TYPE_CHECKING:
    from dermatome.warehouse.store import StoreSummary

_SHOWN = 100
_DECLARED = "columns_declared"


def table_key(name: str) -> dg.AssetKey:
    """The asset of a table or view of the store; a table may have the name of the asset that fills it."""
    return dg.AssetKey(["metrics", name])


def _spec(name: str, kind: str, upstream: list[dg.AssetKey]) -> dg.AssetSpec:
    return dg.AssetSpec(
        table_key(name),
        deps=upstream,
        description=table_meaning(name),
        group_name="nuclei_metrics" if name.startswith(("nuclei", "nucleus", "til")) else "skin_metrics",
        kinds={"duckdb", kind},
        code_version="1",
        metadata={"dagster/table_name": name},
    )


_FILLED_BY = {name: dg.AssetKey(table.asset) for name, table in TABLES.items() if table.asset != FAILURES}
_SPECS = [
    *(_spec(name, "table", [_FILLED_BY[name]] if name in _FILLED_BY else []) for name in (*TABLES, UNREADABLE)),
    *(_spec(name, "view", [table_key(read) for read in read_by_view(name)]) for name in VIEWS),
    dg.AssetSpec(
        "skin_metrics",
        deps=sorted(set(_FILLED_BY.values())),
        description="One DuckDB file with a table for each kind of result, and views, filled from the records and "
        "Parquet files. The file is replaced atomically: any number of readers can open it at any time. Materializing "
        "one of its tables fills all of them.",
        group_name="skin_metrics",
        kinds={"duckdb"},
        code_version="1",
    ),
]


@dg.multi_asset(
    name="skin_metrics",
    specs=_SPECS,
    check_specs=[
        dg.AssetCheckSpec(
            _DECLARED,
            asset=table_key(name),
            description="Every column of the files is declared with its type and meaning.",
        )
        for name in TABLES
    ],
    can_subset=True,
    pool="metrics",
)
def skin_metrics(
    context: dg.AssetExecutionContext, paths: PathsResource
) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
    """Fills the file and reports all tables and views, also those that were not selected, as they are filled too."""
    from dermatome.warehouse.store import build_store

    root = paths.data_root
    root.sweep()
    store = build_store(root)
    with sqlite_held(context.instance, context.run_id):
        yield from _events(context, store)


def _events(
    context: dg.AssetExecutionContext, store: "StoreSummary"
) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
    from dermatome.warehouse.store import describe_store

    for name, found in describe_store(store.path).items():
        key, check = table_key(name), dg.AssetCheckKey(table_key(name), _DECLARED)
        columns = [dg.TableColumn(column, kind, description=meaning) for column, kind, meaning in found.columns]
        metadata = {
            "dagster/row_count": dg.MetadataValue.int(found.rows),
            "dagster/column_schema": dg.TableSchema(columns),
        }
        if key not in context.selected_asset_keys:
            yield dg.AssetMaterialization(key, metadata=metadata)
            continue
        undeclared = [column for column in store.undeclared if column.startswith(f"{name}.")]
        checked = dg.AssetCheckResult(
            asset_key=key,
            check_name=_DECLARED,
            passed=not undeclared,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"Not declared in dermatome/warehouse/tables.toml and dictionary.toml: {', '.join(undeclared)}."
            if undeclared
            else "Every column is declared.",
        )
        checks = [checked] if check in context.selected_asset_check_keys else []
        yield dg.MaterializeResult(key, metadata=metadata, check_results=checks)
    if dg.AssetKey("skin_metrics") in context.selected_asset_keys:
        yield dg.MaterializeResult(
            "skin_metrics",
            metadata={
                "file": dg.MetadataValue.path(str(store.path)),
                "files_read": store.read,
                "files_kept": store.kept,
                "files_unreadable": len(store.unreadable),
            },
        )


def _store_check(
    name: str, description: str, table: str, severity: dg.AssetCheckSeverity, passed: str, failed: str
) -> dg.AssetChecksDefinition:
    """Declares a check that a table of the store is empty; its first two columns are shown."""

    @dg.asset_check(name=name, asset="skin_metrics", description=description)
    def check(paths: PathsResource) -> dg.AssetCheckResult:
        import duckdb

        with duckdb.connect(str(paths.data_root.store), read_only=True) as store:
            ((count,),) = store.execute(f"select count(*) from {table}").fetchall()
            rows = store.execute(f"from {table} limit {_SHOWN}").fetchall()
        return dg.AssetCheckResult(
            passed=not count,
            severity=severity,
            description=f"{count} {failed}" if count else passed,
            metadata={"which": dg.MetadataValue.json({row[0]: row[1] for row in rows}), "count": count},
        )

    return check


CHECKS = [
    _store_check(
        "masks_made_with_champion",
        "Every mask in the store was computed with the present champion.",
        "slides_not_from_champion",
        dg.AssetCheckSeverity.WARN,
        "All masks were computed with the champion.",
        "masks were computed with other weights than the champion: materialize epidermis_masks for them.",
    ),
    _store_check(
        "all_files_readable",
        "Every result file could be read into the store.",
        "unreadable_files",
        dg.AssetCheckSeverity.ERROR,
        "All files could be read.",
        "files are missing or damaged: delete the folders of their partitions and materialize these again.",
    ),
]
