"""`nuclei_hold_out`: frozen patches that no training uses; `nuclei_hold_out_scores`: each version's scores on them;
`nuclei_champion`: the version that nuclei are found with.
"""

from functools import partial
from typing import TYPE_CHECKING

from assets.nuclei.nuclei_patches import nuclei_patches
from assets.nuclei.nuclei_weights import nuclei_weights
from assets.registry import HoldOut, Versions
from dermatome.nuclei.maps.networks import nucleus_weights_named
from dermatome.registry.model_kinds import NUCLEI

if TYPE_CHECKING:
    from dermatome.settings import Settings


def _hold_out(settings: "Settings") -> HoldOut:
    from dermatome.nuclei.maps.report import nucleus_rows, score_nuclei_version

    return nucleus_rows, partial(score_nuclei_version, settings=settings.nuclei)


nuclei_hold_out, nuclei_hold_out_scores, nuclei_champion = Versions(
    NUCLEI, nuclei_weights, nuclei_patches, used_by="nucleus_maps", code_versions=("1", "1"),
    setting=("cases", "Cases held out for good; no training uses their patches.", "case_12"),
    hold_out=_hold_out, decided_by=["nuclei", "compute.precision"],
    from_settings=lambda root, settings: nucleus_weights_named(root, settings.nuclei_weights),
).assets()  # fmt: skip
