"""Training data: samples split by patient or slide, and micro-batches of random crops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from dermatome.classes import IGNORED
from dermatome.errors import BadSetting
from dermatome.imaging.augmentation import AugmentSettings, TileLevels, random_crop, tile_levels
from dermatome.storage.files import sha256_bytes

Batch = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Input of the network and ground truth; the first axis of both is the crop."""
Side = Literal["train", "validation", "hold_out"]
"""The side of the split that a sample is on."""


class Sample(Protocol):
    """A sample that can be split: a tile or an annotated image."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def group(self) -> str:
        """Patient, slide or sample; samples of one group are never on both sides."""
        ...

    @property
    def place(self) -> str:
        """The same for samples that show the same tissue, such as two stains of one place."""
        ...

    @property
    def slide(self) -> str: ...  # noqa: D102

    @property
    def patient(self) -> str: ...  # noqa: D102

    def class_pixels(self) -> npt.NDArray[np.int64]:
        """Number of pixels of each class, (C,)."""
        ...


S = TypeVar("S")
G = TypeVar("G", bound=Sample)
T = TypeVar("T")


@dataclass(frozen=True)
class Split(Generic[S]):
    """Samples to train and to validate on, and a description of how they were chosen."""

    train: tuple[S, ...]
    validation: tuple[S, ...] = ()
    how: str = "given separately"

    def sha256(self, of_side: Callable[[Sequence[S]], str]) -> str:
        """One sha256 over the sha256 of each side, so that it changes if a sample changes its side."""
        return sha256_bytes(f"{of_side(self.train)} {of_side(self.validation)}".encode())


def choose_split(
    samples: Sequence[G],
    held_out: Sequence[G],
    share: float,
    seed: int,
    known_sides: Mapping[str, str] | None = None,
    *,
    noun: str = "tiles",
) -> Split[G]:
    """Uses ``held_out`` for validation or, if it is empty, a share of ``samples`` (see :func:`split_samples`)."""
    if held_out:
        return Split(tuple(samples), tuple(held_out), f"{noun} were given for it")
    return split_samples(samples, share if len(samples) > 1 else 0.0, seed, known_sides, noun=noun)


def split_samples(
    samples: Sequence[G], share: float, seed: int, known_sides: Mapping[str, str] | None = None, *, noun: str = "tiles"
) -> Split[G]:
    """Holds out about ``share`` of the samples for validation, by whole patients or slides if they are known.

    The same samples and seed always give the same split, whatever their order. A draw that would take more than a third
    of a class's pixels from training is skipped if another exists: with few tiles, one may contain most of the keratin.

    Args:
        samples: all samples.
        share: 0 holds out none; otherwise at least one group is held out and at least one remains for training.
        seed: seed of the draw.
        known_sides: groups that stay on their given side; only the others are drawn.
        noun: plural noun for a sample, for messages.

    Raises:
        BadSetting: ``share`` is not in [0, 1), or there is only one sample to split.
        BadImage, BadAnnotation: a sample cannot be read.
    """
    if not 0 <= share < 1:
        raise BadSetting(f"The validation share is {share}: set it from 0 to below 1.")
    groups: dict[str, list[G]] = {}
    for sample in sorted(samples, key=lambda s: (s.group, s.name)):
        groups.setdefault(sample.group, []).append(sample)
    by_slide = any(sample.group != sample.place for sample in samples)
    if share and len(groups) == 1 and len(samples) > 1:
        # A single slide: its samples are split, but two stains of one place stay together.
        alone, groups = next(iter(groups.values())), {}
        for sample in alone:
            groups.setdefault(sample.place, []).append(sample)
        by_slide = False
    if share == 0:
        return Split(tuple(s for group in groups.values() for s in group), (), "nothing was held out")
    if len(groups) < 2:
        raise BadSetting(
            f"There is only one of the {noun}, or they are all of one patient, so none can be held out: add {noun}, or "
            "set the validation share to 0."
        )
    sides = known_sides or {}
    kept_out = [name for name in sorted(groups) if sides.get(name) == "validation"]
    names = [name for name in sorted(groups) if name not in sides]
    np.random.default_rng(seed).shuffle(names)
    sizes = {name: len(group) for name, group in groups.items()}
    wanted = share * len(samples) - sum(sizes[name] for name in kept_out)
    drawn = list(kept_out)
    if names and (wanted > 0 or not kept_out):
        pixels = {name: np.sum([s.class_pixels() for s in groups[name]], axis=0) for name in names}
        drawn += draw_groups(names, sizes, pixels, wanted)
    if not drawn or len(drawn) == len(groups):
        raise BadSetting(
            f"All {noun} are on one side of the split that the parent was trained with: add others, or train from "
            "scratch."
        )
    held = [sample for name in drawn for sample in groups[name]]
    kept = tuple(sample for name in sorted(groups) if name not in drawn for sample in groups[name])
    units = "whole slides" if by_slide else f"{noun} (slides unknown, or one only)"
    if any(sample.patient for sample in samples):
        units = "whole patients"
    how = f"{len(held)} of {len(samples)} {noun} held out, {units} drawn with seed {seed}"
    if kept_out:
        how += ", those of the parent unchanged"
    return Split(kept, tuple(sorted(held, key=lambda s: s.name)), how)


def draw_groups(
    names: Sequence[str], sizes: Mapping[str, int], pixels: Mapping[str, npt.NDArray[np.int64]], wanted: float
) -> list[str]:
    """Draws the first groups in ``names`` with about ``wanted`` samples that leave two thirds of each class's pixels.

    Args:
        names: at least two groups, in the order in which they are tried.
        sizes: number of samples of each group.
        pixels: (C,) pixels of each class in each group.
        wanted: number of samples; if every choice takes too many pixels, the first group is drawn nevertheless.
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


