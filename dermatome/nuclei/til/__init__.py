"""Tumour-infiltrating lymphocytes (TIL): the asset `til_scores`."""
