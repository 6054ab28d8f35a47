"""`tissue_hold_out`: frozen tiles that no training uses; `tissue_hold_out_scores`: each version's scores on them."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from assets.partitions import ONLY_BY_HAND, TRAINING_VERSIONS
from assets.registry import HoldOutChoice, hold_out_asset, hold_out_scores_asset, partitions_of
from assets.skin.tissue_weights import tissue_weights
from assets.skin.training_tiles import training_tiles
from dermatome.registry.model_kinds import TISSUE

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.registry.hold_out import Score
    from dermatome.registry.manifest import ManifestRow
    from dermatome.settings import Settings


class TissueHoldOut(HoldOutChoice):
    """The tiles of the hold-out set."""

    annotated_slides: list[str] = Field(description="Slides held out for good; no training uses their tiles.")


def _rows(settings: "Settings", folders: list[Path]) -> "list[ManifestRow]":
    from dermatome.skin.tissue.hold_out import tissue_rows

    return tissue_rows(folders)


tissue_hold_out = hold_out_asset(
    TISSUE,
    TissueHoldOut,
    setting="annotated_slides",
    example="slide_07",
    find=partitions_of("training_tiles"),
    rows=_rows,
    group_name="skin_training",
    code_version="2",
    deps=[dg.AssetDep(training_tiles, partition_mapping=ONLY_BY_HAND)],
)


def _score(settings: "Settings", compute: "Compute", version: str) -> "Score":
    from dermatome.skin.tissue.hold_out import score_tissue

    return partial(score_tissue, version=version, compute=compute, mpp=settings.images.declared_mpp)


tissue_hold_out_scores = hold_out_scores_asset(
    TISSUE,
    weights=tissue_weights,
    hold_out=tissue_hold_out,
    partitions_def=TRAINING_VERSIONS,
    group_name="skin_training",
    code_version="3",
    score=_score,
    decided_by=["images.declared_mpp", "compute.precision"],
)
