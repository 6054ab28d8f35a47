"""Toy slides as training tiles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from dermatome.classes import RgbImage
    from dermatome.skin.tiles.crops import TilePair
    from dermatome.synthetic.skin import ToySlide


def write_tiles(folder: Path, slides: Iterable[ToySlide]) -> list[TilePair]:
    """Writes images, masks and palette to ``folder``, named like the slides, and reads them back as tiles."""
    return write_pairs(folder, {toy.slide.name: (toy.slide.whole(), toy.mask) for toy in slides})


def write_pairs(folder: Path, pairs: Mapping[str, tuple[RgbImage, npt.NDArray[np.uint8]]]) -> list[TilePair]:
    """Writes pairs of an image (H, W, 3) and its mask (H, W) by name, with the palette, and reads them as tiles."""
    from PIL import Image

    from dermatome.labels.palette import Palette, classes_to_rgb
    from dermatome.skin.tiles.crops import load_tiles

    palette = Palette.shipped("dermatome")
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    palette.save(folder / "palette.json")
    for name, (image, mask) in pairs.items():
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        Image.fromarray(classes_to_rgb(mask, palette)).save(folder / "masks" / f"{name}.png")
    return load_tiles(folder)
