"""`cell_hold_out`: frozen annotated images that no training uses; `cell_hold_out_scores`: each version's scores."""

from functools import partial
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from assets.materialize import materialize_one
from assets.partitions import CELL_VERSIONS
from assets.registry import hold_out_scores_asset
from assets.skin.cell_weights import cell_weights
from dermatome.registry.model_kinds import CELLS
from dermatome.storage.layout import CHAMPION
from resources import PathsResource, SettingsResource

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.registry.hold_out import Score
    from dermatome.settings import Settings


class CellHoldOut(dg.Config):
    """The images of the hold-out set."""

    sets: list[str] = Field(description="Folders of `cell_annotations/` held out for good; no training uses them.")
    replace: bool = Field(default=False, description="Replace the present hold-out set; its scores do not count then.")


@dg.asset(code_version="2", group_name="training", kinds={"file"})
def cell_hold_out(
    context: dg.AssetExecutionContext, config: CellHoldOut, paths: PathsResource, settings: SettingsResource
) -> dg.MaterializeResult:
    """Copies of the named sets of annotated images, with a manifest. It stays as it is until it is replaced."""
    from dermatome.skin.cells.annotations import annotated_sha256, find_annotated
    from dermatome.skin.cells.hold_out import freeze_cells

    root, mpp = paths.data_root, settings.value.images.declared_mpp
    sets = [root.cell_set(name) for name in config.sets]
    return materialize_one(
        context,
        root,
        CHAMPION,
        make=lambda folder: freeze_cells(root, sets, folder, mpp, replace=config.replace),
        inputs={files.name: annotated_sha256(find_annotated(files, declared_mpp=mpp))[:32] for files in sets},
        settings=config.model_dump(),
    )


def _score(settings: "Settings", compute: "Compute", version: str) -> "Score":
    from dermatome.skin.cells.hold_out import score_cell_version

    return partial(
        score_cell_version,
        version=version,
        compute=compute,
        declared_mpp=settings.images.declared_mpp,
        cells=settings.cells,
    )


cell_hold_out_scores = hold_out_scores_asset(
    CELLS,
    weights=cell_weights,
    hold_out=cell_hold_out,
    partitions_def=CELL_VERSIONS,
    group_name="training",
    code_version="2",
    score=_score,
    decided_by=["cells", "images.declared_mpp", "compute.precision"],
)
