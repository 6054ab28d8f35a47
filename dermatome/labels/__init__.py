"""Label images of any size and the files they are kept in: npz, OME-TIFF, GeoJSON; palettes of annotated masks."""
