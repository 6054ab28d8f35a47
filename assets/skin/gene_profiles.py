"""`gene_profiles`: what each antibody of a gene stains in the epidermis, over patients, with a card as a web page."""

import dagster as dg

from assets.partitions import GENES, by_hand
from assets.skin.epidermis_layers import epidermis_layers
from assets.skin.hpa_images import hpa_images
from assets.slide_asset import AnyStage, Run, slide_asset


def _summaries() -> list[dg.AssetsDefinition]:
    """The assets made of all profiles, which are declared after this one."""
    from assets.skin.hpa_agreement import hpa_agreement
    from assets.skin.skin_atlas import skin_atlas

    return [skin_atlas, hpa_agreement]


@slide_asset(
    GENES, "skin_metrics", kind="html", code_version="4", partitions_a_run=250,
    # Which slides are a gene's is known only from its page. If every slide were upstream of every gene, Dagster would
    # call all genes stale after any slide, and none from 100 slides on. The check `up_to_date` names the stale genes.
    deps=[hpa_images, by_hand(epidermis_layers)], summaries=_summaries,
    decided_by=["profiles", "layers.pattern_min_dab_od", "layers.pattern_ratio"],
)  # fmt: skip
def gene_profiles(run: Run) -> AnyStage:
    """One partition is one gene: its stains by layer, zone and relative depth, for each antibody as means over patients
    with intervals.

    Files: `profile.parquet`, `antibodies.parquet`, `cores.parquet`, `figure.png`, `figure.svg`, and `card.html`, which
    needs no other file and shows every core.

    [Find a gene by its symbol](/genes)
    """
    from dermatome.skin.profiles.stage import ProfileStage

    return ProfileStage(run.root, run.settings.profiles, run.settings.layers)
