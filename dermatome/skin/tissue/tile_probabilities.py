"""A network run on whole training tiles, as prediction runs it on slides: overlapping tiles, blended and enlarged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dermatome.geometry import Size
from dermatome.imaging.tiling import RowEnlarger
from dermatome.inference.predictor import Predictor, Scene
from dermatome.skin.tissue.evaluate import ProbabilityRows, Rows
from dermatome.slides.resize import resize_image

if TYPE_CHECKING:
    import torch

    from dermatome.inference.compute import Compute
    from dermatome.skin.tiles.crops import TilePair


def tile_probabilities(
    network: torch.nn.Module,
    compute: Compute,
    mean: Sequence[float],
    std: Sequence[float],
    scale: float,
    *,
    tile_px: int,
    batch: int,
    classes: int = 4,
) -> ProbabilityRows:
    """A function that gives a tile's class probabilities at its full resolution.

    Args:
        network: in evaluation mode.
        compute: device and precision.
        mean: of the normalisation, on the scale 0 to 1.
        std: likewise.
        scale: pixels of the network for one of the tile.
        tile_px: side of what the network sees at once, a multiple of 32.
        batch: how many of those at once.
        classes: of the network.
    """
    from dermatome.inference.backends import TorchRunner
    from dermatome.inference.probabilities import Probabilities

    module = Probabilities(network, mean, std).eval().to(compute.torch_device)
    predictor = Predictor(
        TorchRunner(module, compute), classes=classes, tile_px=tile_px, overlap_px=tile_px // 4, batch=batch
    )

    def run(tile: TilePair, sink: Callable[[int, Rows], None]) -> None:
        image, _ = tile.read()
        target = Size(*image.shape[:2])
        size = target.scaled(scale)
        pixels = resize_image(image, size)
        predictor.run([Scene(size, lambda: [pixels], RowEnlarger(size, target, sink))])

    return run
