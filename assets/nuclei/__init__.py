"""The nuclei pipeline, in reading order: slides, patches."""

from assets.nuclei.nuclei_patches import nuclei_patches
from assets.nuclei.nuclei_slides import nuclei_slides

ASSETS = [nuclei_slides, nuclei_patches]
