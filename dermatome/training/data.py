"""What a training run looks at: tiles split by slide, kept at the training scale, drawn as batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from dermatome.errors import BadSetting
from dermatome.imaging.augmentation import AugmentSettings, TileCache, random_view
from dermatome.storage.files import sha256_bytes

Side = Literal["train", "validation", "hold_out"]
"""What a sample is used for."""


class Sample(Protocol):
    """What a split is made of: a tile or an annotated image."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def group(self) -> str:
        """What must not be on both sides."""
        ...

    @property
    def place(self) -> str:
        """What shows the same tissue has the same."""
        ...

    @property
    def patient(self) -> str: ...  # noqa: D102

    def class_pixels(self) -> npt.NDArray[np.int64]:
        """Pixels of each class."""
        ...


S = TypeVar("S", bound=Sample)


@dataclass(frozen=True)
class Split(Generic[S]):
    """Tiles (or other samples) to train and to validate on, and in words how they were told apart."""

    train: tuple[S, ...]
    validation: tuple[S, ...]
    how: str


def split_tiles(
    tiles: Sequence[S],
    share: float,
    seed: int,
    known_sides: Mapping[str, Side] | None = None,
    *,
    what: str = "tiles",
) -> Split[S]:
    """Holds out about ``share`` of the tiles for validation, whole patients or slides at a time where they are known.

    The same tiles and seed always give the same split, whatever the order of the tiles. A draw that would take more
    than a third of a class's pixels from training is passed over where another is left: of few tiles, one may hold
    most of the keratin.

    Args:
        tiles: all of them.
        share: 0 holds out none; otherwise at least one group is held out and at least one left to train on.
        seed: of the draw.
        known_sides: groups that stay on the side they are on already; only the others are drawn.
        what: they are called, in words.

    Raises:
        BadSetting: ``share`` is not from 0 to below 1, or there is but one tile to split.
        BadImage: a tile cannot be read.
        BadAnnotation: a tile's mask does not fit.
    """
    if not 0 <= share < 1:
        raise BadSetting(f"The validation share is {share}: set it from 0 to below 1.")
    groups: dict[str, list[S]] = {}
    for tile in sorted(tiles, key=lambda t: (t.group, t.name)):
        groups.setdefault(tile.group, []).append(tile)
    by_slide = any(tile.group != tile.place for tile in tiles)
    if share and len(groups) == 1 and len(tiles) > 1:
        # One slide only: its tiles are split, but never the two stains of one place.
        alone, groups = next(iter(groups.values())), {}
        for tile in alone:
            groups.setdefault(tile.place, []).append(tile)
        by_slide = False
    if share == 0:
        return Split(tuple(t for group in groups.values() for t in group), (), "nothing was held out")
    if len(groups) < 2:
        raise BadSetting(
            f"There is only one of the {what}, so none can be held out: add {what} or set the validation share to 0."
        )
    sides = known_sides or {}
    kept_out = [name for name in sorted(groups) if sides.get(name) == "validation"]
    names = [name for name in sorted(groups) if name not in sides]
    np.random.default_rng(seed).shuffle(names)
    sizes = {name: len(group) for name, group in groups.items()}
    wanted = share * len(tiles) - sum(len(groups[name]) for name in kept_out)
    drawn = kept_out + (
        draw_groups(names, sizes, _pixels(names, groups), wanted) if names and (wanted > 0 or not kept_out) else []
    )
    if not drawn or len(drawn) == len(groups):
        raise BadSetting(
            f"The {what} were all on one side of the split that the parent was trained with: add annotated slides, or "
            "start from scratch."
        )
    held = [tile for name in drawn for tile in groups[name]]
    kept = tuple(tile for name in sorted(groups) if name not in drawn for tile in groups[name])
    units = "whole slides" if by_slide else f"{what} (slides unknown, or one only)"
    if any(tile.patient for tile in tiles):
        units = "whole patients"
    how = f"{len(held)} of {len(tiles)} {what} held out, {units} drawn with seed {seed}"
    if kept_out:
        how += ", those of the parent as they were"
    return Split(kept, tuple(sorted(held, key=lambda t: t.name)), how)


def split_sha256(train: str, validation: str) -> str:
    """One sha256 of the sha256 of each side: a sample that changes its side makes other data of the same samples."""
    return sha256_bytes(f"{train} {validation}".encode())


