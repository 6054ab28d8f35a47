"""`cell_champion`: the version that cells are found with."""

from assets.registry import champion_asset
from assets.skin.cell_hold_out import cell_hold_out_scores
from assets.skin.cell_weights import cell_weights
from dermatome.registry.model_kinds import CELLS
from dermatome.skin.cells.networks import cell_weights_named

cell_champion = champion_asset(
    CELLS,
    weights=cell_weights,
    scores=cell_hold_out_scores,
    used_by="cell_masks",
    group_name="skin_training",
    description="The best version by a score, or the one named in the run config. Until it is materialized for the "
    "first time, cells are found with the network that the settings name (`cell_weights`). Promoting another version "
    "makes exactly the cell masks stale that other weights made.",
    from_settings=lambda root, settings: cell_weights_named(root, settings.cell_weights),
)
