"""Tissue images into tiles, masks, cells and rows: the science, the file formats and the command line.

This package knows no Dagster and reads no environment variables; what a run is given comes as arguments.
"""

__version__ = "0.1.0"
