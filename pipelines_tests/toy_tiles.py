"""Toy slides as training tiles."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dermatome.skin.tiles.crops import TilePair
    from dermatome.synthetic.skin import ToySlide


def write_tiles(folder: Path, slides: Iterable[ToySlide]) -> list[TilePair]:
    """Writes images, masks and palette to ``folder``, named like the slides, and reads them back as tiles."""
    from PIL import Image

    from dermatome.labels.palette import Palette, classes_to_rgb
    from dermatome.skin.tiles.crops import load_tiles

    palette = Palette.shipped("dermatome")
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    palette.save(folder / "palette.json")
    for toy in slides:
        Image.fromarray(toy.slide.whole()).save(folder / "images" / f"{toy.slide.name}.png")
        Image.fromarray(classes_to_rgb(toy.mask, palette)).save(folder / "masks" / f"{toy.slide.name}.png")
    return load_tiles(folder)
