"""How large cells are, by Cellpose's size model, estimated once for each slide."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from dermatome.geometry import Box
from dermatome.skin.cells.blocks import Dynamics, cells_by_block
from dermatome.skin.cells.cyto2 import SizeModel
from dermatome.skin.cells.flows import CellFlows
from dermatome.skin.cells.image import CellImage

_WHOLE_PX = 1_000_000
_PATCHES = 4


def estimate_diameter(
    image: CellImage,
    size_model: SizeModel,
    diameter_px: float,
    flows_in: Callable[[Box, float], CellFlows],
    dynamics_at: Callable[[float], Dynamics],
    bounds_px: tuple[float, float],
) -> float:
    """Cellpose's two steps: a first guess from the style at full size, then the median of the cells at that guess.

    ``cellpose.models.SizeModel.eval`` takes them over the whole image, which costs as much as segmenting it twice
    more. Here they are taken over all of a region of up to a megapixel, and over four patches of about half a
    millimetre squared each (at 0.5 mpp: 512 px a side), evenly chosen among those with much epidermis, of a larger one:
    a style is a mean, and a median of a few hundred cells is as good as one of ten thousand.

    Args:
        image: of the slide, with epidermis.
        size_model: of the network.
        diameter_px: at which the network is first run.
        flows_in: the network's flows in a box, at a diameter.
        dynamics_at: the dynamics at a diameter.
        bounds_px: the smallest and the largest diameter that is believed: of an image with little on it, the model
            may return anything, and the cost of cells grows with their square.

    Returns:
        The diameter, px; the first guess where no cell is found.
    """
    region = image.region
    boxes = [region] if region is not None and region.size.area_px <= _WHOLE_PX else image.full_patches(_PATCHES)
    styles = [total for box in boxes if (total := _style(flows_in(box, diameter_px))) is not None]
    if not styles:
        return diameter_px
    style = np.sum(styles, axis=0)
    guess = float(np.clip(size_model.diameter((style / np.linalg.norm(style)).astype(np.float32)), *bounds_px))
    how = dynamics_at(guess)
    areas = [
        np.bincount(pixels.owners)
        for box in boxes
        for pixels, _ in cells_by_block(flows_in(box, guess), box, image.may_be_near, how)
        if pixels.count
    ]
    if not areas:
        return guess
    return float(np.clip(np.median(np.sqrt(4 * np.concatenate(areas) / np.pi)), *bounds_px))


def _style(flows: CellFlows) -> npt.NDArray[np.float64] | None:
    for _ in flows.run():
        pass
    return flows.style_sum
