"""`tissue_hold_out`: frozen tiles that no training uses; `tissue_hold_out_scores`: each version's scores on them;
`tissue_champion`: the version that tissue masks are made with.
"""

from functools import partial
from typing import TYPE_CHECKING

from assets.registry import HoldOut, Versions
from assets.skin.tissue_weights import tissue_weights
from assets.skin.training_tiles import training_tiles
from dermatome.registry.model_kinds import TISSUE

if TYPE_CHECKING:
    from dermatome.settings import Settings


def _hold_out(settings: "Settings") -> HoldOut:
    from dermatome.skin.tissue.report import score_tissue, tissue_rows

    return tissue_rows, partial(score_tissue, mpp=settings.images.declared_mpp)


tissue_hold_out, tissue_hold_out_scores, tissue_champion = Versions(
    TISSUE, tissue_weights, training_tiles, used_by="epidermis_masks", code_versions=("2", "3"),
    setting=("annotated_slides", "Slides held out for good; no training uses their tiles.", "slide_07"),
    hold_out=_hold_out, decided_by=["images.declared_mpp", "compute.precision"],
).assets()  # fmt: skip
