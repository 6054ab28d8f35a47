"""Nuclei of a slide: the asset `nucleus_maps`, and the network for it."""
