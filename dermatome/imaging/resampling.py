"""Scales one side of an image part by part, with the same result as for the whole side."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dermatome.classes import Floats


class Scaling:
    """Scaling of one side of an image from ``source_px`` to ``target_px`` and back, like ``cv2.resize``.

    On the way there, it averages where the side shrinks and interpolates linearly where it grows; on the way back it
    always interpolates. Any part is scaled as in the whole side.
    """

    def __init__(self, source_px: int, target_px: int) -> None:
        self.source_px, self.target_px = source_px, target_px
        self.same = source_px == target_px
        self._step = source_px / target_px

    def sources(self, first: int, last: int) -> tuple[int, int]:
        """The first and last (exclusive) source pixel that target pixels ``first`` to ``last`` depend on."""
        first, last = max(0, first), min(self.target_px, last)
        if self.same:
            return first, last
        if self._step > 1:
            top, bottom = int(first * self._step), int(np.ceil(last * self._step - 1e-9))
        else:
            top = int(np.floor((first + 0.5) * self._step - 0.5))
            bottom = int(np.floor((last - 0.5) * self._step - 0.5)) + 2
        return max(0, top), max(top + 1, min(self.source_px, bottom))

    def weights(self, first: int, last: int) -> Floats:
        """(last - first, sources) float32: weight of each source pixel in each target pixel, 0 beyond the side."""
        top, bottom = self.sources(first, last)
        targets = np.arange(first, last)[:, None]
        pixels = np.arange(top, bottom)[None]
        if self._step > 1:
            shared = np.minimum(pixels + 1, (targets + 1) * self._step) - np.maximum(pixels, targets * self._step)
            shares = shared.clip(0) / self._step
        else:
            middle = ((targets + 0.5) * self._step - 0.5).clip(0, self.source_px - 1)
            shares = (1 - np.abs(pixels - middle)).clip(0)
        return np.where((targets >= 0) & (targets < self.target_px), shares, 0).astype(np.float32)

    def taps(self, first: int, last: int) -> Taps:
        """The interpolation of source pixels ``first`` to ``last`` when scaling back."""
        middle = ((np.arange(first, last) + 0.5) / self._step - 0.5).clip(0, self.target_px - 1)
        above = np.floor(middle).astype(np.intp)
        below = np.minimum(above + 1, self.target_px - 1)
        return Taps(above, below, (middle - above).astype(np.float32))

    def known_until(self, target: int) -> int:
        """Number of source pixels that can be scaled back when the target pixels before ``target`` are known."""
        if target >= self.target_px:
            return self.source_px
        # The target pixel below the source pixel's centre must be known too.
        known = int(np.floor((target - 1 + 0.5) * self._step - 0.5)) if not self.same else target
        return max(0, min(self.source_px, known))


class Taps:
    """For each pixel of a scaled side, the two pixels that it lies between and the weight of the second."""

    def __init__(self, above: npt.NDArray[np.intp], below: npt.NDArray[np.intp], share: Floats) -> None:
        self.first, self.last = int(above[0]), int(below[-1]) + 1
        self._above, self._below, self._share = above - self.first, below - self.first, share

    def apply(self, values: Floats, axis: int) -> Floats:
        """Interpolates ``values`` (…), whose ``axis`` runs from ``first`` to ``last``, at the scaled pixels."""
        if not self._share.any():
            return np.ascontiguousarray(np.take(values, self._above, axis))
        share = self._share.reshape([-1 if k == axis else 1 for k in range(values.ndim)])
        return np.asarray(np.take(values, self._above, axis) * (1 - share) + np.take(values, self._below, axis) * share)
