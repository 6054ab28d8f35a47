"""Training data of a cell network: hematoxylin of annotated images, flows of their cells, random crops of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dermatome.classes import Floats, RgbImage
from dermatome.imaging.augmentation import positions
from dermatome.imaging.resampling import Scaling
from dermatome.skin.cells.image import cell_image_of


@dataclass(frozen=True)
class PreparedCells:
    """One annotated image at the network's scale.

    Attributes:
        shown: (H, W) float32, hematoxylin prepared as input of the network.
        truth: (3, H, W) float16, ground truth: 1 inside cells, and the unit flow down and right; 0 outside.
    """

    shown: Floats
    truth: npt.NDArray[np.float16]


def prepare_cells(
    rgb: RgbImage,
    tissue: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.int32],
    mpp: float,
    scale: float,
    margin_um: float,
) -> PreparedCells:
    """Prepares an annotated image exactly as in segmentation, and computes the flows of its cells.

    ``scale`` is the number of network pixels per image pixel.
    """
    image = cell_image_of(rgb, tissue, mpp, margin_um)
    region = image.region
    assert region is not None, "an annotated image shows tissue"
    shown, cells = image.network_input(region), labels[region.slices] * image.near(region)
    down, along = (Scaling(side, max(1, round(side * scale))) for side in (region.size.height_px, region.size.width_px))
    # The same averaging as in `dermatome.skin.cells.flows`.
    scaled = down.weights(0, down.target_px) @ shown @ along.weights(0, along.target_px).T
    rows, columns = (
        ((np.arange(axis.target_px) + 0.5) * axis.source_px / axis.target_px).astype(np.intp) for axis in (down, along)
    )
    return PreparedCells(scaled.astype(np.float32), flow_targets(cells[np.ix_(rows, columns)]))


def flow_targets(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.float16]:
    """(3, H, W): 1 inside cells, and the unit flow down and right, by ``cellpose.dynamics.labels_to_flows``."""
    import torch
    from cellpose.dynamics import labels_to_flows

    if not labels.any():
        return np.zeros((3, *labels.shape), np.float16)
    flows: Floats = labels_to_flows([labels.copy()], device=torch.device("cpu"))[0]
    return np.asarray(flows[1:], dtype=np.float16)


def random_crop(
    image: PreparedCells, side_px: int, rng: np.random.Generator, *, zoom: float, gain: float, noise: float
) -> tuple[Floats, Floats]:
    """A square crop at a random place, rotated, mirrored and zoomed; 0 beyond the image.

    The scale is drawn between 1 / (1 + ``zoom``) and 1 + ``zoom``; ``gain`` is the largest relative change of
    brightness, ``noise`` the standard deviation of pixel noise, on a scale on which the bright end of nuclei is about
    1.

    Returns:
        (side, side) float32 hematoxylin and (3, side, side) float32 ground truth, whose flows rotate with the crop.
    """
    import cv2

    step = float(np.exp(rng.uniform(-1, 1) * np.log1p(zoom)))
    rows, columns = positions(image.shown.shape, side_px, step, 0.0, rng)
    top, bottom = int(max(0, rows.min() - 1)), int(rows.max() + 3)
    left, right = int(max(0, columns.min() - 1)), int(columns.max() + 3)
    rows, columns = rows - np.float32(top), columns - np.float32(left)

    def at(values: Floats) -> Floats:
        return np.asarray(cv2.remap(values, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))

    here = (slice(top, bottom), slice(left, right))
    shown = at(image.shown[here])
    inside, flow_down, flow_right = (at(part[here].astype(np.float32)) for part in image.truth)
    # Directions of the crop's axes on the image.
    down = np.array([rows[1, 0] - rows[0, 0], columns[1, 0] - columns[0, 0]]) / step
    along = np.array([rows[0, 1] - rows[0, 0], columns[0, 1] - columns[0, 0]]) / step
    cell = (inside > 0.5).astype(np.float32)
    truth = np.stack([
        cell,
        (down[0] * flow_down + down[1] * flow_right) * cell,
        (along[0] * flow_down + along[1] * flow_right) * cell,
    ])  # fmt: skip
    factor = np.float32(1 + rng.uniform(-1, 1) * gain)
    added = rng.standard_normal(shown.shape, dtype=np.float32) * np.float32(noise)
    return np.where(shown != 0, shown * factor + added, 0).astype(np.float32), truth.astype(np.float32)
