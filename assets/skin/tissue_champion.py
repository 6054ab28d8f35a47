"""`tissue_champion`: the version that masks are made with."""

import dagster as dg
from pydantic import Field

from assets.metadata import record_metadata
from assets.skin.tissue_panel import tissue_panel_scores
from assets.skin.tissue_weights import tissue_weights
from dermatome.data_root import CHAMPION, RECORD_FILE
from dermatome.stage_record import StageRecord, StageResult, fingerprint, write_record
from resources import PathsResource, SettingsResource


class ChampionChoice(dg.Config):
    """By score, or by hand."""

    by: str = Field(default="mean_iou", description="The score that decides: mean_iou, panel_mean_iou, …")
    version: str | None = Field(default=None, description="A training version chosen by hand, such as v001.")
    despite_drop: bool = Field(default=False, description="Promote it although a class is worse on the panel.")


@dg.asset(
    deps=[
        dg.AssetDep(tissue_weights, partition_mapping=dg.AllPartitionMapping()),
        dg.AssetDep(tissue_panel_scores, partition_mapping=dg.AllPartitionMapping()),
    ],
    code_version="1",
    group_name="training",
    kinds={"pytorch"},
)
def tissue_champion(
    context: dg.AssetExecutionContext, config: ChampionChoice, paths: PathsResource, settings: SettingsResource
) -> dg.MaterializeResult:
    """The best version by a score, or the one named in the run config; its data version is its sha256.

    Where there is a panel, a version that is worse than the champion in some class by more than the margin is refused.
    Promoting another version makes exactly the masks stale that other weights made.
    """
    from dermatome.skin.champion import choose_champion

    root = paths.data_root
    choice = choose_champion(
        root, config.by, config.version, promotion=settings.value.promotion, despite_drop=config.despite_drop
    )
    folder = root.folder("tissue_champion", CHAMPION)
    inputs = {"tissue_weights": choice.weights_sha256}
    result = StageResult(outcome="chosen", data_version=choice.weights_sha256[:32], values=vars(choice))
    record = StageRecord(
        asset="tissue_champion",
        partition=CHAMPION,
        fingerprint=fingerprint("1", inputs, config.model_dump()),
        code_version="1",
        inputs=inputs,
        settings=config.model_dump(),
        run_id=context.run_id,
        **vars(result),
    )
    write_record(folder / RECORD_FILE, record)
    return dg.MaterializeResult(
        metadata=record_metadata(record, folder, reused=False), data_version=dg.DataVersion(record.data_version)
    )
