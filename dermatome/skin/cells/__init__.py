"""Cells of the epidermis: the asset `cell_masks`, and the networks for it."""
