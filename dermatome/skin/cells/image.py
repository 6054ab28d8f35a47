"""The input of cell networks: hematoxylin of the epidermis, with bright nuclei on dark, equalised inside the tissue."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from dermatome.classes import RgbImage
from dermatome.geometry import Box, Size
from dermatome.imaging.overlay import fitting
from dermatome.imaging.stains import Stain, separate_stains
from dermatome.labels.tiled import TiledArray
from dermatome.slides.resize import resize_image

# Name of the steps below; weights record the name they were trained with, and weights with another name are refused.
PREPARATION = "h-stretch-clahe-1"

_CLAHE_TILE_UM = 64.0
_CLAHE_CLIP = 2.0
_STRETCH_PERCENTILES = (1.0, 99.8)
_NORMAL_PERCENTILES = (1.0, 99.0)
_PANEL_PX = 620  # longest side of the equalised image in a figure
_PATCH_PX = 512  # approximate; a multiple of the CLAHE tiles is used
_SAMPLED_PATCHES = 64  # about 16 megapixels: all of a tissue core, or patches evenly chosen from a larger slide


class CellImage:
    """The epidermis of a slide as input of the network, prepared patch by patch on demand.

    Nuclei are dark in hematoxylin seen as light, and bright in hematoxylin as optical density, which is used here. It
    is stretched between two percentiles of the epidermis and equalised in tiles of 64 µm with a contrast limit (CLAHE,
    Zuiderveld 1994), which evens out thick and thin places and raises nuclei under strong DAB. The percentiles are
    those of the epidermis alone, so background and dermis do not affect them.

    Patches and tiles lie on one grid from the slide's corner, and a patch is equalised together with the tiles around
    it, so a pixel has the same value however the slide is divided. Percentiles are measured on at most 64 patches,
    evenly chosen among those with epidermis. Memory holds the patches in use; :meth:`forget_above` drops the others.

    Attributes:
        size: size of the slide.
        epidermis_px: number of pixels of epidermis on the slide.
        region: the box of all epidermis with the margin around it; None if there is none.
    """

    epidermis_px: int
    region: Box | None

    def __init__(
        self,
        size: Size,
        read_rgb: Callable[[Box], RgbImage],
        read_epidermis: Callable[[Box], npt.NDArray[np.bool_]],
        mpp: float,
        margin_um: float,
    ) -> None:
        """Finds the epidermis of the slide, and the percentiles of its hematoxylin.

        ``read_rgb`` and ``read_epidermis`` return the pixels in a box of the slide, (h, w, 3) uint8 and (h, w) bool.
        """
        self.size = size
        self.read_rgb, self.read_epidermis = read_rgb, read_epidermis
        self._margin_px = max(1.0, margin_um / mpp)
        self._tile_px = max(1, round(_CLAHE_TILE_UM / mpp))
        self._tiles = max(1, round(_PATCH_PX / self._tile_px))
        self._side_px = self._tiles * self._tile_px
        self._grey, self._near, self._equalised = (
            TiledArray(None, kind, tile_px=self._side_px) for kind in (np.uint8, np.bool_, np.uint8)
        )
        self._grey_done: set[tuple[int, int]] = set()
        self._equalised_done: set[tuple[int, int]] = set()
        self._epidermal = self._survey(round(margin_um / mpp))
        if self.region is None:
            return
        panel = fitting(self.region.size, _PANEL_PX)
        self._panel = np.zeros((panel.height_px, panel.width_px), np.uint8)
        sample = self._patches(self._epidermal > 0, _SAMPLED_PATCHES)
        h = np.concatenate([self._hematoxylin(box)[self.read_epidermis(box)] for box in sample])
        self._low, high = np.percentile(h, _STRETCH_PERCENTILES)
        self._span = max(high - self._low, 1e-6)
        shades = np.concatenate([self.equalised(box)[self.read_epidermis(box)] for box in sample])
        self._dark, bright = np.percentile(shades, _NORMAL_PERCENTILES)
        self._normal_span = max(bright - self._dark, 1.0)

    def near(self, box: Box) -> npt.NDArray[np.bool_]:
        """(h, w) bool: epidermis and its margin, beyond which the network sees nothing; False beyond the slide."""
        for place in self._places(box, margin_px=0):
            self._make_grey(place)
        return np.asarray(self._near.read(box), dtype=np.bool_)

    def may_be_near(self, box: Box) -> bool:
        """Whether ``box`` may contain a pixel of :meth:`near`; fast, with false positives."""
        return any(self._is_near_patch(place) for place in self._places(box, margin_px=0))

    def equalised(self, box: Box) -> npt.NDArray[np.uint8]:
        """(h, w) uint8: equalised hematoxylin with bright nuclei; 0 far from the epidermis."""
        for place in self._places(box, margin_px=0):
            self._equalise(place)
        return np.asarray(self._equalised.read(box), dtype=np.uint8)

    def network_input(self, box: Box) -> npt.NDArray[np.float32]:
        """(h, w) float32: input of the network, about 0 to 1; 0 far from the epidermis and beyond the slide."""
        scaled = (self.equalised(box).astype(np.float32) - self._dark) / self._normal_span
        return np.where(self.near(box), scaled, 0).astype(np.float32)

    def equalised_panel(self) -> npt.NDArray[np.uint8]:
        """(h, w) uint8: the parts of the region equalised so far, shrunk to a panel of a figure."""
        return self._panel

    def count_epidermis(self, rows: npt.NDArray[np.bool_], columns: npt.NDArray[np.bool_]) -> int:
        """Number of pixels of epidermis in the rows (H,) and columns (W,) that are True."""
        count = 0
        for row, column in np.argwhere(self._epidermal):
            box = self._box((int(row), int(column)))
            down, along = rows[box.top_px : box.bottom_px], columns[box.left_px : box.right_px]
            count += int(np.count_nonzero(self.read_epidermis(box) & down[:, None] & along))
        return count

    def full_patches(self, most: int) -> list[Box]:
        """At most ``most`` patches, evenly chosen among those with at least the median amount of epidermis."""
        held = self._epidermal[self._epidermal > 0]
        return self._patches(self._epidermal >= (np.median(held) if held.size else 1), most)

    def _patches(self, wanted: npt.NDArray[np.bool_], most: int) -> list[Box]:
        """At most ``most`` of the ``wanted`` patches, evenly chosen."""
        places = np.argwhere(wanted)
        chosen = np.linspace(0, len(places) - 1, min(len(places), most)).astype(int)
        return [self._box((int(row), int(column))) for row, column in places[chosen]]

    def forget_above(self, row_px: int) -> None:
        """Drops data that is not needed for rows from ``row_px`` on; it would be recomputed on demand."""
        row_px -= self._tile_px
        for array, done in (
            (self._grey, self._grey_done),
            (self._near, self._grey_done),
            (self._equalised, self._equalised_done),
        ):
            array.forget_above(row_px)
            done.difference_update({place for place in done if (place[0] + 1) * self._side_px <= row_px})

    def _survey(self, margin_px: int) -> npt.NDArray[np.int64]:
        """Finds ``region``; returns the number of pixels of epidermis in each patch."""
        side = self._side_px
        height, width = self.size.height_px, self.size.width_px
        starts = np.arange(0, width, side)
        held = np.zeros((-(-height // side), starts.size), dtype=np.int64)
        boxes = []
        for top in range(0, height, side):
            band = self.read_epidermis(Box(top, 0, min(height, top + side), width))
            if box := Box.around(band):
                boxes.append(box.moved(top, 0))
                held[top // side] = np.add.reduceat(np.count_nonzero(band, axis=0), starts)
        self.epidermis_px = int(held.sum())
        self.region = Box.covering(boxes).expanded(margin_px, self.size) if boxes else None
        return held

    def _places(self, box: Box, margin_px: int) -> list[tuple[int, int]]:
        """The patches of the slide that overlap ``box`` with a margin."""
        wide = box.expanded(margin_px, self.size)
        rows = range(max(0, wide.top_px) // self._side_px, -(-wide.bottom_px // self._side_px))
        columns = range(max(0, wide.left_px) // self._side_px, -(-wide.right_px // self._side_px))
        return [(row, column) for row in rows for column in columns]

    def _box(self, place: tuple[int, int]) -> Box:
        side = self._side_px
        patch = Box(0, 0, side, side).moved(place[0] * side, place[1] * side)
        return patch.common(Box.whole(self.size))

    def _is_near_patch(self, place: tuple[int, int]) -> bool:
        reach = -(-int(self._margin_px + 1) // self._side_px)
        rows = slice(max(0, place[0] - reach), place[0] + reach + 1)
        return bool(self._epidermal[rows, max(0, place[1] - reach) : place[1] + reach + 1].any())

    def _hematoxylin(self, box: Box) -> npt.NDArray[np.float32]:
        # Relative to white, as in the training of the networks; the stretch removes most of the light's colour.
        return separate_stains(self.read_rgb(box), (Stain.HEMATOXYLIN,))[..., 0]

    def _make_grey(self, place: tuple[int, int]) -> None:
        """Computes the stretched hematoxylin of a patch, and which of its pixels are near the epidermis."""
        if place in self._grey_done:
            return
        self._grey_done.add(place)
        if not self._is_near_patch(place):
            return
        box = self._box(place)
        around = box.expanded(int(self._margin_px) + 3, self.size)
        outside = (~self.read_epidermis(around)).astype(np.uint8)
        outside_px = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_5)
        top, left = box.top_px - around.top_px, box.left_px - around.left_px
        near = (outside_px <= self._margin_px)[top : top + box.size.height_px, left : left + box.size.width_px]
        if not near.any():
            return
        stretched = ((self._hematoxylin(box) - self._low) / self._span).clip(0, 1) * 255
        self._near.write(box, near)
        self._grey.write(box, np.where(near, np.rint(stretched), 0).astype(np.uint8))

    def _equalise(self, place: tuple[int, int]) -> None:
        if place in self._equalised_done:
            return
        self._equalised_done.add(place)
        box = self._box(place)
        if not self.near(box).any():
            return
        for other in self._places(box, margin_px=self._tile_px):
            self._make_grey(other)
        # Complete tiles, with one more on each side, black beyond the slide.
        top, left = place[0] * self._side_px - self._tile_px, place[1] * self._side_px - self._tile_px
        side = self._side_px + 2 * self._tile_px
        grey = np.asarray(self._grey.read(Box(top, left, top + side, left + side)), dtype=np.uint8)
        clahe = cv2.createCLAHE(_CLAHE_CLIP, (self._tiles + 2, self._tiles + 2)).apply(grey)
        middle = clahe[self._tile_px :, self._tile_px :][: box.size.height_px, : box.size.width_px]
        equalised = np.where(self.near(box), middle, 0).astype(np.uint8)
        self._equalised.write(box, equalised)
        self._show(box, equalised)

    def _show(self, box: Box, equalised: npt.NDArray[np.uint8]) -> None:
        """Draws a patch into the figure's panel, with its edges at the nearest pixels."""
        assert self.region is not None
        seen, size = box.common(self.region), self.region.size
        if min(seen.size.height_px, seen.size.width_px) <= 0:
            return
        down, along = self._panel.shape[0] / size.height_px, self._panel.shape[1] / size.width_px
        there = seen.within(self.region)
        rows = slice(round(there.top_px * down), round(there.bottom_px * down))
        columns = slice(round(there.left_px * along), round(there.right_px * along))
        place = self._panel[rows, columns]
        if place.size:
            place[:] = resize_image(equalised[seen.within(box).slices], Size(*place.shape))


def cell_image_of(rgb: RgbImage, epidermis: npt.NDArray[np.bool_], mpp: float, margin_um: float) -> CellImage:
    """A :class:`CellImage` for arrays in memory: (H, W, 3) uint8 and (H, W) bool."""
    return CellImage(
        Size(*epidermis.shape), lambda box: rgb[box.slices], lambda box: epidermis[box.slices], mpp, margin_um
    )
