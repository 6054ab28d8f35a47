"""Exports slides as SpatialData: image and labels as OME-Zarr pyramids, outlines, and a table of cells or nuclei.

Needs the extra `dermatome[spatialdata]`. Pixels are read and written in parts, so large slides fit into memory.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dermatome import __version__
from dermatome.errors import BadSetting
from dermatome.export.results import Kind, SlideResults
from dermatome.storage.files import atomic_folder

_CHUNK_PX = 2048
_SMALLEST_PX = 256
_TABLES: dict[Kind, str] = {"cell": "cells", "nucleus": "nuclei"}


def export_spatialdata(slides: Sequence[SlideResults], out: Path) -> None:
    """Writes slides to one SpatialData folder, which replaces what was at ``out``.

    For each slide: the image `<slide>_image`; labels `<slide>_tissue`, `_layers` and `_cells`, or `_classes` and
    `_nuclei`; their outlines as shapes, `<slide>_…_outlines`. All are in the coordinate system `<slide>_um`,
    in µm from the upper left corner of the slide. The table `cells` (or `nuclei`) annotates the labels of all slides:
    ``obs["region"]`` names the labels and ``obs["cell_id"]`` (``nucleus_id``) the number in them, ``X`` holds the
    measurements, ``obsm["spatial"]`` the centres in µm.

    Raises:
        BadSetting: spatialdata is not installed.
        StorageFailed: the disk is full or the folder is not writable.
    """
    try:
        from spatialdata import SpatialData
    except ImportError as error:
        raise BadSetting("spatialdata is not installed: pip install 'dermatome[spatialdata]'.") from error
    elements: dict[str, Any] = {}
    for found in slides:
        elements |= _elements(found)
    for kind in _TABLES:
        of_kind = [found for found in slides if found.kind == kind]
        if of_kind:
            elements[_TABLES[kind]] = _table(of_kind)
    about = {
        "dermatome_version": __version__,
        "warning": next((found.warning for found in slides if found.warning), ""),
        "slides": {
            found.slide.name: {
                "mpp": found.slide.mpp,
                "mpp_source": found.slide.mpp_source.value,
                "image_sha256": found.slide.sha256,
                **found.facts,
                **found.versions,
            }
            for found in slides
        },
    }
    data = SpatialData.init_from_elements(elements, attrs={"dermatome": about})
    with atomic_folder(out) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own dependencies
        folder.rmdir()  # it writes only where nothing is, or a Zarr store
        data.write(folder, update_sdata_path=False)


def _elements(found: SlideResults) -> dict[str, Any]:
    """Image, labels and shapes of a slide, by name."""
    from spatialdata.models import Image2DModel, Labels2DModel
    from spatialdata.transformations import Scale

    slide, name = found.slide, found.slide.name
    um = {f"{name}_um": Scale([slide.mpp, slide.mpp], axes=("y", "x"))}
    halvings = max(0, math.ceil(math.log2(max(slide.pixels.shape[:2]) / _SMALLEST_PX)))
    levels = [2] * halvings or None
    pixels = _in_parts(slide.pixels, (3,), np.uint8)
    elements = {
        f"{name}_image": Image2DModel.parse(
            pixels, dims=("y", "x", "c"), c_coords=["r", "g", "b"], scale_factors=levels, transformations=um
        )
    }
    for what, labels in found.labels.items():
        array = _in_parts(labels, (), labels[0:1, 0:1].dtype)
        elements[f"{name}_{what}"] = Labels2DModel.parse(
            array, dims=("y", "x"), scale_factors=levels, transformations=um
        )
    for what, path in found.outlines.items():
        elements[f"{name}_{what}_outlines"] = _shapes(path, um, numbered=what in _TABLES.values())
    return elements


def _in_parts(array: Any, channels: tuple[int, ...], dtype: Any) -> Any:
    """A dask array of pixels or labels that reads only the parts that are used."""
    import dask.array as da

    def read(block_info: Any = None) -> Any:
        (top, bottom), (left, right), *_ = block_info[None]["array-location"]
        return array[top:bottom, left:right]

    shape = (*array.shape[:2], *channels)
    chunks = da.core.normalize_chunks((_CHUNK_PX, _CHUNK_PX, *channels), shape)
    return da.map_blocks(read, chunks=chunks, dtype=dtype, meta=np.empty((0,) * len(shape), dtype))


def _shapes(path: Path, transformations: Mapping[str, Any], *, numbered: bool) -> Any:
    """The polygons of a GeoJSON file; the index is the number of the cell or nucleus, or the name of the region."""
    import geopandas
    from shapely.geometry import shape
    from spatialdata.models import ShapesModel

    features = json.loads(path.read_bytes())["features"]
    names = [feature["properties"]["name"] for feature in features]
    frame = geopandas.GeoDataFrame(
        {"class": [feature["properties"]["classification"]["name"] for feature in features]},
        geometry=[shape(feature["geometry"]) for feature in features],
        index=[int(name.rpartition(" ")[2]) for name in names] if numbered else names,
    )
    return ShapesModel.parse(frame, transformations=dict(transformations))


def _table(slides: Sequence[SlideResults]) -> Any:
    """The objects of all slides as AnnData."""
    import anndata
    import pandas as pd
    from spatialdata.models import TableModel

    kind, what = slides[0].kind, _TABLES[slides[0].kind]
    key, places = f"{kind}_id", ["centroid_x_px", "centroid_y_px"]
    frames = [
        found.objects.assign(
            region=f"{found.slide.name}_{what}", slide=found.slide.name, mpp=found.slide.mpp, **found.facts
        )
        for found in slides
    ]
    rows = pd.concat(frames, ignore_index=True)
    # Of type object, as anndata cannot write strings of pandas 3 yet.
    rows.index = pd.Index([f"{region}_{number}" for region, number in rows[["region", key]].to_numpy()], dtype=object)
    numbers = rows.select_dtypes("number").drop(columns=[key, "mpp", *places])
    obs = rows[["region", key, "class", "slide", *slides[0].facts]].copy()
    for column in obs.columns.drop(key):
        names = pd.Index(sorted(obs[column].unique()), dtype=object)
        obs[column] = pd.Categorical(obs[column], categories=names)
    # A pixel's centre is half a pixel from the edge at which coordinates begin.
    centres_um = (rows[places].to_numpy(float) + 0.5) * rows[["mpp"]].to_numpy(float)
    table = anndata.AnnData(
        numbers.to_numpy(dtype=float, na_value=np.nan),
        obs=obs,
        var=pd.DataFrame(index=numbers.columns.astype(object)),
        obsm={"spatial": centres_um},
    )
    return TableModel.parse(table, region=list(obs["region"].cat.categories), region_key="region", instance_key=key)
