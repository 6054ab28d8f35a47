"""A network of nuclei held against patches whose truth is known: maps, instances and classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from dermatome.nuclei.predict import NucleusNetwork, NucleusSettings, segment_nuclei
from dermatome.scores_nuclei import ImageScores, score_nuclei
from dermatome.slide import MppSource, Slide

if TYPE_CHECKING:
    from dermatome.nuclei.maps import NucleusMaps

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

    def truth(self) -> NucleusMaps:
        """Its maps, instances and their classes among them."""
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
            scores.append(score_nuclei(patch.truth(), found.whole(), mpp))
    return scores
