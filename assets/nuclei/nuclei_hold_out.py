"""`nuclei_hold_out`: frozen patches that no training uses; `nuclei_hold_out_scores`: each version's scores on them."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from assets.nuclei.nuclei_patches import nuclei_patches
from assets.nuclei.nuclei_weights import nuclei_weights
from assets.partitions import NUCLEI_VERSIONS, ONLY_BY_HAND
from assets.registry import HoldOutChoice, hold_out_asset, hold_out_scores_asset, partitions_of
from dermatome.registry.model_kinds import NUCLEI

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.registry.hold_out import Score
    from dermatome.registry.manifest import ManifestRow
    from dermatome.settings import Settings


class NucleiHoldOut(HoldOutChoice):
    """The patches of the hold-out set."""

    cases: list[str] = Field(description="Cases held out for good; no training uses their patches.")


def _rows(settings: "Settings", folders: list[Path]) -> "list[ManifestRow]":
    from dermatome.nuclei.maps.hold_out import nucleus_rows

    return nucleus_rows(folders)


nuclei_hold_out = hold_out_asset(
    NUCLEI,
    NucleiHoldOut,
    setting="cases",
    example="case_12",
    find=partitions_of("nuclei_patches"),
    rows=_rows,
    group_name="nuclei_training",
    code_version="1",
    deps=[dg.AssetDep(nuclei_patches, partition_mapping=ONLY_BY_HAND)],
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
