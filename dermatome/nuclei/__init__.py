"""Nuclei in H&E: annotations, patches, scores and what is made of the maps of a slide."""
