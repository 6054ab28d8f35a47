"""Training tiles: annotated slides, cut by saved regions of interest (ROIs)."""
