"""`tissue_champion`: the version that masks are made with."""

import dagster as dg
from pydantic import Field

from assets.champion import record_champion
from assets.skin.tissue_hold_out import tissue_hold_out_scores
from assets.skin.tissue_weights import tissue_weights
from resources import PathsResource, SettingsResource
from resources.settings import DECIDED_BY


class ChampionChoice(dg.Config):
    """By score, or by hand."""

    by: str = Field(default="mean_iou", description="The score that decides: mean_iou, hold_out_mean_iou, …")
    version: str | None = Field(default=None, description="A training version chosen by hand, such as v001.")
    despite_drop: bool = Field(default=False, description="Promote it although a class is worse on the hold-out set.")


@dg.asset(
    deps=[
        dg.AssetDep(tissue_weights, partition_mapping=dg.AllPartitionMapping()),
        dg.AssetDep(tissue_hold_out_scores, partition_mapping=dg.AllPartitionMapping()),
    ],
    code_version="1",
    metadata={DECIDED_BY: "promotion"},
    group_name="training",
    kinds={"pytorch"},
)
def tissue_champion(
    context: dg.AssetExecutionContext, config: ChampionChoice, paths: PathsResource, settings: SettingsResource
) -> dg.MaterializeResult:
    """The best version by a score, or the one named in the run config; its data version is its sha256.

    A version that is worse than the champion on the hold-out set in some class by more than the margin is refused.
    Promoting another version makes exactly the masks stale that other weights made.
    """
    from dermatome.registry.champion import choose_champion
    from dermatome.registry.model_kinds import TISSUE

    root = paths.data_root
    choice = choose_champion(
        root, config.by, config.version, promotion=settings.value.promotion, despite_drop=config.despite_drop
    )
    return record_champion(context, root, TISSUE, choice, config.model_dump())
