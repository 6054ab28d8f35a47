"""Evaluates a tissue network on annotated tiles: confusion, calibration, borders, and scores of each tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import IGNORED, TISSUE_LABELS, ClassMap
from dermatome.geometry import Size
from dermatome.imaging.tiling import RowEnlarger
from dermatome.inference.int8 import Judge, same_class
from dermatome.inference.predictor import Predictor, Scene
from dermatome.metrics.semantic import ClassScore, Confusion, class_scores, confusion_matrix, mean_score
from dermatome.skin.tiles.crops import TilePair, load_tiles
from dermatome.slides.resize import resize_image
from dermatome.storage.record import Check

if TYPE_CHECKING:
    import torch

    from dermatome.inference.backends import Runner
    from dermatome.inference.compute import Compute
    from dermatome.skin.tissue.network import TissueCard

Rows = npt.NDArray[np.float32]
ProbabilityRows = Callable[[TilePair, Callable[[int, Rows], None]], None]
"""Calls a sink with the first row and (C, rows, W) probabilities of a tile at its full resolution, from the top."""

CALIBRATION_BINS = 15
BOUNDARY_UM = 8.0
"""Distance within which borders count as found, µm: four pixels of the network's default resolution."""
MOST_IOU_LOST = 0.003
"""Largest allowed loss of a class's IoU by a network in int8."""
_PICTURE_PX = 320


@dataclass(frozen=True)
class TileResult:
    """Scores of one tile, and its masks reduced for a figure.

    Attributes:
        tile: the tile.
        mean_iou: mean IoU over the classes in ground truth or prediction.
        accuracy: share of correct pixels.
        confidence: mean probability of the predicted class.
        iou: IoU of each class, in order; None if neither ground truth nor prediction has the class.
        truth: (h, w) uint8 ground truth, at most 320 px per side; :data:`IGNORED` for unknown pixels.
        predicted: (h, w) uint8 prediction, of the same size.
    """

    tile: TilePair
    mean_iou: float | None
    accuracy: float
    confidence: float
    iou: tuple[float | None, ...]
    truth: ClassMap
    predicted: ClassMap


@dataclass(frozen=True)
class Calibration:
    """Pixels by the probability of their predicted class: at 0.8, four in five pixels should be correct.

    Attributes:
        pixels: (B,) int64 number of pixels in bins of equal width from 0 to 1.
        confidence: (B,) float64 sum of the predicted classes' probabilities.
        right: (B,) int64 number of correct pixels.
    """

    pixels: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    right: npt.NDArray[np.int64]

    @property
    def error(self) -> float | None:
        """Expected calibration error (Naeini et al., 2015): mean difference of accuracy and confidence."""
        total = int(self.pixels.sum())
        return float(np.abs(self.right - self.confidence).sum() / total) if total else None


@dataclass(frozen=True)
class Evaluation:
    """Results of a network on tiles.

    Attributes:
        confusion: (C, C) int64, ground truth in rows, at the tiles' full resolution.
        calibration: calibration over all pixels.
        boundary_f1: by class: share of border pixels within 8 µm of one in the other mask, in both directions (the
            boundary F1 of Csurka et al., 2013, over all tiles together); None if a class has no border.
        tiles: result of each tile.
    """

    confusion: Confusion
    calibration: Calibration
    boundary_f1: tuple[float | None, ...]
    tiles: list[TileResult] = field(default_factory=list)

    @property
    def scores(self) -> list[ClassScore]:
        """Scores of each class."""
        return class_scores(self.confusion, TISSUE_LABELS)


def tile_probabilities(
    network: torch.nn.Module,
    compute: Compute,
    mean: Sequence[float],
    std: Sequence[float],
    mpp: float,
    network_mpp: float,
    *,
    tile_px: int,
    batch: int,
) -> ProbabilityRows:
    """Prepares a network in evaluation mode; see :func:`runner_probabilities`.

    ``mean`` and ``std`` are those of the normalisation, on the scale 0 to 1.
    """
    from dermatome.inference.backends import TorchRunner
    from dermatome.inference.probabilities import Probabilities

    module = Probabilities(network, mean, std).eval().to(compute.torch_device)
    return runner_probabilities(TorchRunner(module, compute), mpp, network_mpp, tile_px=tile_px, batch=batch)


