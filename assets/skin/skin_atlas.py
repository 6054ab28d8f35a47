"""`skin_atlas`: all gene profiles in one searchable HTML file, and literature markers as a control."""

import dagster as dg

from assets.materialize import deciding, materialize_one
from assets.skin.gene_profiles import all_profiles, gene_profiles
from assets.slide_asset import INPUTS_NOW
from dermatome.storage.layout import CHAMPION
from resources import PathsResource, SettingsResource
from resources.settings import DECIDED_BY

INPUTS_NOW["skin_atlas"] = all_profiles


@dg.asset(
    deps=[dg.AssetDep(gene_profiles, partition_mapping=dg.AllPartitionMapping())],
    check_specs=[
        dg.AssetCheckSpec(
            "markers_as_expected",
            asset="skin_atlas",
            description="Basal, suprabasal and granular markers among the genes stain where the literature says.",
        )
    ],
    code_version="3",
    group_name="skin_metrics",
    kinds={"html"},
    metadata={DECIDED_BY: "atlas"},
)
def skin_atlas(
    context: dg.AssetExecutionContext,
    paths: PathsResource,
    settings: SettingsResource,
) -> dg.MaterializeResult:
    """All genes by relative depth: clustered heatmap, table of patterns with search, and a check on known markers.

    `atlas.html` needs no other file; its links lead to the genes' cards in the data root.
    """
    from dermatome.skin.atlas.stage import make_atlas
    from dermatome.skin.profiles.stage import profiles_version

    root, decided = paths.data_root, settings.value.atlas
    return materialize_one(
        context,
        root,
        CHAMPION,
        make=lambda folder: make_atlas(root, folder, decided),
        inputs=profiles_version(root),
        settings=deciding(context, settings.value, root),
        warn=lambda result: True,
    )
