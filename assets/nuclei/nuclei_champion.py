"""`nuclei_champion`: the version that nuclei are found with."""

from assets.nuclei.nuclei_hold_out import nuclei_hold_out_scores
from assets.nuclei.nuclei_weights import nuclei_weights
from assets.registry import champion_asset
from dermatome.nuclei.maps.networks import nucleus_weights_named
from dermatome.registry.model_kinds import NUCLEI

nuclei_champion = champion_asset(
    NUCLEI,
    weights=nuclei_weights,
    scores=nuclei_hold_out_scores,
    used_by="nucleus_maps",
    group_name="nuclei_training",
    description="The best version by a score, or the one named in the run config. Until it is materialized for the "
    "first time, nuclei are found with the network that the settings name (`nuclei_weights`). Promoting another "
    "version makes exactly the nucleus maps stale that other weights made.",
    from_settings=lambda root, settings: nucleus_weights_named(root, settings.nuclei_weights),
)
