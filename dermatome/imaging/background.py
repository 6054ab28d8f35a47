"""Fast detection of background, the bare glass of a slide; in doubt, a place counts as tissue."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dermatome.classes import RgbImage
from dermatome.geometry import Size
from dermatome.slides.resize import resize_image

# Background is bright, grey and flat: on HPA cores its darkest channel is 230 and more, channels differ by 0 to 5,
# and grey varies by 1. The palest collagen and keratin differ from it in one of the three by far more.
_DARKEST = 215
_COLOUR = 8
_GREY_RANGE = 10
_BLOCK_PX = 4

# For a slide as a whole: its scanner may be darker; background has hardly a tint, and neighbours are alike.
_LEAST_BACKGROUND = 180
_TINT = 16
_STEP = 6
_LEAST_SHARE = 0.01
_DARKER = 0.9


def is_background(tile: RgbImage) -> bool:
    """Whether a tile shows only background, so that its class is known without the network.

    It looks at means over blocks of 4 × 4 px, so that the camera's noise does not count; every block must be bright and
    colourless, and all of them nearly alike. One pale fibre, a shadow or a stain is enough for "no".

    Args:
        tile: (h, w, 3) uint8.
    """
    import cv2

    height, width = tile.shape[:2]
    # A few pixels suffice to recognise almost every tile of tissue.
    if int(tile[:: max(1, height // 16), :: max(1, width // 16)].min()) < _DARKEST - 40:
        return False
    small = resize_image(tile, Size(max(1, height // _BLOCK_PX), max(1, width // _BLOCK_PX)))
    red, green, blue = cv2.split(small)
    darkest, brightest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    if int(darkest.min()) < _DARKEST or int((brightest - darkest).max()) > _COLOUR:
        return False
    return int(darkest.max()) - int(darkest.min()) <= _GREY_RANGE


def background_limit(darkest: npt.NDArray[np.uint8], brightest: npt.NDArray[np.uint8]) -> int:
    """The intensity below which a pixel is stained: 0.9 times that of the slide's own background.

    Background is bright, nearly colourless and as bright as its neighbours. If next to nothing is, all is tissue.

    Args:
        darkest: (h, w) uint8, the darkest channel of each pixel of an overview, some µm a pixel.
        brightest: (h, w) uint8, the brightest channel.

    Returns:
        162 to 230, or 256 if there is no background.
    """
    import cv2

    around = np.ones((3, 3), np.uint8)
    flat = cv2.dilate(darkest, around) - cv2.erode(darkest, around) <= _STEP
    background = darkest[flat & (darkest >= _LEAST_BACKGROUND) & (brightest - darkest <= _TINT)]
    if background.size < _LEAST_SHARE * darkest.size:
        return 256
    # The darkest of it: a slide may have dim edges, or white ones where nothing was scanned.
    return round(_DARKER * float(np.percentile(background, 5)))