class CropBatches(Generic[T]):
    """Micro-batches of random crops; each depends only on the seed and its number.

    Args:
        images: images that crops are taken from.
        areas: area of each image at the training scale, px. Larger images are drawn more often.
        crop: draws one crop: input and ground truth.
        crop_px: side of a crop, px.
        batch: number of crops in a micro-batch.
        seed: seed of every draw.
        weights: relative probability of each image instead of its area; an image may then repeat at once.
    """

    def __init__(
        self,
        images: Sequence[T],
        areas: Sequence[int],
        crop: Callable[[T, np.random.Generator], Batch],
        *,
        crop_px: int,
        batch: int,
        seed: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        self._images, self._crop, self._batch, self._seed = images, crop, batch, seed
        self.crops_per_epoch = sum(areas) / crop_px**2
        # An image with twice the area of the smallest one is in the deck twice.
        self._deck = np.repeat(np.arange(len(areas)), [max(1, round(area / min(areas))) for area in areas])
        self._until = None if weights is None else np.cumsum(weights) / np.sum(weights)

    def batch(self, number: int) -> Batch:
        """The micro-batch ``number``: inputs and ground truth, (N, crop, crop, …) each."""
        rng = np.random.default_rng([self._seed, number])
        places = range(number * self._batch, (number + 1) * self._batch)
        crops = [self._crop(self._images[self._drawn(place)], rng) for place in places]
        return np.stack([image for image, _ in crops]), np.stack([truth for _, truth in crops])

    def _drawn(self, place: int) -> int:
        """Index of the image at ``place`` in the endless sequence of crops."""
        if self._until is not None:
            chance = np.random.default_rng([self._seed, place, 2]).random()
            return min(int(np.searchsorted(self._until, chance, side="right")), len(self._images) - 1)
        epoch, card = divmod(place, len(self._deck))
        return int(np.random.default_rng([self._seed, epoch, 1]).permutation(self._deck)[card])


class Readable(Protocol):
    """A training tile or patch."""

    def read(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """(H, W, 3) uint8 RGB, and labels (H, W) or (H, W, K) uint8."""
        ...


_DRAWS = 20


class TileBatches(CropBatches[TileLevels]):
    """Micro-batches of augmented crops of tiles, which are held in memory at the training scale.

    Args:
        tiles: tiles to read.
        scale: training pixels per tile pixel; one number, or one for each tile.
        augment: settings of the augmentation.
        coarse_factor: ratio of the coarse scale to the training scale, in microns per pixel.
        others: see :class:`CropBatches`.
    """

    def __init__(
        self,
        tiles: Sequence[Readable],
        *,
        scale: float | Sequence[float],
        augment: AugmentSettings,
        coarse_factor: float,
        **others: Any,
    ) -> None:
        # Crops that are zoomed out by less than this are taken from the full scale.
        depth = 2 if augment.coarse_share > 0 or augment.scale > 1.5 else 1
        scales = [scale] * len(tiles) if isinstance(scale, float | int) else scale
        self._tiles = [tile_levels(*tile.read(), own, depth) for tile, own in zip(tiles, scales, strict=True)]
        areas = [levels[0][0].size // 3 for levels in self._tiles]

        def crop(tile: TileLevels, rng: np.random.Generator) -> Batch:
            for _ in range(_DRAWS):  # most crops of a tile with few annotated pixels have none
                image, labels = random_crop(tile, others["crop_px"], augment, coarse_factor, rng)
                if (labels != IGNORED).any():
                    break
            return image, labels.astype(np.int64)

        super().__init__(self._tiles, areas, crop, **others)

    def pixels(self, classes: int, channel: int | None = None) -> npt.NDArray[np.int64]:
        """(``classes``,) pixels of each class in all tiles, in one channel of the labels."""
        which: Any = ... if channel is None else (..., channel)
        counts = [np.bincount(tile[0][1][which].ravel(), minlength=classes)[:classes] for tile in self._tiles]
        total: npt.NDArray[np.int64] = np.sum(counts, axis=0, dtype=np.int64)
        return total