def _pixels(names: Sequence[str], groups: Mapping[str, list[S]]) -> dict[str, npt.NDArray[np.int64]]:
    return {name: np.sum([tile.class_pixels() for tile in groups[name]], axis=0) for name in names}


def draw_groups(
    names: Sequence[str], sizes: Mapping[str, int], pixels: Mapping[str, npt.NDArray[np.int64]], wanted: float
) -> list[str]:
    """The first groups in ``names`` that come to about ``wanted`` tiles and leave two thirds of each class's pixels.

    Args:
        names: of at least two groups, in the order they are looked at.
        sizes: tiles of each.
        pixels: (C,) of each class in each.
        wanted: tiles; where every choice takes too much, the first group is drawn all the same.
    """
    total: npt.NDArray[np.int64] = np.sum([pixels[name] for name in names], axis=0)
    drawn: list[str] = []
    left, held = total.copy(), 0
    for name in names:
        over = held > 0 and held + sizes[name] / 2 > wanted
        poor = bool((left - pixels[name] < 2 / 3 * total).any())
        if not over and not poor and len(drawn) < len(names) - 1:
            drawn.append(name)
            left, held = left - pixels[name], held + sizes[name]
    return drawn or list(names[:1])


class Readable(Protocol):
    """A training tile or patch."""

    def read(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """(H, W, 3) uint8 RGB, and labels (H, W) or (H, W, K) uint8."""
        ...


class BatchSource:
    """Batches of random views, each decided by the seed and its number alone, so a run can go on anywhere."""

    def __init__(
        self,
        tiles: Sequence[Readable],
        *,
        scale: float,
        crop_px: int,
        batch: int,
        augment: AugmentSettings,
        coarse_factor: float,
        seed: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        """Reads the tiles and keeps them at the training scale (``scale`` training pixels for one of the tile's).

        Without ``weights`` every tile is shown as often as its area has it; with them, tiles are drawn with a chance
        that goes with their weight, and one may come twice in a row.
        """
        # A view zoomed out by less than this is taken from the full scale.
        depth = 2 if augment.coarse_share > 0 or augment.scale > 1.5 else 1
        self._caches = [TileCache.build(*tile.read(), scale, depth) for tile in tiles]
        areas = [cache.levels[0][0].size // 3 for cache in self._caches]
        self.views_for_area = sum(areas) / crop_px**2
        # A tile of twice the smallest one's area is in the deck twice.
        self._deck = np.repeat(np.arange(len(areas)), [max(1, round(area / min(areas))) for area in areas])
        self._until = None if weights is None else np.cumsum(weights) / np.sum(weights)
        self._crop_px, self._batch, self._augment = crop_px, batch, augment
        self._coarse_factor, self._seed = coarse_factor, seed

    def pixels(self, classes: int, channel: int | None = None) -> npt.NDArray[np.int64]:
        """(``classes``,) int64: how many pixels of all tiles have each number, in one channel of the labels."""
        which: Any = ... if channel is None else (..., channel)
        counts = [np.bincount(c.levels[0][1][which].ravel(), minlength=classes)[:classes] for c in self._caches]
        total: npt.NDArray[np.int64] = np.sum(counts, axis=0, dtype=np.int64)
        return total

    def batch(self, number: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """(N, crop, crop, 3) uint8 images and (N, crop, crop, …) int64 labels of the pass of that number."""
        rng = np.random.default_rng([self._seed, number])
        views = []
        for place in range(number * self._batch, (number + 1) * self._batch):
            tile = self._caches[self._drawn(place)]
            views.append(random_view(tile, self._crop_px, self._augment, self._coarse_factor, rng))
        return np.stack([image for image, _ in views]), np.stack([labels for _, labels in views]).astype(np.int64)

    def _drawn(self, place: int) -> int:
        """The tile that is shown at a place of the endless row of views."""
        if self._until is not None:
            chance = np.random.default_rng([self._seed, place, 2]).random()
            return min(int(np.searchsorted(self._until, chance, side="right")), len(self._caches) - 1)
        passes, card = divmod(place, len(self._deck))
        return int(np.random.default_rng([self._seed, passes, 1]).permutation(self._deck)[card])
