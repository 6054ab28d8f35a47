"""The files of a slide's nuclei: maps as OME-TIFF, outlines as GeoJSON for QuPath."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.classes import UNCLASSIFIED, UNCLASSIFIED_COLOUR, NucleusClass, TernaryClass
from dermatome.labels.instance_files import write_cells_geojson, write_map_tiff

if TYPE_CHECKING:
    from dermatome.nuclei.maps.segment import NucleiResult
    from dermatome.slides.slide import Slide

SEMANTIC_FILE = "semantic.ome.tif"
TERNARY_FILE = "ternary.ome.tif"
INSTANCES_FILE = "instances.ome.tif"
NUCLEI_TABLE = "nuclei.parquet"
OUTLINES_FILE = "nuclei.geojson"


def write_class_maps(folder: Path, found: NucleiResult, slide: Slide) -> None:
    """Writes the semantic and the ternary map, with name and colour of each class.

    Raises:
        StorageFailed: the disk is full or the folder not writable.
    """
    semantic = {int(c): (c.label, c.colour) for c in NucleusClass}
    ternary = {int(c): (c.label, c.colour) for c in TernaryClass}
    write_map_tiff(folder / SEMANTIC_FILE, found.semantic, slide.mpp, name=slide.name, classes=semantic)
    write_map_tiff(folder / TERNARY_FILE, found.ternary, slide.mpp, name=slide.name, classes=ternary)


def write_instances(path: Path, found: NucleiResult, slide: Slide) -> None:
    """Writes the instance map: int32, 0 or the nucleus' number in the table.

    Raises:
        StorageFailed: the disk is full or the folder not writable.
    """
    write_map_tiff(path, found.instances, slide.mpp, name=slide.name)


def write_outlines(path: Path, found: NucleiResult, slide: Slide) -> None:
    """Writes the outlines of nuclei as QuPath detections, in the colours of their classes.

    Raises:
        StorageFailed: the disk is full or the folder not writable.
    """
    colours = {c.label: c.colour for c in NucleusClass} | {UNCLASSIFIED: UNCLASSIFIED_COLOUR}
    write_cells_geojson(path, found.instances, found.table, slide=slide.name, what="nucleus", classes=colours)
