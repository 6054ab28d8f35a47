"""One slide: its pixels, scale and source; with readers for plain images, tiled TIFF, vendor files and DICOM."""
