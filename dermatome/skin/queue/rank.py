"""Ranks regions by how much a tissue network would learn from them: by disagreement of its views and novelty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import RgbImage, TissueClass
from dermatome.geometry import Box, Size
from dermatome.imaging.background import slide_light
from dermatome.inference.predictor import Predictor, Scene

if TYPE_CHECKING:
    from dermatome.skin.tissue.segment import TissueNetwork
    from dermatome.slides.slide import Slide

LARGEST_PX = 2048
"""Longest side of a slide for ranking, px: a larger one is shrunk further than the network's scale."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A region that may be proposed.

    Attributes:
        slide: name of the slide.
        box: place of the region on the slide, px.
        disagreement: mean over its pixels, bits; see :func:`disagreement`.
        features: (F,) appearance: mean and spread of its colours, and shares of the classes, 0 to 1 each.
    """

    slide: str
    box: Box
    disagreement: float
    features: Floats


@dataclass(frozen=True)
class Proposal:
    """A proposed region; ``novelty`` is 0 to 1."""

    candidate: Candidate
    novelty: float

    @property
    def gain(self) -> float:
        """Disagreement times novelty, by which it was chosen."""
        return self.candidate.disagreement * self.novelty


def candidates(slide: Slide, network: TissueNetwork, side_px: int, views: int) -> list[Candidate]:
    """The regions of a slide, overlapping by half, with the disagreement of the network's views of them."""
    card, size = network.weights.card, slide.size
    seen = size.scaled(slide.mpp / card.mpp)
    seen = seen.scaled(min(1.0, LARGEST_PX / max(seen.height_px, seen.width_px)))
    image = slide_light(slide).relight(slide.region(Box.whole(size), seen))
    predictor = Predictor(network.first, len(TissueClass), tile_px=card.tile_px, overlap_px=card.tile_px // 4)
    probabilities = _views(predictor, image, views)
    unsure, labels = disagreement(probabilities), probabilities.mean(axis=0).argmax(axis=0).astype(np.uint8)
    found = []
    for box in Box.whole(size).squares(side_px, side_px // 2):
        part = box.rescaled(size, seen).slices
        colours, classes = image[part].reshape(-1, 3) / 255, labels[part]
        shares = np.bincount(classes.ravel(), minlength=len(TissueClass)) / classes.size
        features = np.concatenate([colours.mean(axis=0), colours.std(axis=0), shares])
        found.append(Candidate(slide.name, box, float(unsure[part].mean()), features))
    return found


def disagreement(probabilities: npt.NDArray[Any]) -> Floats:
    """(H, W) bits: mutual information of a pixel's class and the view, as in BALD (Houlsby et al., 2011).

    It is 0 if all views agree, however uncertain each is: further annotation would not help with a border that nobody
    can locate.

    ``probabilities`` are (V, C, H, W), for each view and class.
    """
    common, each = _entropy(probabilities.mean(axis=0)), _entropy(probabilities.swapaxes(0, 1))
    unsure: Floats = np.maximum(common - each.mean(axis=0), 0)
    return unsure


def choose(
    found: Sequence[Candidate], count: int, diversity: float, annotated: Mapping[str, Sequence[Box]]
) -> list[Proposal]:
    """Chooses regions one by one, each time the one with the largest gain, which is disagreement times novelty.

    Novelty is d / (d + diversity · s), with d the distance of its features to the nearest region that is annotated or
    already chosen, and s the median distance of regions to their mean. Regions that overlap an annotated or chosen one
    are never chosen.
    """
    if not found:
        return []
    features = np.array([candidate.features for candidate in found])
    scale = float(np.median(np.linalg.norm(features - features.mean(axis=0), axis=1))) or 1.0
    free = np.array([not _overlaps(candidate.box, annotated.get(candidate.slide, ())) for candidate in found])
    unlike = np.full(len(found), np.inf)
    for known in features[~free]:
        unlike = np.minimum(unlike, np.linalg.norm(features - known, axis=1))
    wanted = np.array([candidate.disagreement for candidate in found])
    chosen: list[Proposal] = []
    while len(chosen) < count and free.any():
        far = np.minimum(unlike, 1e9)  # the distance is infinite while nothing is annotated or chosen
        novelty = np.ones(len(found)) if diversity == 0 else far / (far + diversity * scale)
        best = int(np.where(free, wanted * novelty, -1).argmax())
        one = found[best]
        chosen.append(Proposal(one, float(novelty[best])))
        free &= np.array([other.slide != one.slide or not _overlaps(other.box, [one.box]) for other in found])
        unlike = np.minimum(unlike, np.linalg.norm(features - one.features, axis=1))
    return chosen


def _views(predictor: Predictor, image: RgbImage, views: int) -> npt.NDArray[np.float32]:
    """(V, C, h, w) probabilities of an image in views that are turned by quarters and, from the fifth on, mirrored."""
    seen: list[npt.NDArray[np.float32]] = []
    scenes = []
    for number in range(views):
        turned = np.ascontiguousarray(np.rot90(image[:, ::-1] if number >= 4 else image, number % 4))
        size = Size(*turned.shape[:2])
        into = np.empty((predictor.classes, size.height_px, size.width_px), np.float32)

        def keep(top: int, rows: npt.NDArray[np.float32], into: npt.NDArray[np.float32] = into) -> None:
            into[:, top : top + rows.shape[1]] = rows

        seen.append(into)
        scenes.append(Scene(size, lambda turned=turned: [turned], keep))  # type: ignore[misc]
    predictor.run(scenes)
    back = [np.rot90(one, -(number % 4), axes=(1, 2)) for number, one in enumerate(seen)]
    return np.stack([one[:, :, ::-1] if number >= 4 else one for number, one in enumerate(back)])


def _overlaps(box: Box, others: Sequence[Box]) -> bool:
    """Whether a box shares more than a tenth of its area with one of the others."""
    shared = (box.common(other).size for other in others)
    return any(min(one.height_px, one.width_px) > 0 and one.area_px > 0.1 * box.size.area_px for one in shared)


def _entropy(probabilities: npt.NDArray[Any]) -> Floats:
    """Entropy in bits of (C, …) probabilities over their first axis."""
    entropy: Floats = -(probabilities * np.log2(np.maximum(probabilities, 1e-9))).sum(axis=0, dtype=np.float64)
    return entropy
