"""Tables, previews and optional assets as the UI reads them."""

import dagster as dg
import pytest
from PIL import Image

from assets.skin_metrics import skin_metrics, table_key
from dermatome.classes import TISSUE_LABELS
from dermatome.synthetic import cohort
from dermatome.warehouse.tables import TABLES, UNREADABLE, VIEWS
from orchestration.definitions import build_defs
from orchestration.instance import OPTIONAL, note_optional
from pipelines_tests.asset_runs import put, run

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


# What the UI reads before it shows the dialogue (LaunchAssetCheckUpstreamQuery), and the status that it shows.
UPSTREAM = """
query ($asset: String!) { assetNodes(assetKeys: [{path: [$asset]}]) {
  dependencyKeys { path } staleStatus isMaterializable assetMaterializations(limit: 1) { runId }
} }
"""


def test_optional_upstream_assets_have_an_event_and_are_still_missing(instance, ask):
    instance.report_runless_asset_event(dg.AssetMaterialization("tissue_weights", partition="v001"))
    for _ in range(2):
        note_optional(instance)
    for asset in ("tissue_champion", "epidermis_masks", "cell_masks", "nuclei_champion", "slide_images"):
        (node,) = ask(UPSTREAM, asset=asset)["assetNodes"]
        never = {
            path
            for (path,) in (key["path"] for key in node["dependencyKeys"])
            for upstream in ask(UPSTREAM, asset=path)["assetNodes"]
            if upstream["isMaterializable"] and not upstream["assetMaterializations"]
        }
        assert never.isdisjoint(OPTIONAL), asset
        assert never <= {"epidermis_masks", "slide_images"}
    assert ask(UPSTREAM, asset="cell_champion")["assetNodes"][0]["staleStatus"] == "MISSING"
    assert len(instance.fetch_materializations(dg.AssetKey("cell_champion"), limit=9).records) == 1


METADATA = """
{ assetNodes(assetKeys: [{path: ["training_tiles"]}]) { assetMaterializations(limit: 1) { metadataEntries {
  label ... on FloatMetadataEntry { floatValue } ... on IntMetadataEntry { intValue }
  ... on MarkdownMetadataEntry { mdStr }
} } } }
"""


def test_tiles_show_a_preview_their_number_and_the_share_of_each_class(root, instance, ask, monkeypatch):
    (slide, *_) = cohort.ANNOTATED
    monkeypatch.setattr(cohort, "ANNOTATED", (slide,))
    cohort.write_annotations(root.annotations)
    instance.add_dynamic_partitions("annotated_slides", [slide])
    assert run(root, instance, "training_tiles", key=slide).success
    (event,) = ask(METADATA)["assetNodes"][0]["assetMaterializations"]
    entries = {entry["label"]: entry for entry in event["metadataEntries"]}
    assert entries["tiles"]["intValue"] == len(list((root.folder("training_tiles", slide) / "images").iterdir()))
    shares = [entries[f"{label}_share"]["floatValue"] for label in TISSUE_LABELS]
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0.01
    assert entries["preview"]["mdStr"] == f"![preview](/results/training_tiles/{slide}/preview.webp)"
    assert len(entries["preview"]["mdStr"]) < 1000, "else the UI would show it on a click only"
    with Image.open(root.folder("training_tiles", slide) / "preview.webp") as preview:
        assert preview.width == 480
