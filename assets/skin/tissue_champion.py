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
    from dermatome.skin.tissue.hold_out import score_tissue, tissue_rows

    return tissue_rows, partial(score_tissue, mpp=settings.images.declared_mpp)


tissue_hold_out, tissue_hold_out_scores, tissue_champion = Versions(
    TISSUE,
    tissue_weights,
    sources=training_tiles,
    setting="annotated_slides",
    meaning="Slides held out for good; no training uses their tiles.",
    example="slide_07",
    hold_out=_hold_out,
    decided_by=["images.declared_mpp", "compute.precision"],
    code_versions=("2", "3"),
    used_by="epidermis_masks",
    until_then="If there is a hold-out set, a version with a worse score than the champion's, by more than the margin, "
    "is refused.",
).assets()
