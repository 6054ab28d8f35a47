"""The nuclei pipeline: H&E slides, annotated images, patches, weights, champion, maps of nuclei, TIL scores."""

import dagster as dg

from assets.nuclei.nuclei_slides import nuclei_slides
from assets.nuclei.nucleus_maps import nucleus_maps
from assets.nuclei.til_scores import til_scores

ASSETS = dg.load_assets_from_package_name(__name__)
"""The assets of every module of this folder."""
OF_SLIDES = [nuclei_slides, nucleus_maps, til_scores]