def runner_probabilities(
    runner: Runner, mpp: float, network_mpp: float, *, tile_px: int, batch: int
) -> ProbabilityRows:
    """Runs a prepared network on complete training tiles as on slides: overlapping tiles, blended and enlarged.

    ``mpp`` is used for tiles that state none; ``tile_px``, a multiple of 32, is the side of the network's input.
    """
    predictor = Predictor(runner, len(TISSUE_LABELS), tile_px=tile_px, overlap_px=tile_px // 4, batch=batch)

    def run(tile: TilePair, sink: Callable[[int, Rows], None]) -> None:
        image, _ = tile.read()
        target = Size(*image.shape[:2])
        size = target.scaled((tile.mpp or mpp) / network_mpp)
        pixels = resize_image(image, size)
        predictor.run([Scene(size, lambda: [pixels], RowEnlarger(size, target, sink))])

    return run


def tissue_judge(card: TissueCard, hold_out: Sequence[Path], mpp: float) -> Judge:
    """A judge that checks that a network gives the same tissue in int8: the classes of nearly all pixels, and IoUs.

    IoUs are measured on the tiles in the folders ``hold_out``, if there are any; ``mpp`` is used if they state none.
    """

    def judge(fp32: Runner, int8: Runner, tiles: Sequence[npt.NDArray[Any]]) -> list[Check]:
        checks = list(same_class([len(TISSUE_LABELS)])(fp32, int8, tiles))
        if not hold_out:
            return checks
        run = (runner_probabilities(runner, mpp, card.mpp, tile_px=card.tile_px, batch=8) for runner in (fp32, int8))
        scores = [class_scores(confusion_on_tiles(load_tiles(*hold_out), one), TISSUE_LABELS) for one in run]
        drops = {one.label: (one.iou or 0.0) - (other.iou or 0.0) for one, other in zip(*scores, strict=True)}
        worst = max(drops, key=lambda label: drops[label])
        text = f"On the hold-out set the IoU of {worst} is lower by {drops[worst]:.4f} (at most {MOST_IOU_LOST})."
        return [*checks, Check("hold_out_iou", drops[worst] <= MOST_IOU_LOST, text, dict(drops))]

    return judge


def confusion_on_tiles(tiles: Sequence[TilePair], probabilities: ProbabilityRows) -> Confusion:
    """(C, C) int64 confusion of the most probable classes on ``tiles``, ground truth in rows."""
    found = (_predicted(tile, probabilities) for tile in tiles)
    total: Confusion = np.zeros((len(TISSUE_LABELS),) * 2, dtype=np.int64)
    return sum((_confusion(truth, predicted) for truth, predicted, _ in found), total)


def _confusion(truth: ClassMap, predicted: ClassMap) -> Confusion:
    known = truth != IGNORED
    return confusion_matrix(truth[known], predicted[known], len(TISSUE_LABELS))


def _predicted(tile: TilePair, probabilities: ProbabilityRows) -> tuple[ClassMap, ClassMap, Rows]:
    """Ground truth, most probable class, and its probability, (H, W) each."""
    truth = tile.read()[1]
    predicted, sure = np.empty_like(truth), np.empty(truth.shape, dtype=np.float32)

    def keep(top: int, rows: Rows) -> None:
        here = slice(top, top + rows.shape[1])
        predicted[here], sure[here] = rows.argmax(axis=0), rows.max(axis=0)

    probabilities(tile, keep)
    return truth, predicted, sure


def evaluate(tiles: Sequence[TilePair], probabilities: ProbabilityRows, mpp: float) -> Evaluation:
    """Evaluates the most probable classes on ``tiles``, without ignored pixels.

    ``mpp`` is used for tiles that state none.

    Raises:
        BadImage, BadAnnotation: a tile cannot be read, or its mask does not fit.
    """
    classes = len(TISSUE_LABELS)
    total: Confusion = np.zeros((classes, classes), dtype=np.int64)
    bins = np.zeros((3, CALIBRATION_BINS))
    borders = np.zeros((4, classes), dtype=np.int64)
    results = []
    for tile in tiles:
        truth, predicted, sure = _predicted(tile, probabilities)
        known, own = truth != IGNORED, _confusion(truth, predicted)
        total += own
        bins += _binned(sure[known], (predicted == truth)[known])
        predicted[~known] = IGNORED
        borders += _borders(truth, predicted, BOUNDARY_UM / (tile.mpp or mpp))
        scores = class_scores(own, TISSUE_LABELS)
        results.append(
            TileResult(
                tile=tile,
                mean_iou=mean_score(scores, "iou"),
                accuracy=float(own.trace() / own.sum()),
                confidence=float(sure[known].mean(dtype=np.float64)),
                iou=tuple(score.iou for score in scores),
                truth=_small(truth),
                predicted=_small(predicted),
            )
        )
    calibration = Calibration(bins[0].astype(np.int64), bins[1], bins[2].astype(np.int64))
    return Evaluation(total, calibration, tuple(_f1(*column) for column in borders.T.tolist()), results)


def _binned(sure: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """(3, B): number of pixels, sum of confidence, and number of correct pixels."""
    place = np.minimum((sure * CALIBRATION_BINS).astype(np.intp), CALIBRATION_BINS - 1).ravel()
    counts = [np.bincount(place, weights, CALIBRATION_BINS) for weights in (None, sure.ravel(), right.ravel())]
    return np.stack(counts).astype(np.float64)


def _borders(truth: ClassMap, predicted: ClassMap, reach_px: float) -> npt.NDArray[np.int64]:
    """(4, C) border pixels: predicted, predicted near a true one, true, and true near a predicted one."""
    import cv2

    def near(border: ClassMap, other: ClassMap) -> tuple[int, int]:
        count = int(np.count_nonzero(border))
        if not count or not other.any():
            return count, 0
        distance: Any = cv2.distanceTransform(1 - other, cv2.DIST_L2, 5)
        return count, int(np.count_nonzero(distance[border > 0] <= reach_px))

    columns = []
    for index in range(len(TISSUE_LABELS)):
        found, true = (_border((mask == index).astype(np.uint8)) for mask in (predicted, truth))
        columns.append([*near(found, true), *near(true, found)])
    return np.array(columns, dtype=np.int64).T


def _border(inside: ClassMap) -> ClassMap:
    """1 on the pixels of a class that touch another one; the edge of the tile is not a border."""
    import cv2

    padded = cv2.copyMakeBorder(inside, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    border: ClassMap = inside - cv2.erode(padded, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
    return border


def _f1(found: int, found_right: int, true: int, true_found: int) -> float | None:
    if not found and not true:
        return None
    precision, recall = found_right / found if found else 0.0, true_found / true if true else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _small(mask: ClassMap) -> ClassMap:
    step = max(1, -(-max(mask.shape) // _PICTURE_PX))
    return np.ascontiguousarray(mask[step // 2 :: step, step // 2 :: step])
