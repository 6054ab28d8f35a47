"""The nuclei pipeline, in reading order: slides, patches, weights, hold-out set, champion, report, maps, TIL."""

from assets.nuclei.nuclei_champion import nuclei_champion, nuclei_hold_out, nuclei_hold_out_scores
from assets.nuclei.nuclei_patches import nuclei_patches
from assets.nuclei.nuclei_runs_report import nuclei_runs_report
from assets.nuclei.nuclei_slides import nuclei_slides
from assets.nuclei.nuclei_weights import nuclei_weights
from assets.nuclei.nucleus_maps import nucleus_maps
from assets.nuclei.til_scores import til_scores

ASSETS = [
    nuclei_slides,
    nuclei_patches,
    nuclei_hold_out,
    nuclei_weights,
    nuclei_hold_out_scores,
    nuclei_champion,
    nuclei_runs_report,
    nucleus_maps,
    til_scores,
]
OF_SLIDES = [nuclei_slides, nucleus_maps, til_scores]
