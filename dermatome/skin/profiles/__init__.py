"""Profiles of genes: the staining of each antibody, over patients."""
