"""Shapes of synthetic skin: where tissues and nuclei lie. :mod:`dermatome.synthetic.skin` colours them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dermatome.classes import BoolMap, Floats, Instances, TissueClass
from dermatome.skin.tiles.varied import territories


@dataclass(frozen=True)
class ToyTissue:
    """Tissue before staining.

    Attributes:
        mask: (H, W) uint8, :class:`TissueClass`.
        texture: (H, W) float32 around 1, factor on densities: fibres, lamellae, cracks.
        from_dermis_px: (H, W) float32, distance to the nearest pixel of the dermis.
        from_surface_px: (H, W) float32, distance to the nearest pixel of keratin or background.
    """

    mask: npt.NDArray[np.uint8]
    texture: Floats
    from_dermis_px: Floats
    from_surface_px: Floats


@dataclass(frozen=True)
class Cells:
    """Nuclei and the cells around them.

    Attributes:
        epidermal: (H, W) int32, nuclei of the epidermis 1..N.
        dermal: (H, W) int32, nuclei of the dermis 1..M.
        territory: (H, W) int32, the nearest epidermal nucleus of each pixel, 1..N (0 where there is none at all).
        border: (H, W) float32, 1 where two territories meet, falling to 0.
        rim: (H, W) float32, 1 at the edge of a nucleus, 0 inside.
        is_basal: (N + 1,) bool, nuclei next to the dermis; entry 0 is False.
    """

    epidermal: Instances
    dermal: Instances
    territory: Instances
    border: Floats
    rim: Floats
    is_basal: BoolMap


def smooth_noise(rng: np.random.Generator, size_px: int, scale_px: float, stretch: float = 1.0) -> Floats:
    """Noise (size, size) float32 of mean 0 and deviation 1, ``scale_px`` coarse, ``stretch`` times longer in x."""
    rows, columns = max(4, round(2 * size_px / scale_px)), max(4, round(2 * size_px / scale_px / stretch))
    grid = rng.standard_normal((min(rows, size_px), min(columns, size_px)), dtype=np.float32)
    field = cv2.resize(grid, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6), dtype=np.float32)


def _wave(rng: np.random.Generator, size_px: int, scale_px: float) -> npt.NDArray[np.float64]:
    """Smooth values (size,) between about -1 and 1."""
    knots = rng.uniform(-1, 1, max(4, int(size_px / scale_px) + 3))
    line = cv2.resize(knots[None].astype(np.float32), (size_px, 1), interpolation=cv2.INTER_CUBIC)
    return np.asarray(line[0], dtype=np.float64)


def draw_tissue(rng: np.random.Generator, size_px: int, mpp: float, island: bool | None) -> ToyTissue:
    """Draws a core: background, keratin on top, epidermis with rete ridges, dermis below, perhaps an island in it."""
    size = size_px

    def px(um: float) -> float:
        return um / mpp

    field = min(1.0, size * mpp / 420)  # bands are thinner on a small slide
    surface = (
        size * rng.uniform(0.26, 0.36)
        + rng.uniform(-0.15, 0.15) * (np.arange(size) - size / 2)
        + _wave(rng, size, px(120)) * px(9)
    )
    phase = 2 * np.pi * (np.arange(size) / px(rng.uniform(58, 90)) + rng.uniform()) + 1.4 * _wave(rng, size, px(90))
    ridge = ((1 + np.sin(phase)) / 2) ** 0.8 * px(rng.uniform(28, 46)) * (1 + 0.35 * _wave(rng, size, px(70)))
    border = surface + field * (px(rng.uniform(50, 70)) + _wave(rng, size, px(100)) * px(6) + ridge)
    top = surface - field * (px(rng.uniform(15, 26)) + _wave(rng, size, px(60)) * px(5))

    # Rows and columns are bent, so that ridges lean and edges are ragged.
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    bent_rows = rows + px(1.6) * smooth_noise(rng, size, px(22)) + px(0.4) * smooth_noise(rng, size, px(4))
    bent_columns = columns + px(5) * smooth_noise(rng, size, px(38))
    at = bent_columns.clip(0, size - 1).astype(np.intp)
    surface_at, border_at, top_at = (line.astype(np.float32)[at] for line in (surface, border, top))

    mask = np.full((size, size), TissueClass.BACKGROUND, dtype=np.uint8)
    mask[bent_rows >= border_at] = TissueClass.DERMIS
    mask[(bent_rows >= surface_at) & (bent_rows < border_at)] = TissueClass.EPIDERMIS
    height = (surface_at - bent_rows) / np.maximum(surface_at - top_at, 1)  # 0 at the epidermis, 1 at the top
    lamellae = smooth_noise(rng, size, px(5), stretch=9)
    keratin = (height > 0) & (height < 1)
    flakes = (height >= 1.05) & (height < 1.9) & (smooth_noise(rng, size, px(8), stretch=6) > 1.25)
    flakes = cv2.morphologyEx(flakes.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    mask[keratin | flakes] = TissueClass.KERATIN
    if island if island is not None else rng.uniform() < 0.4:
        _add_island(rng, mask, rows, columns, float(border.max()), px)

    middle = (size - 1) / 2
    radius = np.hypot(rows - middle, columns - middle)
    angle = np.arctan2(rows - middle, columns - middle)
    wobble = sum(rng.uniform(-0.008, 0.008) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in range(2, 7))
    mask[radius > size * (0.475 + wobble)] = TissueClass.BACKGROUND

    fibres = smooth_noise(rng, size, px(3.5), stretch=7)
    shift = (px(9) * smooth_noise(rng, size, px(45))).astype(np.float32)
    fibres = cv2.remap(fibres, columns, rows + shift, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    texture = np.ones((size, size), dtype=np.float32)
    dermis, horn = mask == TissueClass.DERMIS, mask == TissueClass.KERATIN
    texture[dermis] = (1 + 0.38 * fibres)[dermis].clip(0.12)
    cracks = np.where(lamellae > 1.9 - 0.7 * height.clip(0, 1), 0.12, 1)
    texture[horn] = ((1 + 0.30 * lamellae) * cracks)[horn].clip(0.05)
    from_dermis = cv2.distanceTransform((~dermis).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    beyond = (mask == TissueClass.BACKGROUND) | horn
    from_surface = cv2.distanceTransform((~beyond).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return ToyTissue(mask, texture, from_dermis, from_surface)


def _add_island(
    rng: np.random.Generator,
    mask: npt.NDArray[np.uint8],
    rows: Floats,
    columns: Floats,
    below_px: float,
    px: Callable[[float], float],
) -> None:
    """Puts a piece of epidermis into the dermis if the core has room for it."""
    size = mask.shape[0]
    radius = min(px(rng.uniform(22, 34)), size * 0.09)
    low, high = below_px + radius + px(14), size * 0.93 - radius * 1.4
    centre_y = rng.uniform(low, high) if high > low else high
    centre_x = size / 2 + rng.uniform(-0.12, 0.12) * size
    y, x = rows - centre_y, columns - centre_x
    angle = np.arctan2(y, x)
    edge = radius * (
        1 + 0.15 * np.sin(2 * angle + rng.uniform(0, 6.3)) + 0.10 * np.sin(3 * angle + rng.uniform(0, 6.3))
    )
    inside = np.hypot(y, x) < edge
    if (mask[np.hypot(y, x) < edge + px(8)] == TissueClass.DERMIS).all():
        mask[inside] = TissueClass.EPIDERMIS


def place_nuclei(rng: np.random.Generator, tissue: ToyTissue, mpp: float) -> Cells:
    """Places nuclei: upright ones along the dermis, round ones above, flat ones under the keratin."""
    size = tissue.mask.shape[0]
    um = 1 / mpp
    up, from_surface = tissue.from_dermis_px, tissue.from_surface_px
    epidermis = tissue.mask == TissueClass.EPIDERMIS
    smooth = cv2.GaussianBlur(up, (0, 0), 2 * um)
    slope_y, slope_x = cv2.Sobel(smooth, cv2.CV_32F, 0, 1), cv2.Sobel(smooth, cv2.CV_32F, 1, 0)
    blocked = np.zeros((size, size), dtype=np.uint8)
    epidermal, dermal = np.zeros((size, size), dtype=np.int32), np.zeros((size, size), dtype=np.int32)
    is_basal, centres = [False], []

    def place(
        y: int, x: int, along: float, across: float, angle: float, room_px: float, into: Instances, number: int
    ) -> None:
        _stamp(rng, into, number, y, x, along, across, angle)
        cv2.circle(blocked, (x, y), round(room_px), 1, -1)

    palisade = epidermis & (up > 4.6 * um) & (up < 5.8 * um) & (from_surface > 8 * um)
    above = epidermis & (up > 12.5 * um) & (from_surface > 4.5 * um)
    for basal, where in ((True, palisade), (False, above)):
        for y, x in _shuffled(rng, where):
            if blocked[y, x]:
                continue
            angle = float(np.arctan2(slope_y[y, x], slope_x[y, x]))
            if basal:
                half, room = (rng.uniform(4.2, 5.0), rng.uniform(3.1, 3.7)), rng.uniform(7.6, 8.8)
            elif from_surface[y, x] < 13 * um:
                half, room, angle = (rng.uniform(4.6, 5.6), rng.uniform(2.4, 3.0)), 11.5, angle + np.pi / 2
            else:
                half, room, angle = (
                    (rng.uniform(4.0, 5.0), rng.uniform(3.7, 4.3)),
                    rng.uniform(9.6, 12),
                    rng.uniform(0, np.pi),
                )
            place(y, x, half[0] * um, half[1] * um, angle, room * um, epidermal, len(is_basal))
            is_basal.append(basal)
            centres.append((y, x))
    blocked[:] = 0
    inside_dermis = (tissue.mask == TissueClass.DERMIS).astype(np.uint8)
    inner = cv2.distanceTransform(inside_dermis, cv2.DIST_L2, 3) > 7 * um
    # Only a share of the places is used: the dermis has few cells, unevenly spread.
    candidates = _shuffled(rng, inner)
    dermal_count = 0
    for y, x in candidates[: len(candidates) // 40]:
        if not blocked[y, x]:
            dermal_count += 1
            half = (rng.uniform(3.5, 6.5) * um, rng.uniform(1.3, 2.2) * um)
            place(y, x, *half, rng.normal(0, 0.5), rng.uniform(13, 34) * um, dermal, dermal_count)

    territory, edges = territories(np.array(centres, np.intp).reshape(-1, 2), size)
    border = (cv2.GaussianBlur(edges, (0, 0), 0.6 * um) * 1.6).clip(0, 1)
    both = (epidermal > 0) | (dermal > 0)
    depth = cv2.distanceTransform(both.astype(np.uint8), cv2.DIST_L2, 3)
    rim = np.where(both, (1 - depth / (1.2 * um)).clip(0, 1), 0).astype(np.float32)
    return Cells(epidermal, dermal, territory, border, rim, np.array(is_basal))


def _shuffled(rng: np.random.Generator, where: BoolMap) -> npt.NDArray[np.intp]:
    """Rows and columns (N, 2) of the pixels in ``where``, in random order."""
    return np.asarray(rng.permutation(np.argwhere(where)), dtype=np.intp)


def _stamp(
    rng: np.random.Generator,
    into: Instances,
    number: int,
    y: int,
    x: int,
    half_along: float,
    half_across: float,
    angle: float,
) -> None:
    """Draws an ellipse with a slightly uneven outline, one pixel away from its neighbours."""
    reach = int(max(half_along, half_across) * 1.3) + 2
    top, left = max(0, y - reach), max(0, x - reach)
    window = into[top : y + reach + 1, left : x + reach + 1]
    rows, columns = np.ogrid[top : top + window.shape[0], left : left + window.shape[1]]
    dy, dx = rows - y - rng.uniform(-0.5, 0.5), columns - x - rng.uniform(-0.5, 0.5)
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    turn = np.arctan2(across, along)
    uneven = 1 + 0.05 * np.sin(2 * turn + rng.uniform(0, 6.3)) + 0.05 * np.sin(3 * turn + rng.uniform(0, 6.3))
    inside = np.hypot(along / half_along, across / half_across) < uneven
    taken = cv2.dilate((window > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    window[inside & ~taken] = number
