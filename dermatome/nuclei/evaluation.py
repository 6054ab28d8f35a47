"""A network of nuclei held against patches whose truth is known: maps, instances and classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dermatome.nuclei.maps import NucleusMaps
from dermatome.nuclei.predict import NucleusNetwork, NucleusSettings, segment_nuclei
from dermatome.scores_nuclei import ImageScores, score_nuclei
from dermatome.slide import MppSource, Slide

_TOGETHER = 16


class KnownPatch(Protocol):
    """A patch and its truth.

    Attributes:
        name: its own.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    def read(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """(H, W, 3) uint8 RGB, and its maps (H, W, 2)."""
        ...

    def instances(self) -> npt.NDArray[np.int32]:
        """(H, W) int32: 0, or the number of a nucleus, 1..N without gaps."""
        ...


def evaluate_patches(
    patches: Sequence[KnownPatch], network: NucleusNetwork, mpp: float, settings: NucleusSettings | None = None
) -> list[ImageScores]:
    """Scores of each patch, segmented as a slide of its own.

    Args:
        patches: with their truth.
        network: prepared to run.
        mpp: microns per pixel of the patches.
        settings: of the segmentation; the same that ``network`` was prepared with.
    """
    scores = []
    for first in range(0, len(patches), _TOGETHER):
        some = patches[first : first + _TOGETHER]
        slides = [Slide(patch.name, patch.read()[0], mpp, MppSource.DECLARED, "") for patch in some]
        for patch, found in zip(some, segment_nuclei(slides, network, settings), strict=True):
            scores.append(score_nuclei(truth_of(patch), found.whole(), mpp))
    return scores


def truth_of(patch: KnownPatch) -> NucleusMaps:
    """A patch's maps; the class of a nucleus is that of its pixels."""
    _, maps = patch.read()
    instances, semantic = patch.instances(), np.ascontiguousarray(maps[..., 0])
    classes = np.zeros(int(instances.max(initial=0)) + 1, np.uint8)
    inside = instances > 0
    classes[instances[inside]] = semantic[inside]
    return NucleusMaps(instances, semantic, np.ascontiguousarray(maps[..., 1]), classes)
