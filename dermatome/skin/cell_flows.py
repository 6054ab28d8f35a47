"""A Cellpose network over a region of any size, and its flows turned into cells over the whole region at once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from dermatome.errors import BadSetting
from dermatome.skin.cell_network import CellNetwork

if TYPE_CHECKING:
    from collections.abc import Callable

Floats = npt.NDArray[np.float32]

TILE_PX = 224  # what Cellpose's networks are trained and run at
_EMPTY_LOGIT = -20.0
_PAD_TO_PX = 16


@dataclass(frozen=True)
class Flows:
    """What a network says of a region.

    Attributes:
        flow: (2, H, W) float32, down and right, towards the middle of a cell, five times a unit vector at most.
        cell_logits: (H, W) float32, above 0 inside cells.
        style: (S,) float32, the region's style, of length 1.
        seam_rows_px: rows in the middle of two tiles' overlap.
        seam_columns_px: columns likewise.
    """

    flow: Floats
    cell_logits: Floats
    style: Floats
    seam_rows_px: tuple[float, ...]
    seam_columns_px: tuple[float, ...]


def network_flows(
    network: CellNetwork,
    image: Floats,
    near: npt.NDArray[np.bool_],
    diameter_px: float,
    *,
    batch: int = 8,
    tile_overlap: float = 0.2,
    on_tile: Callable[[int, int], None] | None = None,
) -> Flows:
    """Runs the network over a region in overlapping tiles and blends them with Cellpose's taper.

    The region is scaled so that cells measure what the network was trained on, and flows are scaled back, so that
    dynamics run at full resolution (Cellpose's ``resample``). Tiles without a pixel of ``near`` are not run.

    Args:
        network: from :func:`dermatome.skin.cell_network.load_cell_network`.
        image: (H, W) float32, about 0 to 1.
        near: (H, W) bool, where cells may be.
        diameter_px: of the cells in ``image``.
        batch: tiles at once.
        tile_overlap: share of a tile, 0.05 to 0.5; Cellpose's meaning (tiles are counted as if a side grew by twice
            that share).
        on_tile: told tiles done and tiles in all.

    Raises:
        BadSetting: cells of this diameter would have to be scaled by more than 10.
    """
    import torch
    from cellpose.transforms import _taper_mask

    scale = network.diameter_px / diameter_px if diameter_px > 0 else 0.0
    if not 0.1 <= scale <= 10:
        raise BadSetting(
            f"A cell diameter of {diameter_px:.1f} px cannot be scaled to the network's {network.diameter_px:.1f} px: "
            "check the diameter and the mpp."
        )
    height, width = image.shape
    rows, columns = (max(1, round(side * scale)) for side in (height, width))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = image if scale == 1 else cv2.resize(image, (columns, rows), interpolation=how)
    seen = near if scale == 1 else cv2.resize(near.astype(np.uint8), (columns, rows), interpolation=cv2.INTER_AREA) > 0
    # Zeros around, as Cellpose pads: a multiple of 16 for its three halvings, and 8 px so that no cell meets the edge.
    half, grown = _PAD_TO_PX // 2, [-(-side // _PAD_TO_PX) * _PAD_TO_PX + _PAD_TO_PX for side in (rows, columns)]
    pads = ((half, grown[0] - rows - half), (half, grown[1] - columns - half))
    small, seen = np.pad(small, pads), np.pad(seen, pads)
    tile = tuple(min(TILE_PX, side) for side in grown)
    starts = [_starts(side, tile_overlap) for side in grown]
    places = [(y, x) for y in starts[0] for x in starts[1] if seen[y : y + tile[0], x : x + tile[1]].any()]

    total, weight = np.zeros((3, *grown), dtype=np.float32), np.zeros(tuple(grown), dtype=np.float32)
    taper = _taper_mask(ly=tile[0], lx=tile[1]).astype(np.float32)
    style: npt.NDArray[np.float64] | None = None
    device = network.compute.torch_device
    for first in range(0, len(places), batch):
        chosen = places[first : first + batch]
        stack = np.zeros((len(chosen), 2, *tile), dtype=np.float32)
        for k, (y, x) in enumerate(chosen):
            stack[k, 0] = small[y : y + tile[0], x : x + tile[1]]
        tensor = torch.from_numpy(stack).to(device).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), network.compute.autocast():
            out, styles = network.model(tensor)[:2]
        outputs, batch_style = out.float().cpu().numpy(), styles.double().cpu().numpy().sum(axis=0)
        style = batch_style if style is None else style + batch_style
        for output, (y, x) in zip(outputs, chosen, strict=True):
            total[:, y : y + tile[0], x : x + tile[1]] += output * taper
            weight[y : y + tile[0], x : x + tile[1]] += taper
        if on_tile is not None:
            on_tile(min(first + batch, len(places)), len(places))
    run = weight > 0
    np.divide(total, weight, out=total, where=run)
    total[2][~run] = _EMPTY_LOGIT
    inner = total[:, half : half + rows, half : half + columns]
    if scale != 1:
        inner = np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in inner])
    style = np.zeros(1) if style is None else style / max(float(np.linalg.norm(style)), 1e-12)
    seams = [
        tuple((b + (a + size - b) / 2 - half) / scale for a, b in pairwise(at))
        for at, size in zip(starts, tile, strict=True)
    ]
    return Flows(np.ascontiguousarray(inner[:2]), inner[2], style.astype(np.float32), seams[0], seams[1])


def _starts(side_px: int, tile_overlap: float) -> list[int]:
    """Where tiles begin along a side, as ``cellpose.transforms.make_tiles`` lays them."""
    overlap = min(0.5, max(0.05, tile_overlap))
    if side_px <= TILE_PX:
        return [0]
    count = int(np.ceil((1 + 2 * overlap) * side_px / TILE_PX))
    return [int(start) for start in np.linspace(0, side_px - TILE_PX, count)]


def flows_to_cells(
    network: CellNetwork,
    flows: Flows,
    diameter_px: float,
    *,
    flow_threshold: float,
    cellprob_threshold: float,
    min_area_px: int,
) -> npt.NDArray[np.int32]:
    """Follows the flows to the cells they lead to, with Cellpose's dynamics over the whole region: no seams.

    Args:
        network: whose flows they are; says the scale and the device.
        flows: of the region.
        diameter_px: the diameter the flows were made for.
        flow_threshold: cells whose flows differ more than this from those of their shape are dropped; 0 keeps all.
        cellprob_threshold: logit above which a pixel belongs to a cell.
        min_area_px: smaller cells are dropped; holes are filled.

    Returns:
        (H, W) int32, 0 or the cell's number.
    """
    import torch
    from cellpose.dynamics import compute_masks

    # Cellpose takes 200 steps at the network's scale; at full resolution a cell is crossed in as many more.
    steps = max(20, round(200 * diameter_px / network.diameter_px))
    # Said aloud, since torch warns where nobody has chosen; Cellpose clamps its points itself.
    with torch.sparse.check_sparse_tensor_invariants(False):  # type: ignore[no-untyped-call]
        labels = compute_masks(
            flows.flow,
            flows.cell_logits,
            p=None,
            niter=steps,
            cellprob_threshold=cellprob_threshold,
            flow_threshold=flow_threshold,
            interp=True,
            do_3D=False,
            min_size=min_area_px,
            max_size_fraction=1.0,
            device=network.compute.torch_device,
        )
    return np.asarray(labels, dtype=np.int32)
