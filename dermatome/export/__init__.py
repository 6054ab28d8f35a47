"""Exports results of a data root to other programs: QuPath and SpatialData."""
