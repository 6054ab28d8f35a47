"""Each table and view of the metrics store is an asset with rows, columns and upstream assets, as the UI shows them."""

import dagster as dg
import pytest

from assets.skin_metrics import skin_metrics, table_key
from dermatome.warehouse.tables import TABLES, UNREADABLE, VIEWS
from orchestration.definitions import build_defs
from pipelines_tests.asset_runs import put

TABLE = """
query ($name: String!) { assetNodes(assetKeys: [{path: ["metrics", $name]}]) {
  description kinds dependencyKeys { path }
  assetMaterializations(limit: 1) { metadataEntries { label
    ... on IntMetadataEntry { intValue }
    ... on TableSchemaMetadataEntry { schema { columns { name type description } } } } }
  assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } }
} }
"""


@pytest.fixture
def refreshed(root, instance):
    put(root, "tissue_champion", "current", version="v001", weights_sha256="ab", invented=1.5)

    def refresh(*selection):
        job = build_defs(root.path).resolve_implicit_global_asset_job_def()
        done = job.execute_in_process(instance=instance, asset_selection=list(selection))
        assert done.success

    return refresh


def shown(ask, name):
    (node,) = ask(TABLE, name=name)["assetNodes"]
    (event,) = node["assetMaterializations"]
    entries = {entry["label"]: entry for entry in event["metadataEntries"]}
    columns = entries["dagster/column_schema"]["schema"]["columns"]
    return node, entries["dagster/row_count"]["intValue"], {column["name"]: column for column in columns}


def test_a_table_shows_its_rows_columns_upstream_and_check(refreshed, ask):
    refreshed(*skin_metrics.keys)
    node, rows, columns = shown(ask, "champion")
    assert node["description"] == "The row of the tissue network in use (asset tissue_champion)."
    assert (rows, node["dependencyKeys"]) == (1, [{"path": ["tissue_champion"]}])
    assert columns["despite_drop"]["type"] == "BOOLEAN"
    assert columns["despite_drop"]["description"].startswith("Whether a person chose it")
    assert columns["invented"]["description"] is None
    assert [check["executionForLatestMaterialization"]["status"] for check in node["assetChecksOrError"]["checks"]] == [
        "FAILED"
    ], "a column that nobody declared"
    node, rows, columns = shown(ask, "slides_not_from_champion")
    assert {path for key in node["dependencyKeys"] for path in key["path"][1:]} == {"champion", "masks"}
    assert rows == 0
    assert columns["champion"]["description"] == "Version of the champion."
    assert set(node["kinds"]) == {"duckdb", "view"}
    (check,) = shown(ask, "cells")[0]["assetChecksOrError"]["checks"]
    assert check["executionForLatestMaterialization"]["status"] == "SUCCEEDED"


@pytest.mark.parametrize("selected", [dg.AssetKey("skin_metrics"), table_key("cells")])
def test_one_of_them_fills_and_reports_all_tables(refreshed, root, instance, selected):
    refreshed(selected)
    assert root.store.is_file()
    for name in (*TABLES, UNREADABLE, *VIEWS):
        assert instance.get_latest_materialization_event(table_key(name)), name
