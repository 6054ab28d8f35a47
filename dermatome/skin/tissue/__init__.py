"""Tissue of a slide: the asset `epidermis_masks`, and the network for it."""
