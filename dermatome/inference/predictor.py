"""Tiled prediction: a network is run on overlapping tiles of images, and its probabilities are blended.

Batches are filled across the borders of images, background tiles are skipped, and reading and blending overlap with the
network's work. Memory does not grow with the height of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dermatome.classes import RgbImage
from dermatome.errors import BadSetting, BadWeights
from dermatome.geometry import Box, Size
from dermatome.imaging.background import is_background
from dermatome.imaging.tiling import Blender, Probabilities, RowSink, cut_tile, tile_grid
from dermatome.inference.backends import Runner


@dataclass(frozen=True)
class Scene:
    """An image, or a part of one, at the network's resolution.

    Attributes:
        rows: returns its pixels in bands of rows from the top, (rows, w, 3) uint8 each; called once.
        sink: receives the top row and (C, rows, w) float32 probabilities, in the order of rows.
    """

    size: Size
    rows: Callable[[], Iterable[RgbImage]]
    sink: RowSink


@dataclass(frozen=True)
class Predictor:
    """A network with the settings for running it on tiles.

    Attributes:
        runner: takes (N, h, w, 3) uint8 and gives one output, (N, C, h, w) probabilities.
        tile_px: side of the tiles, px, a multiple of 32; smaller for a smaller image.
        skip_background: whether tiles of background only get the background class without being run.
        background: channel of the background class in each head, whose probability is 1 in skipped tiles.
    """

    runner: Runner
    classes: int
    tile_px: int = 256
    overlap_px: int = 64
    batch: int = 8
    skip_background: bool = True
    background: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        """Checks the settings."""
        if self.tile_px < 32 or self.tile_px % 32:
            raise BadSetting(f"The tile side is {self.tile_px} px: use a multiple of 32.")
        if self.batch < 1:
            raise BadSetting(f"The batch is {self.batch} tiles: use 1 or more.")

    def run(self, scenes: Sequence[Scene], progress: Callable[[int], None] | None = None) -> list[int]:
        """Predicts several images; batches are filled across their borders, and results do not depend on the batch.

        Args:
            scenes: the images; each one's sink receives all of its rows.
            progress: called with the number of finished tiles after each batch; an exception in it stops the run.

        Returns:
            Number of tiles of each image that were run.

        Raises:
            BadWeights: the network returns numbers that are not finite.
        """
        # A batch contains only tiles of one size.
        order = sorted(range(len(scenes)), key=lambda number: self._tile_side(scenes[number].size))
        work = [(number, scenes[number]) for number in order]
        counts = [0] * len(scenes)
        left: list[_Place] = []
        done = 0
        for places, (found,) in self.runner.stream(self._batches(work, left)):
            if not np.isfinite(found.sum()):
                raise BadWeights("The network's probabilities are not numbers: use other weights, or precision fp32.")
            for place in places:
                place.put(found)
                counts[place.scene] += place.index is not None
            done += len(found)
            if progress:
                progress(done)
        for place in left:
            place.put(None)
        return counts

    def _tile_side(self, size: Size) -> int:
        # A small image gets a tile of its own size: mirroring it up to the full size would cost time and accuracy.
        return min(self.tile_px, -(-max(size.height_px, size.width_px) // 32) * 32)

    def _batches(
        self, scenes: Iterable[tuple[int, Scene]], left: list[_Place]
    ) -> Iterator[tuple[list[_Place], npt.NDArray[np.uint8]]]:
        """Yields batches with the places of their tiles and of skipped tiles between them; the last go to ``left``."""
        places: list[_Place] = []
        tiles: list[RgbImage] = []
        for number, scene in scenes:
            side = self._tile_side(scene.size)
            if tiles and tiles[0].shape[0] != side:
                yield places, np.stack(tiles)
                places, tiles = [], []
            blender = Blender(self.classes, scene.size, side, scene.sink)
            bands = _Bands(scene.rows())
            for box in tile_grid(scene.size, side, min(self.overlap_px, side // 2)):
                within = bands.rows(box.top_px, min(box.bottom_px, scene.size.height_px))
                tile = cut_tile(within, Box(0, box.left_px, side, box.right_px))
                skipped = self.skip_background and is_background(tile)
                places.append(_Place(number, blender, box, None if skipped else len(tiles), self.background))
                if not skipped:
                    tiles.append(tile)
                if len(tiles) == self.batch:
                    yield places, np.stack(tiles)
                    places, tiles = [], []
            places.append(_Place(number, blender, None, None))
        if tiles:
            yield places, np.stack(tiles)
        else:
            left.extend(places)


@dataclass(frozen=True)
class _Place:
    """The place of a tile: its scene, blender and box, and its number in the batch (None for background).

    A place without a box marks the end of its scene.
    """

    scene: int
    blender: Blender
    box: Box | None
    index: int | None
    background: tuple[int, ...] = ()

    def put(self, found: Probabilities | None) -> None:
        if self.box is None:
            self.blender.close()
        elif self.index is None or found is None:
            self.blender.add_certain(self.box, self.background)
        else:
            self.blender.add(self.box, found[self.index])


class _Bands:
    """Rows of an image that is read from top to bottom, held in memory as long as tiles need them."""

    def __init__(self, bands: Iterable[RgbImage]) -> None:
        self._bands = iter(bands)
        self._kept: list[RgbImage] = []
        self._top = 0
        self._asked = (-1, -1)
        self._found: RgbImage = np.empty((0, 0, 3), np.uint8)

    def rows(self, top: int, bottom: int) -> RgbImage:
        """Rows ``top`` to ``bottom`` (exclusive), (rows, w, 3) uint8; ``top`` never decreases between calls."""
        if (top, bottom) == self._asked:
            return self._found
        while self._kept and self._top + len(self._kept[0]) <= top:
            self._top += len(self._kept.pop(0))
        while self._top + sum(map(len, self._kept)) < bottom:
            self._kept.append(next(self._bands))
        held = self._kept[0] if len(self._kept) == 1 else np.concatenate(self._kept)
        self._asked, self._found = (top, bottom), held[top - self._top : bottom - self._top]
        return self._found
