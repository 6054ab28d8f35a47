"""`tissue_hold_out`: frozen tiles that no training uses; `tissue_hold_out_scores`: each version's scores on them."""

from functools import partial
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from assets.materialize import materialize_one
from assets.partitions import TRAINING_VERSIONS
from assets.registry import hold_out_scores_asset
from assets.skin.tissue_weights import tissue_weights
from assets.skin.training_tiles import training_tiles
from dermatome.registry.model_kinds import TISSUE
from dermatome.storage.layout import CHAMPION
from dermatome.storage.record import require_record
from resources import PathsResource

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.registry.hold_out import Score
    from dermatome.settings import Settings


class TissueHoldOut(dg.Config):
    """The tiles of the hold-out set."""

    annotated_slides: list[str] = Field(description="Slides held out for good; no training uses their tiles.")
    replace: bool = Field(default=False, description="Replace the present hold-out set; its scores do not count then.")


@dg.asset(
    deps=[dg.AssetDep(training_tiles, partition_mapping=dg.AllPartitionMapping())],
    code_version="2",
    group_name="training",
    kinds={"file"},
)
def tissue_hold_out(
    context: dg.AssetExecutionContext, config: TissueHoldOut, paths: PathsResource
) -> dg.MaterializeResult:
    """Copies of the tiles of the named annotated slides, with a manifest. It stays as it is until it is replaced."""
    from dermatome.skin.tissue.hold_out import freeze_tissue

    root = paths.data_root
    return materialize_one(
        context,
        root,
        CHAMPION,
        make=lambda folder: freeze_tissue(root, config.annotated_slides, folder, replace=config.replace),
        inputs={slide: require_record(root, "training_tiles", slide).data_version for slide in config.annotated_slides},
        settings=config.model_dump(),
    )


def _score(settings: "Settings", compute: "Compute", version: str) -> "Score":
    from dermatome.skin.tissue.hold_out import score_tissue

    return partial(score_tissue, version=version, compute=compute, mpp=settings.images.declared_mpp)


tissue_hold_out_scores = hold_out_scores_asset(
    TISSUE,
    weights=tissue_weights,
    hold_out=tissue_hold_out,
    partitions_def=TRAINING_VERSIONS,
    group_name="training",
    code_version="3",
    score=_score,
    decided_by=["images.declared_mpp", "compute.precision"],
)
