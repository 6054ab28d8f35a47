"""Owners, tags, freshness, pools, schedules and automation, as the UI reads them."""

import dagster as dg
import pytest

from orchestration.definitions import build_defs
from orchestration.instance import POOLS, show_pools

SHOWN = """
query ($assets: [AssetKeyInput!]!) {
  assetNodes(assetKeys: $assets) {
    assetKey { path } description pools tags { key value }
    metadataEntries { label ... on PathMetadataEntry { path } }
    owners { ... on TeamAssetOwner { team } ... on UserAssetOwner { email } }
    internalFreshnessPolicy { ... on TimeWindowFreshnessPolicy { failWindowSeconds } }
  }
  schedulesOrError(repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "d"}) {
    ... on Schedules { results { name executionTimezone } }
  }
}
"""
DAY_S = 24 * 3600


@pytest.fixture
def owned(root):
    root.settings.write_text('[platform]\ntime_zone = "Europe/Berlin"\nowners = ["team:skin", "ada@example.org"]\n')


def test_assets_show_owners_tags_pools_and_freshness_and_schedules_their_time_zone(root, owned, ask):
    paths = (["hpa_images"], ["nuclei_champion"], ["cyto2"], ["inbox"], ["metrics", "til_scores"])
    shown = ask(SHOWN, assets=[{"path": path} for path in paths])
    nodes = {"/".join(node["assetKey"]["path"]): node for node in shown["assetNodes"]}
    for node in nodes.values():
        assert node["owners"] == [{"team": "skin"}, {"email": "ada@example.org"}]
        assert node["description"]
    tags = {name: {tag["key"]: tag["value"] for tag in node["tags"]} for name, node in nodes.items()}
    assert {name: (found["pipeline"], found["part"]) for name, found in tags.items()} == {
        "hpa_images": ("skin", "images"), "nuclei_champion": ("nuclei", "training"), "cyto2": ("skin", "training"),
        "inbox": ("skin", "images"), "metrics/til_scores": ("nuclei", "metrics"),
    }  # fmt: skip
    assert {"label": "folder", "path": str(root.inbox)} in nodes["inbox"]["metadataEntries"]
    fresh = {name: node["internalFreshnessPolicy"] for name, node in nodes.items()}
    assert fresh["hpa_images"] == {"failWindowSeconds": 60 * DAY_S}
    assert fresh["nuclei_champion"] == {"failWindowSeconds": 365 * DAY_S}
    assert {name: node["pools"] for name, node in nodes.items() if node["pools"]} == {
        "hpa_images": ["hpa"], "metrics/til_scores": ["metrics"]
    }  # fmt: skip
    schedules = {found["name"]: found["executionTimezone"] for found in shown["schedulesOrError"]["results"]}
    assert schedules == dict.fromkeys(("refresh_hpa", "backfill_new_slides", "backfill_new_nuclei"), "Europe/Berlin")


def test_pools_are_shown_and_keep_the_limit_that_a_person_set(root):
    nodes = build_defs(root.path).resolve_asset_graph().asset_nodes
    assert {pool for node in nodes for pool in node.pools or ()} == set(POOLS)
    with dg.instance_for_test(overrides={"concurrency": {"pools": {"default_limit": 1}}}) as instance:
        instance.event_log_storage.set_concurrency_slots("gpu", 4)
        show_pools(instance)
        limits = {pool.name: (pool.limit, pool.from_default) for pool in instance.event_log_storage.get_pool_limits()}
    assert limits == {"gpu": (4, False), "hpa": (1, True), "metrics": (1, True)}


def test_every_asset_says_what_it_is(root):
    specs = build_defs(root.path).resolve_all_asset_specs()
    assert [spec.key for spec in specs if not spec.description] == []
    partitioned = [spec for spec in specs if spec.partitions_def]
    assert [spec.key for spec in partitioned if not spec.description.startswith("One partition is one ")] == []
    tables = [spec for spec in specs if spec.key.path[0] == "metrics"]
    assert [spec.key for spec in tables if not spec.description.startswith(("One row is ", "The row of "))] == []


def test_a_comparison_is_requested_once_after_each_training(root, instance):
    defs, cursor, counts = build_defs(root.path), None, []
    instance.add_dynamic_partitions("training_versions", ["v001", "v002"])
    for trained in (None, "v001", None, "v001", None):
        if trained:
            instance.report_runless_asset_event(dg.AssetMaterialization("tissue_weights", partition=trained))
        found = dg.evaluate_automation_conditions(defs, instance, cursor=cursor)
        cursor, _ = found.cursor, counts.append(found.get_num_requested(dg.AssetKey("training_comparison")))
        assert found.total_requested == counts[-1], "nothing else is requested by a condition"
    assert counts == [0, 1, 0, 1, 0]
