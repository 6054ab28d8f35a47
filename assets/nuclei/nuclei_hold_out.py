"""`nuclei_hold_out`: frozen patches that no training uses; `nuclei_hold_out_scores`: each version's scores on them."""

from functools import partial
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from assets.materialize import materialize_one
from assets.nuclei.nuclei_patches import nuclei_patches
from assets.nuclei.nuclei_weights import nuclei_weights
from assets.partitions import NUCLEI_VERSIONS
from assets.registry import hold_out_scores_asset
from dermatome.registry.model_kinds import NUCLEI
from dermatome.storage.layout import CHAMPION
from dermatome.storage.record import require_record
from resources import PathsResource

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.registry.hold_out import Score
    from dermatome.settings import Settings


class NucleiHoldOut(dg.Config):
    """The patches of the hold-out set."""

    cases: list[str] = Field(description="Cases held out for good; no training uses their patches.")
    replace: bool = Field(default=False, description="Replace the present hold-out set; its scores do not count then.")


@dg.asset(
    deps=[dg.AssetDep(nuclei_patches, partition_mapping=dg.AllPartitionMapping())],
    code_version="1",
    group_name="nuclei_training",
    kinds={"file"},
)
def nuclei_hold_out(
    context: dg.AssetExecutionContext, config: NucleiHoldOut, paths: PathsResource
) -> dg.MaterializeResult:
    """Copies of the patches of the named cases, with a manifest. It stays as it is until it is replaced."""
    from dermatome.nuclei.maps.hold_out import freeze_nuclei

    root = paths.data_root
    return materialize_one(
        context,
        root,
        CHAMPION,
        make=lambda folder: freeze_nuclei(root, config.cases, folder, replace=config.replace),
        inputs={case: require_record(root, "nuclei_patches", case).data_version for case in config.cases},
        settings=config.model_dump(),
    )


def _score(settings: "Settings", compute: "Compute", version: str) -> "Score":
    from dermatome.nuclei.maps.hold_out import score_nuclei_version

    return partial(score_nuclei_version, compute=compute, settings=settings.nuclei)


nuclei_hold_out_scores = hold_out_scores_asset(
    NUCLEI,
    weights=nuclei_weights,
    hold_out=nuclei_hold_out,
    partitions_def=NUCLEI_VERSIONS,
    group_name="nuclei_training",
    code_version="1",
    score=_score,
    decided_by=["nuclei", "compute.precision"],
)
