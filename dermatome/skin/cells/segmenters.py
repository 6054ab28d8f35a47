"""Other ways to find cells than Cellpose's: a method gives the instances of a window, and the seams are handled here.

A :class:`~dermatome.inference.segmenter.Segmenter` is a network or an algorithm. Windows overlap by twice its
``halo_um``, and a window keeps the objects whose centre lies in its core, so that no seam cuts a cell and none is found
twice. What follows, which cells count as epidermis, numbers, table, checks and files, is the same for every method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dermatome.classes import Instances
from dermatome.errors import BadSetting
from dermatome.geometry import Box
from dermatome.inference.segmenter import Segmenter
from dermatome.skin.cells.blocks import CellPixels
from dermatome.skin.cells.image import CellImage

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute

METHODS = {
    "instanseg": "dermatome.skin.cells.instanseg",
    "nuclei": "dermatome.nuclei.maps.window",
    "watershed": "dermatome.skin.cells.watershed",
}
"""The module of each method; its function ``load(path, compute)`` gives the segmenter."""
INSTANSEG = "instanseg_brightfield_nuclei"
CORE_PX = 1024
"""Side of the part of a window that is kept."""


def segmenter_file(models: Path, named: str, method: str) -> Path:
    """The file of a method's network: the one that was taken over into ``models``, or the one at the path ``named``.

    Raises:
        BadSetting: the method needs a network, and none is named.
    """
    if method == "watershed":
        return models
    if method == "instanseg":
        return models / f"{INSTANSEG}.pt" if named in ("", "cyto2", INSTANSEG) else Path(named)
    if named == "toy":
        return Path(__file__).parents[2] / "synthetic" / "nuclei_toy.safetensors"
    if named in ("", "cyto2"):
        raise BadSetting(
            "Cells are to be found by a network of nuclei, and none is named: set cell_weights to a weights file of "
            "'nuclei train'."
        )
    return Path(named)


def load_segmenter(path: Path, compute: Compute, method: str) -> Segmenter:
    """The method with its network from ``path``, on the device.

    Raises:
        BadWeights: the file is missing, damaged or no network of that method.
    """
    segmenter: Segmenter = import_module(METHODS[method]).load(path, compute)
    return segmenter


def cells_by_window(
    segment: Callable[[Box], Instances],
    image: CellImage,
    region: Box,
    *,
    halo_px: int,
    min_area_px: int,
    say: Callable[[str], None],
) -> Iterator[tuple[CellPixels, int]]:
    """Finds the cells of a region, row of windows by row of windows.

    Yields:
        The cells of a window, and the row of the slide above which no later window has a cell's pixel.
    """
    whole = Box.whole(image.size)
    for top in range(region.top_px, region.bottom_px, CORE_PX):
        bottom = min(top + CORE_PX, region.bottom_px)
        for left in range(region.left_px, region.right_px, CORE_PX):
            core = Box(top, left, bottom, min(left + CORE_PX, region.right_px))
            window = core.padded(halo_px).common(whole)
            if image.may_be_near(window):
                say(f"window at row {top}, column {left}")
                yield _owned(segment(window), window, core, min_area_px), top - halo_px
        image.forget_above(bottom - halo_px)


def seams(region: Box) -> list[list[float]]:
    """Rows, and columns, of the slide where windows of :func:`cells_by_window` meet."""
    sides = ((region.top_px, region.bottom_px), (region.left_px, region.right_px))
    return [[float(at) for at in range(first + CORE_PX, last, CORE_PX)] for first, last in sides]


def _owned(labels: Instances, window: Box, core: Box, min_area_px: int) -> CellPixels:
    """The objects whose centre lies in the core."""
    rows, columns = np.nonzero(labels)
    _, numbers = np.unique(labels[rows, columns], return_inverse=True)
    area = np.bincount(numbers)
    y, x = (np.bincount(numbers, places) / area for places in (rows, columns))
    numbered = np.zeros(labels.shape, np.int32)
    numbered[rows, columns] = numbers + 1
    return CellPixels.owned(numbered, y, x, window, core, area >= min_area_px)
