"""What a training run looks at: tiles split by slide, kept at the training scale, drawn as batches."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dermatome.augment import AugmentSettings, TileCache, random_view
from dermatome.errors import BadSetting
from dermatome.skin.crops import TilePair

Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Split:
    """Training and validation tiles, and in words how they were told apart."""

    train: tuple[TilePair, ...]
    validation: tuple[TilePair, ...]
    how: str


def split_tiles(tiles: Sequence[TilePair], share: float, seed: int) -> Split:
    """Holds out about ``share`` of the tiles for validation, whole slides at a time where slides are known.

    The same tiles and seed always give the same split, whatever the order of the tiles.

    Args:
        tiles: all of them.
        share: 0 holds out none; otherwise at least one group is held out and at least one left to train on.
        seed: of the draw.

    Raises:
        BadSetting: ``share`` is not from 0 to below 1, or there is but one slide to split.
    """
    if not 0 <= share < 1:
        raise BadSetting(f"The validation share is {share}: set it from 0 to below 1.")
    groups: dict[str, list[TilePair]] = {}
    for tile in sorted(tiles, key=lambda t: (t.group, t.name)):
        groups.setdefault(tile.group, []).append(tile)
    by_slide = any(tile.group != _place(tile) for tile in tiles)
    if share and len(groups) == 1 and len(tiles) > 1:
        # One slide only: its tiles are split, but never the two stains of one place.
        alone, groups = next(iter(groups.values())), {}
        for tile in alone:
            groups.setdefault(_place(tile), []).append(tile)
        by_slide = False
    if share == 0:
        return Split(tuple(t for group in groups.values() for t in group), (), "nothing was held out")
    if len(groups) < 2:
        raise BadSetting("There is one tile only, so none can be held out: add tiles or set the validation share to 0.")
    names = sorted(groups)
    np.random.default_rng(seed).shuffle(names)
    held: list[TilePair] = []
    while names[1:] and (not held or len(held) + len(groups[names[0]]) / 2 <= share * len(tiles)):
        held += groups[names.pop(0)]
    kept = tuple(tile for name in sorted(names) for tile in groups[name])
    what = "whole slides" if by_slide else "tiles (slides unknown, or one only)"
    how = f"{len(held)} of {len(tiles)} tiles held out, {what} drawn with seed {seed}"
    return Split(kept, tuple(sorted(held, key=lambda t: t.name)), how)


def _place(tile: TilePair) -> str:
    return tile.mask_path.stem


class BatchSource:
    """Batches of random views, each decided by the seed and the step's number alone, so a run can go on anywhere."""

    def __init__(
        self,
        tiles: Sequence[TilePair],
        *,
        scale: float,
        crop_px: int,
        batch: int,
        augment: AugmentSettings,
        coarse_factor: float,
        seed: int,
    ) -> None:
        """Reads the tiles and keeps them at the training scale (``scale`` training pixels for one of the tile's)."""
        self._caches = [TileCache.build(*tile.read(), scale) for tile in tiles]
        areas = [cache.levels[0][1].size for cache in self._caches]
        self.views_for_area = sum(areas) / crop_px**2
        # A tile of twice the smallest one's area is in the deck twice.
        self._deck = np.repeat(np.arange(len(areas)), [max(1, round(area / min(areas))) for area in areas])
        self._crop_px, self._batch, self._augment = crop_px, batch, augment
        self._coarse_factor, self._seed = coarse_factor, seed

    def batch(self, step: int) -> Batch:
        """(N, crop, crop, 3) uint8 images and (N, crop, crop) int64 classes of a step."""
        rng = np.random.default_rng([self._seed, step])
        views = []
        for place in range(step * self._batch, (step + 1) * self._batch):
            passes, card = divmod(place, len(self._deck))
            tile = np.random.default_rng([self._seed, passes, 1]).permutation(self._deck)[card]
            views.append(random_view(self._caches[tile], self._crop_px, self._augment, self._coarse_factor, rng))
        return np.stack([image for image, _ in views]), np.stack([labels for _, labels in views]).astype(np.int64)

    def batches(self, first_step: int) -> Generator[Batch]:
        """The batches from ``first_step`` on, without end, the next one made while the last is used."""
        with ThreadPoolExecutor(1, thread_name_prefix="views") as pool:
            step = first_step
            coming = pool.submit(self.batch, step)
            while True:
                step += 1
                ready, coming = coming.result(), pool.submit(self.batch, step)
                yield ready
