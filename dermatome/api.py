"""The interface for notebooks and scripts: images, label arrays and data frames in and out.

The functions run the same code as the platform, the command line and the web app, on one image that fits into memory.
For many images and whole slides use the command line, which reads and writes in tiles and stores a record with each
result.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dermatome.classes import ClassMap, Instances, LabelArray, RgbImage, StainingPattern
from dermatome.errors import BadImage, BadSetting, MissingInput
from dermatome.inference.compute import Compute, DeviceName, choose_compute
from dermatome.labels.tiled import TiledArray
from dermatome.nuclei.maps.networks import find_nucleus_weights, load_nuclei, nucleus_weights_named
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.nuclei.til.settings import TilSettings
from dermatome.registry.champion import Weights
from dermatome.settings import Settings, load_settings
from dermatome.skin.cells.networks import cell_weights_named, find_cell_weights, load_cells
from dermatome.skin.cells.settings import CellSettings
from dermatome.skin.layers.settings import LayerSettings
from dermatome.skin.tissue.networks import STARTER, find_tissue_weights, load_tissue, tissue_weights_named
from dermatome.skin.tissue.settings import TissueSettings
from dermatome.slides import slide as slides
from dermatome.slides.slide import WHOLE_PX, MppSource, Slide
from dermatome.storage.layout import DataRoot

if TYPE_CHECKING:
    import pandas as pd

    from dermatome.nuclei.til.score import TilScores

CACHE = DataRoot(Path("~/.cache/dermatome").expanduser())
"""Folder for the download of ``cyto2``; the same as on the command line."""
_TABLES = "select view_name from duckdb_views() where schema_name = 'main' and not internal order by 1"


class Cells(NamedTuple):
    """Cells of an image.

    Attributes:
        instances: (H, W) int32, 0 background, 1..N.
        table: a row for each cell; columns as in the table `cells` of the data dictionary.
    """

    instances: Instances
    table: pd.DataFrame


class Layers(NamedTuple):
    """Layers of the epidermis of an image; tables are empty and numbers None unless ``outcome`` is ``measured``.

    Attributes:
        outcome: ``measured``, ``no_epidermis``, ``no_dermis`` or ``no_cells``.
        message: the outcome in a sentence.
        layer_map: (H, W) uint16, 0 outside the layers, 1 = basal layer.
        table: a row for each layer: area, cells, DAB and hematoxylin as optical density, H-score.
        cells: layer, distance from the dermis (µm) and relative depth of each cell.
        profile: stains by distance from the dermis, in steps of `profile_step_um`.
        relative: stains by relative depth, 0 at the dermis and 1 at the upper edge of the living epidermis.
        zones: stains of the basal, spinous and upper zone.
        pattern: ``basal``, ``suprabasal``, ``whole`` or ``negative``.
        h_score: H-score over all layers, 0 to 300.
        positive_share: share of the pixels of all layers that are stained, 0 to 1.
    """

    outcome: str
    message: str
    layer_map: npt.NDArray[np.uint16]
    table: pd.DataFrame
    cells: pd.DataFrame
    profile: pd.DataFrame
    relative: pd.DataFrame
    zones: pd.DataFrame
    pattern: StainingPattern | None
    h_score: float | None
    positive_share: float | None


class Nuclei(NamedTuple):
    """Nuclei of an image.

    Attributes:
        instances: (H, W) int32, 0 background, 1..N.
        table: a row for each nucleus; columns as in the table `nuclei` of the data dictionary.
        semantic: (H, W) uint8, a :class:`~dermatome.classes.NucleusClass` for each pixel.
    """

    instances: Instances
    table: pd.DataFrame
    semantic: ClassMap


def read_slide(path: str | Path, mpp: float | None = None) -> Slide:
    """Reads an image: JPEG, PNG, TIFF, a vendor's slide, or a folder with the files of a DICOM slide.

    ``slide.pixels`` is its (H, W, 3) uint8 RGB array, ``slide.mpp`` its microns per pixel. A file of more than 67
    million pixels is only opened: ``slide.region(box, size)`` reads a part of it, which you pass to the functions below
    with the part's own ``mpp``.

    Args:
        path: the file or folder.
        mpp: microns per pixel of files that state none; a scale stated by the file takes precedence.

    Raises:
        MissingInput: there is no such file.
        BadImage: the file is damaged, not an image, too large, or contradicts ``mpp``.
        BadSetting: the file states no scale and ``mpp`` is not given.
    """
    declared = slides.DECLARED_MPP if mpp is None else mpp
    slide = slides.read_slide(Path(path), declared_mpp=declared, mpp_given=mpp is not None)
    if mpp is None and slide.mpp_source is MppSource.DECLARED:
        raise BadSetting(f"{path} states no scale: give its microns per pixel as mpp; HPA's images have about 0.5.")
    return slide


def segment_tissue(
    image: Slide | RgbImage,
    weights: str | Path = STARTER,
    *,
    mpp: float | None = None,
    device: DeviceName = "auto",
    **settings: Any,
) -> ClassMap:
    """Finds background (0), dermis (1), epidermis (2) and keratin (3) of skin.

    Args:
        image: a slide, or (H, W, 3) uint8 RGB with its ``mpp``.
        weights: weights file of `dermatome tissue train`; ``starter``, trained on synthetic skin only; or a data root,
            whose champion is used, or the starter if it has none.
        mpp: microns per pixel of an array.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        settings: any settings of the section `[tissue]`.

    Returns:
        (H, W) uint8 of :class:`~dermatome.classes.TissueClass`.

    Raises:
        BadImage: the array is not an RGB image, or the image is too large for an array of labels.
        BadSetting: a setting is wrong, or the image is much coarser than the network's training images.
        BadWeights: the weights file is missing or damaged.
    """
    from dermatome.skin.tissue.segment import segment_tissue as segment

    slide, chosen = _slide(image, mpp), TissueSettings(**settings)
    named = _weights(weights, lambda root, _: find_tissue_weights(root), tissue_weights_named)
    found = segment(slide, _network(load_tissue, named, chosen, device), chosen)
    skin = found.skin_check()
    _warn(found.warning, "" if skin.passed else skin.description)
    return found.mask


def segment_cells(
    image: Slide | RgbImage,
    tissue: LabelArray,
    weights: str | Path,
    *,
    mpp: float | None = None,
    device: DeviceName = "auto",
    **settings: Any,
) -> Cells:
    """Segments the cells of the epidermis in the hematoxylin channel.

    Args:
        image: a slide, or (H, W, 3) uint8 RGB with its ``mpp``.
        tissue: (H, W) uint8 of :func:`segment_tissue`.
        weights: weights file of `dermatome cells train`; ``cyto2``, which is downloaded once; ``toy``, trained on
            synthetic cells; or a data root, whose network is used.
        mpp: microns per pixel of an array.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        settings: any settings of the section `[cells]`, such as ``diameter_um`` or ``segmenter``.

    Raises:
        BadImage: as in :func:`segment_tissue`.
        BadAnnotation: ``tissue`` has another size than the image.
        BadSetting: a setting is wrong.
        BadWeights: the weights file is missing or damaged.
        FetchFailed: ``cyto2`` could not be downloaded.
    """
    from dermatome.skin.cells.segment import segment_cells as segment

    slide, chosen = _slide(image, mpp), CellSettings(**settings)
    by = chosen.segmenter
    found = _weights(
        weights,
        lambda root, its: find_cell_weights(root, its.cell_weights, by),
        lambda root, name: cell_weights_named(root, name, by),
    )
    network = _network(load_cells, found, by, device)
    _warn(network.warning)
    cells = segment(slide, tissue, network, chosen)
    return Cells(cells.instances.whole(), cells.table)


def measure_layers(
    image: Slide | RgbImage,
    tissue: LabelArray,
    instances: LabelArray,
    cells: pd.DataFrame,
    *,
    mpp: float | None = None,
    **settings: Any,
) -> Layers:
    """Divides the epidermis into layers, from the dermis outwards, and measures DAB and hematoxylin in each.

    Args:
        image: a slide, or (H, W, 3) uint8 RGB with its ``mpp``.
        tissue: (H, W) uint8 of :func:`segment_tissue`.
        instances: (H, W) int32 of :func:`segment_cells`.
        cells: table of :func:`segment_cells`.
        mpp: microns per pixel of an array.
        settings: any settings of the section `[layers]`, such as ``layer_um``.

    Raises:
        BadImage: as in :func:`segment_tissue`.
        BadAnnotation: a label array has another size than the image.
        BadSetting: a setting is wrong.
    """
    from dermatome.skin.layers.measure import measure_layers as measure

    found = measure(_slide(image, mpp), tissue, instances, cells, LayerSettings(**settings))
    return Layers(
        found.outcome.value, found.message, found.layer_map.whole(), found.layers, found.cell_layers, found.profile,
        found.relative, found.zones, found.pattern, found.h_score, found.positive_share,
    )  # fmt: skip


def find_nuclei(
    image: Slide | RgbImage,
    weights: str | Path,
    *,
    mpp: float | None = None,
    device: DeviceName = "auto",
    **settings: Any,
) -> Nuclei:
    """Finds the nuclei of an H&E image and their classes.

    Args:
        image: a slide, or (H, W, 3) uint8 RGB with its ``mpp``.
        weights: weights file of `dermatome nuclei train`; ``toy``, trained on synthetic nuclei; or a data root, whose
            network is used.
        mpp: microns per pixel of an array.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        settings: any settings of the section `[nuclei]`.

    Raises:
        BadImage: as in :func:`segment_tissue`.
        BadSetting: a setting is wrong, or the image is much coarser than the network's training images.
        BadWeights: the weights file is missing or damaged.
        MissingInput: the data root has no network for nuclei.
    """
    from dermatome.nuclei.maps.segment import fitted_stain, segment_nuclei

    slide, chosen = _slide(image, mpp), NucleusSettings(**settings)
    found = _weights(weights, lambda root, its: find_nucleus_weights(root, its.nuclei_weights), nucleus_weights_named)
    network = _network(load_nuclei, found, chosen, device)
    fit = fitted_stain(slide, network, chosen)
    (nuclei,) = segment_nuclei([slide], network, chosen, normalise=[None if fit is None else fit.normalise])
    _warn(nuclei.warning)
    return Nuclei(nuclei.instances.whole(), nuclei.table, nuclei.semantic.whole())


def score_tils(
    image: Slide | RgbImage, nuclei: pd.DataFrame, *, mpp: float | None = None, **settings: Any
) -> TilScores:
    """Scores tumour-infiltrating lymphocytes from the table of an image's nuclei.

    Args:
        image: a slide, or (H, W, 3) uint8 RGB with its ``mpp``; scores are relative to its area of tissue.
        nuclei: table of :func:`find_nuclei`.
        mpp: microns per pixel of an array.
        settings: any settings of the section `[til]`, such as ``near_um``.

    Returns:
        Scores, and the maps ``squares``, ``nuclei`` and ``areas_mm2`` on squares of ``square_um``.

    Raises:
        BadImage: as in :func:`segment_tissue`.
        BadSetting: a setting is wrong.
    """
    from dermatome.imaging.tissue_area import tissue_mm2
    from dermatome.nuclei.til.score import score_til

    slide = _slide(image, mpp)
    return score_til(nuclei, slide.size, slide.mpp, tissue_mm2(slide), TilSettings(**settings))


class Results:
    """Results of a data root: tables and views as data frames, such as ``results["layers"]``, and arrays of a slide.

    A table is read from the store when it is accessed, as `skin_metrics` last filled it.
    """

    def __init__(self, root: DataRoot) -> None:
        self.root = root

    @property
    def tables(self) -> list[str]:
        """Names of the tables and views; the data dictionary describes them."""
        return [str(name) for name in self.sql(_TABLES)["view_name"]]

    def __getitem__(self, table: str) -> pd.DataFrame:
        """Returns a table or view; use :meth:`sql` to select from large ones."""
        if table not in self.tables:
            raise KeyError(f"{table}: use one of {', '.join(self.tables)}")
        return self.sql(f"from {table}")

    def sql(self, query: str) -> pd.DataFrame:
        """Returns the rows of an SQL query (DuckDB) on the store.

        Raises:
            MissingInput: there is no store yet.
        """
        import duckdb

        if not self.root.store.is_file():
            raise MissingInput(f"There is no {self.root.store}: materialize skin_metrics, which fills it.")
        with duckdb.connect(str(self.root.store), read_only=True) as store:
            rows: pd.DataFrame = store.sql(query).df()
        return rows

    def slide(self, name: str) -> Slide:
        """The image of a skin slide.

        Raises:
            MissingInput: there is no such slide.
        """
        from dermatome.pipeline.stage_files import load_slide

        return load_slide(self.root, name)

    def tissue(self, name: str) -> ClassMap:
        """The tissue mask of a slide, (H, W) uint8; errors as in :meth:`slide`."""
        from dermatome.skin.stage_files import load_tissue_mask

        mask: ClassMap = TiledArray.of(load_tissue_mask(self.root, name, self.slide(name).size)[0]).whole()
        return mask

    def cells(self, name: str) -> Cells:
        """The cells of a slide; errors as in :meth:`slide`."""
        from dermatome.skin.stage_files import load_cell_map

        labels, table, _ = load_cell_map(self.root, name, self.slide(name).size)
        return Cells(TiledArray.of(labels).whole(), table)


def load_results(root: str | Path) -> Results:
    """Opens the results of a data root.

    Args:
        root: the folder, such as `dermatome_data`.

    Raises:
        MissingInput: there is no such folder.
    """
    if not Path(root).is_dir():
        raise MissingInput(f"There is no data root {root}: give the folder that make ui or make demo used.")
    return Results(DataRoot.at(str(root)))


def _slide(image: Slide | RgbImage, mpp: float | None) -> Slide:
    """Returns the slide, or wraps an array as one."""
    if not isinstance(image, Slide):
        pixels = np.asarray(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise BadImage(f"The image is {pixels.dtype} of shape {pixels.shape}: give (H, W, 3) uint8 RGB.")
        if mpp is None or not 0.01 <= mpp <= 100:
            raise BadSetting(f"The mpp of the array is {mpp}: give its microns per pixel, between 0.01 and 100.")
        image = Slide("image", pixels, mpp, MppSource.DECLARED, "")
    elif mpp is not None and mpp != image.mpp:
        raise BadSetting(f"{image.name} has {image.mpp:g} µm per pixel and mpp is {mpp:g}: give mpp to read_slide.")
    if image.size.area_px > WHOLE_PX:
        raise BadImage(f"{image.name} is too large for an array: take a region of it, or use the command line.")
    return image


def _weights(
    given: str | Path, of_root: Callable[[DataRoot, Settings], Weights], named: Callable[[DataRoot, str], Weights]
) -> Weights:
    """The weights of a data root, or those of a name or file."""
    if not Path(given).is_dir():
        return named(CACHE, str(given))
    root = DataRoot.at(str(given))
    return of_root(root, load_settings(root.settings))


def _warn(*texts: str) -> None:
    """Warns on behalf of the caller of the public function."""
    for text in filter(None, texts):
        warnings.warn(text, stacklevel=3)


@lru_cache(maxsize=3)
def _network(load: Callable[[Weights, Compute, Any], Any], weights: Weights, settings: Any, device: DeviceName) -> Any:
    """The network that ``load`` creates from weights; it is kept for the next call with the same weights."""
    return load(weights, choose_compute(device), settings)
