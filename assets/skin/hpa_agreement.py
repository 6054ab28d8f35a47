"""`hpa_agreement`: HPA's annotation compared with what the cores measure."""

import dagster as dg

from assets.materialize import deciding, materialize_one
from assets.skin.gene_profiles import all_profiles, gene_profiles
from assets.slide_asset import INPUTS_NOW
from dermatome.storage.layout import CHAMPION
from resources import PathsResource, SettingsResource
from resources.settings import DECIDED_BY

INPUTS_NOW["hpa_agreement"] = all_profiles


@dg.asset(
    deps=[dg.AssetDep(gene_profiles, partition_mapping=dg.AllPartitionMapping())],
    code_version="2",
    group_name="skin_metrics",
    kinds={"html"},
    metadata={DECIDED_BY: "agreement"},
)
def hpa_agreement(
    context: dg.AssetExecutionContext,
    paths: PathsResource,
    settings: SettingsResource,
) -> dg.MaterializeResult:
    """HPA's intensity, quantity and location for each antibody and tissue, against the levels that the cores give.

    Files: `agreement.parquet`, `scores.parquet`, `confusion.parquet`, `thresholds.parquet`, `figure.png`, `figure.svg`,
    and the report `agreement.html`, which lists where image and annotation disagree most.
    """
    from dermatome.skin.agreement.stage import make_agreement
    from dermatome.skin.profiles.stage import profiles_version

    root, decided = paths.data_root, settings.value.agreement
    return materialize_one(
        context,
        root,
        CHAMPION,
        make=lambda folder: make_agreement(root, folder, decided),
        inputs=profiles_version(root),
        settings=deciding(context, settings.value, root),
    )
