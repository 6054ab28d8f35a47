"""The skin pipeline: pages, images, tiles, weights, champion, masks, layers, genes."""

import dagster as dg

from assets.skin.cell_masks import cell_masks
from assets.skin.epidermis_layers import epidermis_layers
from assets.skin.epidermis_masks import epidermis_masks
from assets.skin.gene_profiles import gene_profiles
from assets.skin.hpa_agreement import hpa_agreement
from assets.skin.skin_atlas import skin_atlas
from assets.skin.slide_images import slide_images

ASSETS = dg.load_assets_from_package_name(__name__)
"""The assets of every module of this folder."""
OF_SLIDES = [slide_images, epidermis_masks, cell_masks, epidermis_layers]
OF_GENES = [gene_profiles, skin_atlas, hpa_agreement]
