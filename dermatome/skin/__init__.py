"""Skin: annotated crops, tissue masks, cells in the epidermis, and its layers."""
