"""Label images of any size and their files (npz, OME-TIFF, GeoJSON), annotation files, and palettes of masks."""
