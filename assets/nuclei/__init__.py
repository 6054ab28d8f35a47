"""The nuclei pipeline, in reading order: slides, patches, weights, report, maps, TIL."""

from assets.nuclei.nuclei_patches import nuclei_patches
from assets.nuclei.nuclei_runs_report import nuclei_runs_report
from assets.nuclei.nuclei_slides import nuclei_slides
from assets.nuclei.nuclei_weights import nuclei_weights
from assets.nuclei.nucleus_maps import nucleus_maps
from assets.nuclei.til_scores import til_scores

ASSETS = [nuclei_slides, nuclei_patches, nuclei_weights, nuclei_runs_report, nucleus_maps, til_scores]
