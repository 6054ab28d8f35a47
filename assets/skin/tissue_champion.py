"""`tissue_champion`: the version that tissue masks are made with."""

from assets.registry import champion_asset
from assets.skin.tissue_hold_out import tissue_hold_out_scores
from assets.skin.tissue_weights import tissue_weights
from dermatome.registry.model_kinds import TISSUE

tissue_champion = champion_asset(
    TISSUE,
    weights=tissue_weights,
    scores=tissue_hold_out_scores,
    used_by="epidermis_masks",
    group_name="skin_training",
    description="The best version by a score, or the one named in the run config. If there is a hold-out set, a "
    "version with a worse score than the champion's, by more than the margin, is refused. Promoting another version "
    "makes exactly the masks stale that other weights made.",
)
