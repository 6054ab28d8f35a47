"""`cell_champion`: the version that cells are found with."""

import dagster as dg
from pydantic import Field

from assets.champion import record_champion
from assets.skin.cell_hold_out import cell_hold_out_scores
from assets.skin.cell_weights import cell_weights
from resources import CellSegmenterResource, PathsResource, SettingsResource
from resources.settings import DECIDED_BY


class CellChampionChoice(dg.Config):
    """By score, or by hand."""

    by: str = Field(default="ap_50", description="The score that decides: ap_50, ap_75, hold_out_ap_50, …")
    version: str | None = Field(
        default=None, description="A version chosen by hand, such as v001; `settings`: the network that settings name."
    )
    despite_drop: bool = Field(
        default=False, description="Promote it although it finds cells worse on the hold-out set."
    )


@dg.asset(
    deps=[
        dg.AssetDep(cell_weights, partition_mapping=dg.AllPartitionMapping()),
        dg.AssetDep(cell_hold_out_scores, partition_mapping=dg.AllPartitionMapping()),
    ],
    code_version="1",
    metadata={DECIDED_BY: "promotion"},
    group_name="training",
    kinds={"pytorch"},
)
def cell_champion(
    context: dg.AssetExecutionContext,
    config: CellChampionChoice,
    paths: PathsResource,
    settings: SettingsResource,
    cell_segmenter: CellSegmenterResource,
) -> dg.MaterializeResult:
    """The best version by a score, or the one named in the run config; its data version is its sha256.

    Until it is made for the first time, cells are found with the network that the settings name (`cell_weights`).
    Promoting another version makes exactly the cell masks stale that other weights made.
    """
    from dermatome.registry.champion import choose_champion
    from dermatome.registry.model_kinds import CELLS

    root = paths.data_root
    choice = choose_champion(
        root,
        config.by,
        config.version,
        kind=CELLS,
        promotion=settings.value.promotion,
        despite_drop=config.despite_drop,
        unversioned=cell_segmenter.of_settings(root).sha256 if config.version == "settings" else None,
    )
    return record_champion(context, root, CELLS, choice, config.model_dump())
