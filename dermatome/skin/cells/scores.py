"""Evaluates cell networks on annotated images: average precision by IoU for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import TissueClass
from dermatome.metrics.instances import match_instances
from dermatome.skin.cells.annotations import AnnotatedCells
from dermatome.skin.cells.flows import Dynamics
from dermatome.skin.cells.network import CellNetwork, cell_runner
from dermatome.skin.cells.segment import segment_cells
from dermatome.skin.cells.settings import CellSettings
from dermatome.storage.record import Check

if TYPE_CHECKING:
    import torch

    from dermatome.inference.backends import Runner
    from dermatome.inference.compute import Compute
    from dermatome.inference.int8 import Judge

IOUS = (0.5, 0.75, 0.9)
LEAST_CELL_F1 = 0.98
"""Minimum F1 between the cells of a network in int8 and in fp32."""
LEAST_CELLS = 300
"""Minimum number of cells for this check: with 111 cells F1 was 0.982, and 0.971 at the next place of the same core."""
CURVE_IOUS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))


@dataclass(frozen=True)
class CellScores:
    """The cells that a network finds in one annotated image.

    Attributes:
        image: the image.
        precision: average precision at each IoU of :data:`CURVE_IOUS`; None if ground truth and prediction are empty.
        truth_count: number of annotated cells.
        found_count: number of found cells.
        found: (H, W) int32 instances, the found cells.
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
    """Finds the cells of each image as in segmentation, with all pixels as epidermis, and scores them.

    ``network`` is Cellpose's ``CPnet`` on the device, for cells of the diameter ``diameter_px``; it is put into
    evaluation mode. ``cells`` must have a diameter.

    Raises:
        BadImage, BadAnnotation: an image or its file of cells cannot be used.
        BadSetting: cells would have to be scaled by a factor above 10.
    """
    if not images:
        return []
    runner = cell_runner(network.eval, replace(compute, backend="torch"))
    ready = CellNetwork("scored", "", diameter_px, cells.diameter_um, runner, compute)
    scores = []
    for image in images:
        slide, truth = image.read()
        everywhere = np.full(truth.shape, TissueClass.EPIDERMIS, dtype=np.uint8)
        found = segment_cells(slide, everywhere, ready, cells).instances.whole()
        matches = match_instances(truth, found)
        precision = {iou: match_instances(truth, found, iou).average_precision for iou in CURVE_IOUS}
        scores.append(CellScores(image, precision, matches.truth_count, matches.predicted_count, found))
    return scores


def same_cells(diameter_px: float, cells: CellSettings) -> Judge:
    """A judge that checks that a network for cells of ``diameter_px`` finds the same cells in int8 as in fp32."""
    from dermatome.skin.cells.dynamics import cells_of_window

    least_px = round(0.05 * diameter_px**2)  # smaller objects are not cells at any scale
    how = Dynamics(diameter_px, 200, cells.flow_threshold, cells.cellprob_threshold, least_px)

    def cells_in(runner: Runner, tiles: npt.NDArray[Any]) -> list[npt.NDArray[np.int32]]:
        return [cells_of_window(output[:2], output[2], how)[0] for output in runner.run(tiles)[0]]

    def judge(fp32: Runner, int8: Runner, tiles: Sequence[npt.NDArray[Any]]) -> list[Check]:
        matched, total = 0, 0
        for batch in tiles:
            for one, other in zip(cells_in(fp32, batch), cells_in(int8, batch), strict=True):
                matches = match_instances(one, other, 0.7)
                matched += 2 * len(matches.ious)
                total += matches.truth_count + matches.predicted_count
        f1 = matched / total if total else 0.0
        text = (
            f"F1 of cells at IoU 0.7 with fp32 is {f1:.4f} (at least {LEAST_CELL_F1}), of {total // 2} cells a side "
            f"(at least {LEAST_CELLS})."
        )
        passed = f1 >= LEAST_CELL_F1 and total / 2 >= LEAST_CELLS
        return [Check("same_cells", passed, text, {"f1": f1, "cells": total / 2})]

    return judge


def mean_precision(scores: Sequence[CellScores], ious: Sequence[float] = IOUS) -> dict[str, float | None]:
    """Average precision at each IoU, as the mean over images like in Cellpose: ``ap_50``, ``ap_75``, ``ap_90``."""
    means: dict[str, float | None] = {}
    for iou in ious:
        known = [value for score in scores if (value := score.precision[iou]) is not None]
        means[f"ap_{round(100 * iou)}"] = float(np.mean(known)) if known else None
    return means
