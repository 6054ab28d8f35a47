"""The skin pipeline, in reading order: pages, images, tiles, weights, champion, masks, layers, genes."""

from assets.skin.annotation_queue import annotation_queue
from assets.skin.cell_champion import cell_champion, cell_hold_out, cell_hold_out_scores
from assets.skin.cell_masks import cell_masks
from assets.skin.cell_weights import cell_weights
from assets.skin.epidermis_layers import epidermis_layers
from assets.skin.epidermis_masks import epidermis_masks
from assets.skin.gene_profiles import gene_profiles
from assets.skin.hpa_agreement import hpa_agreement
from assets.skin.hpa_images import hpa_images
from assets.skin.skin_atlas import skin_atlas
from assets.skin.slide_images import slide_images
from assets.skin.tissue_champion import tissue_champion, tissue_hold_out, tissue_hold_out_scores
from assets.skin.tissue_search import tissue_search
from assets.skin.tissue_weights import tissue_weights
from assets.skin.training_comparison import training_comparison
from assets.skin.training_tiles import training_tiles

ASSETS = [
    hpa_images,
    slide_images,
    training_tiles,
    tissue_hold_out,
    tissue_search,
    tissue_weights,
    tissue_hold_out_scores,
    training_comparison,
    tissue_champion,
    annotation_queue,
    epidermis_masks,
    cell_hold_out,
    cell_weights,
    cell_hold_out_scores,
    cell_champion,
    cell_masks,
    epidermis_layers,
    gene_profiles,
    skin_atlas,
    hpa_agreement,
]
OF_SLIDES = [slide_images, epidermis_masks, cell_masks, epidermis_layers]
