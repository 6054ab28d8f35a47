"""`gene_profiles`: what each antibody of a gene stains in the epidermis, over patients, and a card to read."""

from collections.abc import Iterator

import dagster as dg

from assets.partitions import GENES, ONLY_BY_HAND
from assets.skin.epidermis_layers import epidermis_layers
from assets.skin.hpa_images import hpa_images
from assets.slide_asset import Event, materialize_slides, slide_asset
from dermatome.pipeline.staleness import InputsNow
from dermatome.settings import Settings
from dermatome.storage.layout import DataRoot
from resources import PathsResource, SettingsResource


def _slides(root: DataRoot, _: Settings) -> InputsNow:
    """The page of a gene and the layers of its slides."""
    from dermatome.skin.profiles.stage import gene_inputs

    return lambda record: gene_inputs(root, record.partition)


def all_profiles(root: DataRoot, _: Settings) -> InputsNow:
    """All profiles together, which `skin_atlas` and `hpa_agreement` are made of."""
    from dermatome.skin.profiles.stage import profiles_version

    return lambda record: profiles_version(root)


@slide_asset(
    partitions_def=GENES,
    # Which slides are a gene's is known only from its page. If every slide were upstream of every gene, Dagster would
    # call all genes stale after any slide, and none from 100 slides on. The check `up_to_date` names the stale genes.
    deps=[hpa_images, dg.AssetDep(epidermis_layers, partition_mapping=ONLY_BY_HAND)],
    inputs_now=_slides,
    partitions_a_run=250,
    group_name="skin_metrics",
    kind="html",
    code_version="4",
    decided_by=["profiles", "layers.pattern_min_dab_od", "layers.pattern_ratio"],
)
def gene_profiles(
    context: dg.AssetExecutionContext,
    paths: PathsResource,
    settings: SettingsResource,
) -> Iterator[Event]:
    """One partition is one gene: its stains by layer, zone and relative depth, for each antibody as means over patients
    with intervals.

    Files: `profile.parquet`, `antibodies.parquet`, `cores.parquet`, `figure.png`, `figure.svg`, and `card.html`, which
    needs no other file and shows every core.

    [Find a gene by its symbol](/genes)
    """
    from assets.skin import hpa_agreement, skin_atlas  # they are downstream of this asset
    from dermatome.skin.profiles.stage import ProfileStage

    stage = ProfileStage(paths.data_root, settings.value.profiles, settings.value.layers)
    yield from materialize_slides(context, settings, stage, summaries=[skin_atlas, hpa_agreement])
