"""A cell network held against images whose cells are known: average precision by IoU, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dermatome.classes import TissueClass
from dermatome.metrics.instances import average_precisions, match_instances
from dermatome.skin.cells.annotations import AnnotatedCells
from dermatome.skin.cells.network import CellNetwork, cell_runner
from dermatome.skin.cells.segment import segment_cells
from dermatome.skin.cells.settings import CellSettings

if TYPE_CHECKING:
    import torch

    from dermatome.inference.compute import Compute

IOUS = (0.5, 0.75, 0.9)
CURVE_IOUS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))


@dataclass(frozen=True)
class CellScores:
    """What a network finds in one annotated image.

    Attributes:
        image: which.
        precision: average precision at each IoU of :data:`CURVE_IOUS`; ``None`` where truth and prediction are empty.
        truth_count: annotated cells.
        found_count: cells found.
        found: (H, W) int32, the cells found.
    """

    image: AnnotatedCells
    precision: dict[float, float | None]
    truth_count: int
    found_count: int
    found: npt.NDArray[np.int32]


def score_cells(
    images: Sequence[AnnotatedCells],
    network: torch.nn.Module,
    diameter_px: float,
    cells: CellSettings,
    compute: Compute,
) -> list[CellScores]:
    """Finds the cells of each image as segmentation does, everything counting as epidermis, and scores them.

    Args:
        images: with their truth.
        network: Cellpose's ``CPnet``, on the device; it is put into evaluation mode.
        diameter_px: what a cell measures where the network sees it.
        cells: of the segmentation; with a diameter.
        compute: device and precision.

    Raises:
        BadImage: an image cannot be read.
        BadAnnotation: a file of cells does not fit.
        BadSetting: cells would have to be scaled by more than 10.
    """
    if not images:
        return []
    runner = cell_runner(network.eval(), replace(compute, backend="torch"))
    ready = CellNetwork("scored", "", diameter_px, cells.diameter_um, runner, compute)
    scores = []
    for image in images:
        slide, truth = image.read()
        everywhere = np.full(truth.shape, TissueClass.EPIDERMIS, dtype=np.uint8)
        found = segment_cells(slide, everywhere, ready, cells).instances.whole()
        matches = match_instances(truth, found)
        precision = average_precisions(truth, found, CURVE_IOUS)
        scores.append(CellScores(image, precision, matches.truth_count, matches.predicted_count, found))
    return scores


def mean_precision(scores: Sequence[CellScores], ious: Sequence[float] = IOUS) -> dict[str, float | None]:
    """Average precision at each IoU, the mean over images, as Cellpose reports it: ``ap_50``, ``ap_75``, ``ap_90``."""
    means: dict[str, float | None] = {}
    for iou in ious:
        known = [value for score in scores if (value := score.precision[iou]) is not None]
        means[f"ap_{round(100 * iou)}"] = float(np.mean(known)) if known else None
    return means
