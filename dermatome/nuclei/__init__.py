"""Nuclei in H&E: annotations, training patches, maps of slides, and TIL scores."""
