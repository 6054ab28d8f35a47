"""The most probable classes of enlarged probabilities, where only pixels near a border are interpolated."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dermatome.classes import ClassMap
from dermatome.geometry import Size
from dermatome.imaging.compiled import compiled

_MIXED = 255


class LabelEnlarger:
    """Turns bands of probabilities of an image into its classes at another size, bilinearly.

    Pixel centres are aligned as in ``cv2.resize``. Between four pixels of one class, that class stays the most probable
    whatever their probabilities, so that nothing is computed there; elsewhere it is decided by the interpolated ones.
    """

    def __init__(self, source: Size, target: Size) -> None:
        """For an image of size ``source`` whose classes are wanted at size ``target``."""
        self._height_px = source.height_px
        self._above, self._down = _neighbours(source.height_px, target.height_px)
        self._left, self._along = _neighbours(source.width_px, target.width_px)

    def rows(self, top: int, bottom: int) -> tuple[int, int]:
        """The rows of the source, the last excluded, that rows ``top`` to ``bottom`` (excluded) of the target need."""
        return int(self._above[top]), min(int(self._above[bottom - 1]) + 2, self._height_px)

    def __call__(self, top: int, bottom: int, values: npt.NDArray[np.uint8], labels: ClassMap) -> ClassMap:
        """(bottom - top, W) uint8 classes.

        Args:
            top: first row of the target.
            bottom: the row after its last.
            values: (n, C, w) probabilities of :meth:`rows`.
            labels: (n, w) the most probable class of each, the first of equals.
        """
        above, down = self._above[top:bottom] - self._above[top], self._down[top:bottom]
        return _enlarged(values, labels, above, down, self._left, self._along)


def _neighbours(source_px: int, target_px: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """The source's pixel before the centre of each pixel of the target, and the share of the one behind it."""
    middle = ((np.arange(target_px) + 0.5) * source_px / target_px - 0.5).clip(0, source_px - 1)
    before = middle.astype(np.intp)
    return before, (middle - before).astype(np.float32)


@compiled
def _enlarged(
    values: npt.NDArray[np.uint8],
    labels: ClassMap,
    above: npt.NDArray[np.intp],
    down: npt.NDArray[np.float32],
    left: npt.NDArray[np.intp],
    along: npt.NDArray[np.float32],
) -> ClassMap:
    found = np.empty((above.size, left.size), np.uint8)
    last_row, last_column = labels.shape[0] - 1, labels.shape[1] - 1
    # The class of the four pixels from each column of the source on, or that they differ; by column of the target; and
    # the columns of the target where they differ.
    common, certain = np.empty(labels.shape[1], np.uint8), np.empty(left.size, np.uint8)
    open_columns = np.empty(left.size, np.intp)
    one, y, still_open = np.float32(1), -1, 0
    for row in range(above.size):
        if above[row] != y:
            y, still_open = above[row], 0
            below = min(y + 1, last_row)
            for x in range(labels.shape[1]):
                right, label = min(x + 1, last_column), labels[y, x]
                alike = label == labels[y, right] and label == labels[below, x] and label == labels[below, right]
                common[x] = label if alike else _MIXED
            for column in range(left.size):
                certain[column] = common[left[column]]
                open_columns[still_open] = column
                still_open += certain[column] == _MIXED
        found[row] = certain
        for column in open_columns[:still_open]:
            x = left[column]
            right, most = min(x + 1, last_column), np.float32(-1)
            for number in range(values.shape[1]):
                near = values[y, number, x] * (one - down[row]) + values[below, number, x] * down[row]
                far = values[y, number, right] * (one - down[row]) + values[below, number, right] * down[row]
                # As `cv2.resize` has it: rounded once, after the sum.
                value = np.float32(np.float64(near) + np.float64(far - near) * along[column])
                if value > most:
                    most = value
                    found[row, column] = number
    return found
