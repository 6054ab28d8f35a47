"""`cell_hold_out`: frozen annotated images that no training uses; `cell_hold_out_scores`: each version's scores;
`cell_champion`: the version that cells are found with.
"""

from functools import partial
from typing import TYPE_CHECKING

from assets.registry import HoldOut, Versions
from assets.skin.cell_weights import cell_weights, find_sets
from assets.sources import CELL_ANNOTATIONS
from dermatome.registry.model_kinds import CELLS
from dermatome.skin.cells.networks import cell_weights_named

if TYPE_CHECKING:
    from dermatome.settings import Settings


def _hold_out(settings: "Settings") -> HoldOut:
    from dermatome.skin.cells.report import cell_rows, score_cell_version

    mpp = settings.images.declared_mpp
    return partial(cell_rows, declared_mpp=mpp), partial(score_cell_version, declared_mpp=mpp, cells=settings.cells)


cell_hold_out, cell_hold_out_scores, cell_champion = Versions(
    CELLS, cell_weights, CELL_ANNOTATIONS, used_by="cell_masks", code_versions=("3", "2"),
    setting=("sets", "Folders of `cell_annotations/` held out for good; no training uses them.", "lab_2024"),
    find=find_sets, hold_out=_hold_out, decided_by=["cells", "images.declared_mpp", "compute.precision"],
    from_settings=lambda root, settings: cell_weights_named(root, settings.cell_weights),
).assets()  # fmt: skip
