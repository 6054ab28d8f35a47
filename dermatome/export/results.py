"""The results of a slide in a data root that exports need: image, labels, outlines and a row for each object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dermatome.classes import UNCLASSIFIED, UNCLASSIFIED_COLOUR, LabelArray, NucleusClass, Rgb, TissueClass
from dermatome.errors import MissingInput
from dermatome.hpa.records import slide_facts
from dermatome.labels.ome_tiff import open_ome_tiff
from dermatome.nuclei.maps.files import INSTANCES_FILE, NUCLEI_TABLE, OUTLINES_FILE, SEMANTIC_FILE
from dermatome.pipeline.stage_files import load_slide, read_rows, synthetic_warning
from dermatome.skin.layers.stage import CELL_CLASSES, layer_classes, place_cells
from dermatome.skin.stage_files import load_cell_map, load_tissue_mask
from dermatome.slides.register import read_sources
from dermatome.slides.slide import Slide
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import require_record

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["cell", "nucleus"]
FACTS = ("gene", "ensembl_id", "antibody", "patient_id")


@dataclass(frozen=True)
class SlideResults:
    """Results of one slide.

    Attributes:
        slide: the slide's image.
        image: file or folder of the image.
        kind: kind of its objects: cells of the epidermis of an IHC slide, or nuclei of an H&E slide.
        labels: (H, W) integers by name: tissue, layers and cells; or classes and nuclei. 0 is background.
        outlines: GeoJSON files by name: tissue, layers and cells; or nuclei.
        objects: a row for each cell or nucleus, with its number and ``class``.
        colours: colour of each class.
        facts: gene, ensembl_id, antibody and patient_id, empty if unknown.
        versions: data version of the results, by asset.
        warning: warning about its networks; empty if there is none.
    """

    slide: Slide
    image: Path
    kind: Kind
    labels: Mapping[str, LabelArray]
    outlines: Mapping[str, Path]
    objects: pd.DataFrame
    colours: Mapping[str, Rgb]
    facts: Mapping[str, str]
    versions: Mapping[str, str]
    warning: str


def slides_of_gene(root: DataRoot, gene: str) -> list[str]:
    """Names of the measured slides of a gene, given by its symbol or Ensembl id.

    Raises:
        MissingInput: none of its slides is measured, or there is no such gene.
    """
    sources = read_sources(root.slide_sources).values()
    named = {source.slide for source in sources if gene in (source.gene, source.ensembl_id)}
    found = sorted(named.intersection(root.partitions("epidermis_layers")))
    if not found:
        known = f"none of its {len(named)} slides has epidermis_layers" if named else "no slide is registered for it"
        raise MissingInput(f"There is nothing to export of the gene {gene}: {known} in {root.path}.")
    return found


def read_results(root: DataRoot, name: str) -> SlideResults:
    """Reads the layers of a skin slide, or else the nuclei of an H&E slide.

    Raises:
        MissingInput: the slide has neither.
        StorageFailed: a file is not the one that was written.
    """
    if root.record("epidermis_layers", name).is_file():
        return _skin(root, name)
    if root.record("nucleus_maps", name).is_file():
        return _nuclei(root, name)
    raise MissingInput(f"{name} has neither epidermis_layers nor nucleus_maps in {root.path}: materialize one first.")


def _skin(root: DataRoot, name: str) -> SlideResults:
    slide, folder = load_slide(root, name), root.folder("epidermis_layers", name)
    files = ("layers.ome.tif", "layers.geojson", "layers.parquet", "cells.geojson", "cell_layers.parquet")
    record = require_record(root, "epidermis_layers", name, *files)
    tissue, mask_made = load_tissue_mask(root, name, slide.size)
    require_record(root, "epidermis_masks", name, "tissue.geojson")
    cells, table, cells_made = load_cell_map(root, name, slide.size)
    classes = {tissue.label: tissue.colour for tissue in TissueClass if tissue is not TissueClass.BACKGROUND}
    layers = dict(layer_classes(len(read_rows(folder / "layers.parquet"))).values())
    return SlideResults(
        slide,
        _image(root, "slide_images", name),
        "cell",
        {"tissue": tissue, "layers": open_ome_tiff(folder / "layers.ome.tif"), "cells": cells},
        {
            "tissue": root.folder("epidermis_masks", name) / "tissue.geojson",
            "layers": folder / "layers.geojson",
            "cells": folder / "cells.geojson",
        },
        place_cells(table, read_rows(folder / "cell_layers.parquet")),
        classes | layers | CELL_CLASSES,
        slide_facts(root, name, FACTS),
        {made.asset: made.data_version for made in (mask_made, cells_made, record)},
        synthetic_warning(record.values),
    )


def _nuclei(root: DataRoot, name: str) -> SlideResults:
    slide, folder = load_slide(root, name, "nuclei_slides"), root.folder("nucleus_maps", name)
    record = require_record(root, "nucleus_maps", name, INSTANCES_FILE, SEMANTIC_FILE, NUCLEI_TABLE, OUTLINES_FILE)
    return SlideResults(
        slide,
        _image(root, "nuclei_slides", name),
        "nucleus",
        {"classes": open_ome_tiff(folder / SEMANTIC_FILE), "nuclei": open_ome_tiff(folder / INSTANCES_FILE)},
        {"nuclei": folder / OUTLINES_FILE},
        read_rows(folder / NUCLEI_TABLE),
        {c.label: c.colour for c in NucleusClass if c} | {UNCLASSIFIED: UNCLASSIFIED_COLOUR},
        dict.fromkeys(FACTS, ""),
        {record.asset: record.data_version},
        synthetic_warning(record.values),
    )


def _image(root: DataRoot, asset: str, name: str) -> Path:
    return root.folder(asset, name) / str(require_record(root, asset, name).values["file"])
