"""Profiles of genes: what each antibody stains, over patients."""
