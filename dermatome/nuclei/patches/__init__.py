"""Training patches of nuclei: the asset `nuclei_patches`."""
