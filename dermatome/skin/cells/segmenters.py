"""Other ways to find cells than Cellpose's: a method gives the instances of a window, and the seams are handled here.

A :class:`Segmenter` is a network or an algorithm. For a slide it makes a function from a box to the instances in it.
Windows overlap by twice :attr:`Segmenter.halo_um`, and a window keeps the objects whose centre lies in its core, so
that no seam cuts a cell and none is found twice. What follows, which cells count as epidermis, numbers, table, checks
and files, is the same for every method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from dermatome.classes import Instances
from dermatome.errors import BadSetting
from dermatome.geometry import Box
from dermatome.skin.cells.blocks import CellPixels
from dermatome.skin.cells.image import CellImage

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute

METHODS = {
    "instanseg": "dermatome.skin.cells.instanseg",
    "nuclei": "dermatome.nuclei.maps.window",
    "watershed": "dermatome.skin.cells.watershed",
}
"""The module of each method; its function ``load(path, compute)`` gives the :class:`Segmenter`."""
INSTANSEG = "instanseg_brightfield_nuclei"
CORE_PX = 1024
"""Side of the part of a window that is kept."""


class Segmenter(Protocol):
    """What finds cells in windows of a slide.

    Attributes:
        name: of the weights, or of the method if it has none.
        sha256: of the weights file, or of what defines the method.
        licence: of the weights.
        warning: what every result must say of it; empty if nothing.
        device_name: where it runs.
        backend: what runs it.
        precision: number format of its network; empty without one.
        halo_um: how far a window looks beyond its core, µm: more than a cell is wide.
    """

    name: str
    sha256: str
    licence: str
    warning: str
    device_name: str
    backend: str
    precision: str
    halo_um: float

    def on(self, image: CellImage, mpp: float) -> Callable[[Box], Instances]:
        """The method on one slide.

        Args:
            image: the slide: ``read_rgb(box)`` gives its pixels, ``network_input(box)`` its hematoxylin, 0 to 1.
            mpp: microns per pixel.

        Returns:
            A function that gives the instances in a box, (h, w) int32, 0 background. The instances far from the box's
            edges must not depend on where the edges are.
        """
        ...


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
    found: Segmenter = import_module(METHODS[method]).load(path, compute)
    return found


def cells_by_window(
    segment: Callable[[Box], Instances], image: CellImage, region: Box, *, halo_px: int, min_area_px: int
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
                yield _owned(segment(window), window, core, min_area_px), top - halo_px
        image.forget_above(bottom - halo_px)


def seams(region: Box) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Rows and columns of the slide where windows of :func:`cells_by_window` meet."""
    rows = range(region.top_px + CORE_PX, region.bottom_px, CORE_PX)
    return tuple(map(float, rows)), tuple(map(float, range(region.left_px + CORE_PX, region.right_px, CORE_PX)))


def _owned(labels: npt.NDArray[np.int32], window: Box, core: Box, min_area_px: int) -> CellPixels:
    """The objects whose centre lies in the core, in reading order of their pixels."""
    rows, columns = np.nonzero(labels)
    _, owners = np.unique(labels[rows, columns], return_inverse=True)
    area = np.maximum(np.bincount(owners), 1)
    y = np.bincount(owners, rows) / area + window.top_px
    x = np.bincount(owners, columns) / area + window.left_px
    mine = (y >= core.top_px) & (y < core.bottom_px) & (x >= core.left_px) & (x < core.right_px)
    mine &= area >= min_area_px
    number = np.where(mine, np.cumsum(mine) - 1, -1)
    owners = number[owners]
    own = owners >= 0
    return CellPixels(
        rows[own] + window.top_px, columns[own] + window.left_px, owners[own], int(np.count_nonzero(mine))
    )
