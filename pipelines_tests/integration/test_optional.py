"""The UI asks "Are you sure?" in red where an upstream asset never had an event: not for what is optional."""

import dagster as dg

from orchestration.instance import OPTIONAL, note_optional

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
