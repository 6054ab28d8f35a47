"""One slide: its pixels, its scale and its source; readers of plain images, tiled TIFF, vendor files and DICOM."""
