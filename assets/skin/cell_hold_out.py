"""`cell_hold_out`: frozen annotated images that no training uses; `cell_hold_out_scores`: each version's scores."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from assets.partitions import CELL_VERSIONS
from assets.registry import HoldOutChoice, hold_out_asset, hold_out_scores_asset
from assets.skin.cell_weights import cell_weights
from assets.sources import CELL_ANNOTATIONS
from dermatome.registry.model_kinds import CELLS
from dermatome.storage.layout import DataRoot

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.registry.hold_out import Score
    from dermatome.registry.manifest import ManifestRow
    from dermatome.settings import Settings


class CellHoldOut(HoldOutChoice):
    """The images of the hold-out set."""

    sets: list[str] = Field(description="Folders of `cell_annotations/` held out for good; no training uses them.")


def _find(root: DataRoot, settings: "Settings", names: list[str]) -> dict[Path, str]:
    from dermatome.skin.cells.annotations import annotated_sha256, find_annotated

    folders, mpp = [root.cell_set(name) for name in names], settings.images.declared_mpp
    return {folder: annotated_sha256(find_annotated(folder, declared_mpp=mpp))[:32] for folder in folders}


def _rows(settings: "Settings", folders: list[Path]) -> "list[ManifestRow]":
    from dermatome.skin.cells.hold_out import cell_rows

    return cell_rows(folders, settings.images.declared_mpp)


cell_hold_out = hold_out_asset(
    CELLS,
    CellHoldOut,
    setting="sets",
    example="lab_2024",
    find=_find,
    rows=_rows,
    group_name="skin_training",
    code_version="3",
    deps=[CELL_ANNOTATIONS],
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
    group_name="skin_training",
    code_version="2",
    score=_score,
    decided_by=["cells", "images.declared_mpp", "compute.precision"],
)
