"""Telling bare glass from anything that could be tissue, cheaply, and in doubt for tissue."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dermatome.classes import RgbImage
from dermatome.geometry import Size
from dermatome.slides.resize import resize_image

# Scanned glass is bright, grey and flat: on HPA cores its darkest channel is 230 and more, channels differ by 0 to 5,
# and grey varies by 1. The palest collagen and keratin differ from it in one of the three by far more.
_DARKEST = 215
_COLOUR = 8
_GREY_RANGE = 10
_BLOCK_PX = 4

# Of a whole slide, whose scanner or section may be darker; glass has hardly a tint, and neighbours are alike.
_LEAST_GLASS = 180
_TINT = 16
_STEP = 6
_LEAST_SHARE = 0.01
_DARKER = 0.9


def is_glass(tile: RgbImage) -> bool:
    """Whether a tile shows nothing but glass, so that its class is known without the network.

    It looks at means over blocks of 4 × 4 px, so that the camera's noise does not count; every block must be bright and
    colourless, and all of them nearly alike. One pale fibre, a shadow or a stain is enough for "no".

    Args:
        tile: (h, w, 3) uint8.
    """
    import cv2

    height, width = tile.shape[:2]
    # Almost every tile of tissue is told by a few of its pixels.
    if int(tile[:: max(1, height // 16), :: max(1, width // 16)].min()) < _DARKEST - 40:
        return False
    small = resize_image(tile, Size(max(1, height // _BLOCK_PX), max(1, width // _BLOCK_PX)))
    red, green, blue = cv2.split(small)
    darkest, brightest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    if int(darkest.min()) < _DARKEST or int((brightest - darkest).max()) > _COLOUR:
        return False
    return int(darkest.max()) - int(darkest.min()) <= _GREY_RANGE


def glass_limit(darkest: npt.NDArray[np.uint8], brightest: npt.NDArray[np.uint8]) -> int:
    """What is stained on a slide has a channel below this: a tenth less light than the slide's own glass lets through.

    Glass is what is bright, nearly colourless and as bright as its neighbours. Where next to nothing is, all is tissue.

    Args:
        darkest: (h, w), the darkest channel of each pixel of the slide looked at from afar, some µm for a pixel.
        brightest: likewise the brightest.

    Returns:
        From 162 to 230, or 256 where there is no glass.
    """
    import cv2

    around = np.ones((3, 3), np.uint8)
    flat = cv2.dilate(darkest, around) - cv2.erode(darkest, around) <= _STEP
    glass = darkest[flat & (darkest >= _LEAST_GLASS) & (brightest - darkest <= _TINT)]
    if glass.size < _LEAST_SHARE * darkest.size:
        return 256
    # The darkest of it: a slide may have dim edges, or white ones where nothing was scanned.
    return round(_DARKER * float(np.percentile(glass, 5)))
