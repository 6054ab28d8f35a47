"""Files of the nuclei of a slide: maps as OME-TIFF, outlines as GeoJSON for QuPath."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.classes import UNCLASSIFIED, UNCLASSIFIED_COLOUR, NucleusClass, TernaryClass
from dermatome.labels.geojson import object_features, write_geojson
from dermatome.labels.ome_tiff import write_ome_tiff

if TYPE_CHECKING:
    from dermatome.nuclei.maps.segment import NucleiResult
    from dermatome.slides.slide import Slide

SEMANTIC_FILE = "semantic.ome.tif"
TERNARY_FILE = "ternary.ome.tif"
INSTANCES_FILE = "instances.ome.tif"
NUCLEI_TABLE = "nuclei.parquet"
OUTLINES_FILE = "nuclei.geojson"


def write_maps(folder: Path, found: NucleiResult, slide: Slide, before: str = "") -> None:
    """Writes the semantic, ternary and instance maps as OME-TIFF, with names and colours of classes.

    Instances are int32: 0 for background, otherwise the number of the nucleus in the table. File names begin with
    ``before``.

    Raises:
        StorageFailed: the disk is full or not writable.
    """
    semantic = {int(c): (c.label, c.colour) for c in NucleusClass}
    ternary = {int(c): (c.label, c.colour) for c in TernaryClass}
    for file, labels, classes in (
        (SEMANTIC_FILE, found.semantic, semantic),
        (TERNARY_FILE, found.ternary, ternary),
        (INSTANCES_FILE, found.instances, None),
    ):
        write_ome_tiff(folder / f"{before}{file}", labels, slide.mpp, classes, name=slide.name, warning=found.warning)


def write_outlines(path: Path, found: NucleiResult, slide: Slide) -> None:
    """Writes outlines of nuclei as QuPath detections in the colours of their classes.

    Raises:
        StorageFailed: The disk is full or the folder is not writable.
    """
    colours = {c.label: c.colour for c in NucleusClass} | {UNCLASSIFIED: UNCLASSIFIED_COLOUR}
    nuclei = object_features(found.instances, found.table, slide=slide.name, what="nucleus", classes=colours)
    write_geojson(path, nuclei, warning=found.warning)
