"""Synthetic skin tiles, varied enough that a network trained on them alone can start on real slides.

:mod:`dermatome.synthetic.skin` draws regular cores whose cells and layers are known. This module draws what a tissue
network must be prepared for, with a class for each pixel and nothing else: any stain, thin to thick epidermis, ridges,
tangential cuts, cultured epidermis, follicles, glands, vessels, fat, crusts, tears, folds, dirt, blur and JPEG. Every
number is drawn from a wide range (domain randomisation, Tobin et al., 2017), so that real slides lie within it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from dermatome.classes import BoolMap, ClassMap, Floats, Instances, RgbImage, TissueClass
from dermatome.labels.palette import Palette, classes_to_rgb
from dermatome.reports.figures import png_bytes
from dermatome.skin.tiles.crops import MANIFEST
from dermatome.storage.files import write_atomic

_FINER = 2
"""Factor by which tiles are drawn finer than they are returned, so that edges and nuclei are not jagged."""
_BACKGROUND, _DERMIS, _EPIDERMIS, _KERATIN = (int(tissue) for tissue in TissueClass)


def varied_tile(seed: int, size_px: int = 256, mpp: float = 1.0) -> tuple[RgbImage, ClassMap]:
    """Draws one tile.

    Args:
        seed: seed for every random choice.
        size_px: height and width, px.
        mpp: microns per pixel; the content is drawn up to 1.5 times larger or smaller than in real skin, because the
            scale of a real slide may be declared wrongly.

    Returns:
        (size, size, 3) uint8 RGB and (size, size) uint8 of :class:`TissueClass`.
    """
    rng = np.random.default_rng([seed, 20])
    canvas = _Canvas.blank(rng, size_px * _FINER, mpp / _FINER * _spread(rng, 1 / 1.5, 1.5))
    _lay_tissue(canvas)
    if rng.random() < 0.15:  # a second piece with its own orientation
        other = _Canvas.blank(rng, size_px * _FINER, canvas.mpp)
        _lay_tissue(other)
        free = _distance(canvas.mask == _BACKGROUND) > 8 / canvas.mpp
        for name in ("mask", "depth", "height", "along"):
            own = getattr(canvas, name)
            own[free] = getattr(other, name)[free]
    _add_adnexa(canvas)
    _tear(canvas)
    od = _stain(canvas, _Stain.draw(rng))
    pixels = _photograph(canvas, od)
    mask = np.ascontiguousarray(canvas.mask[_FINER // 2 :: _FINER, _FINER // 2 :: _FINER])
    return pixels, mask


@dataclass(frozen=True)
class VariedTile:
    """A tile that is drawn when it is read; for the arguments see :func:`varied_tile`."""

    seed: int
    mpp: float

    def read(self) -> tuple[RgbImage, ClassMap]:
        """Draws image and mask."""
        return varied_tile(self.seed, mpp=self.mpp)


def varied_tiles(count: int, mpp: float, seed: int = 0) -> list[VariedTile]:
    """Tiles that no other seed draws."""
    return [VariedTile(number, mpp) for number in range(1_000_000 * seed, 1_000_000 * seed + count)]


def write_varied_tiles(folder: Path, count: int, mpp: float, seed: int = 0) -> Path:
    """Writes tiles in the training's format (:func:`dermatome.skin.tiles.crops.load_tiles`); no two folders share one.

    Returns:
        ``folder``.
    """
    palette = Palette.shipped("dermatome")
    tiles: list[dict[str, str]] = []
    for tile in varied_tiles(count, mpp, seed):
        image, mask = tile.read()
        name = f"synthetic-{tile.seed}"
        write_atomic(folder / "images" / f"{name}.png", png_bytes(image))
        write_atomic(folder / "masks" / f"{name}.png", png_bytes(classes_to_rgb(mask, palette)))
        tiles.append({"name": name, "image": name, "licence": "MIT"})
    palette.save(folder / "palette.json")
    write_atomic(folder / MANIFEST, json.dumps({"tiles": tiles}, indent=2).encode())
    return folder


@dataclass
class _Canvas:
    """A tile during drawing; arrays share height and width, lengths are in µm.

    Attributes:
        depth: depth below the surface of the living epidermis.
        height: height in the keratin, from 0 at the epidermis to 1 at its top.
        along: position along the surface.
        special: 0, or a special structure besides the class: see the constants.
        dermal_cells: x and y, px, and angle, degrees, of nuclei in the walls of tubes.
    """

    rng: np.random.Generator
    mpp: float
    x: Floats
    y: Floats
    mask: ClassMap
    depth: Floats
    height: Floats
    along: Floats
    special: ClassMap
    dermal_cells: list[tuple[float, float, float]] = field(default_factory=list)

    @classmethod
    def blank(cls, rng: np.random.Generator, side: int, mpp: float) -> _Canvas:
        y, x = (np.mgrid[:side, :side].astype(np.float32) - side / 2) * np.float32(mpp)
        mask, zeros = np.zeros((side, side), np.uint8), np.zeros((side, side), np.float32)
        return cls(rng, mpp, x, y, mask, zeros, zeros.copy(), x.copy(), mask.copy())

    @property
    def field_um(self) -> float:
        return float(self.mask.shape[0] * self.mpp)

    def noise(self, scale_um: float, u: Floats | None = None, v: Floats | None = None, stretch: float = 1.0) -> Floats:
        """Smooth noise of mean 0 and deviation about 1, ``scale_um`` coarse, ``stretch`` times longer along ``u``."""
        if u is None or v is None:
            count, side = int(self.field_um / scale_um) + 4, self.mask.shape[0]
            grid = self.rng.standard_normal((min(count, side), min(count, side)), dtype=np.float32)
            return np.asarray(1.35 * cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC))
        grid = np.pad(self.rng.standard_normal((64, 64), dtype=np.float32), 2, mode="wrap")
        smooth = 1.35 * cv2.resize(grid, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)[8:-8, 8:-8]
        at_u, at_v = ((t * (4 / by)).astype(np.float32) for t, by in ((u, scale_um * stretch), (v, scale_um)))
        return np.asarray(cv2.remap(smooth, at_u, at_v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))


_FAT, _MEMBRANE, _VESSEL, _GLAND, _CRUST, _GAP = 1, 2, 3, 4, 5, 6


def _spread(rng: np.random.Generator, low: float, high: float) -> float:
    """A random number whose logarithm is uniformly distributed."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _distance(inside: BoolMap) -> Floats:
    return np.asarray(cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 3), dtype=np.float32)


def _lay_tissue(c: _Canvas) -> None:
    """Sets class, depth, height and position: a cut through skin at any angle, a tangential cut, a cultured sheet."""
    rng = c.rng
    angle = rng.uniform(0, 2 * np.pi)
    side = c.field_um
    bend = c.noise(_spread(rng, 80, 300)) * rng.uniform(0, 22) + c.noise(18) * rng.uniform(0, 2) + c.noise(6) * 0.7
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along = c.x * cos + c.y * sin + c.noise(60) * rng.uniform(0, 8)
    down = c.y * cos - c.x * sin + bend
    thickness = _spread(rng, 30, 260)
    ridge_um = rng.uniform(0, 1) ** 1.5 * rng.uniform(20, 160)
    period = _spread(rng, 45, 220)
    horn = _spread(rng, 6, 110) * (rng.random() > 0.12)
    # 0 skin, 1 deep dermis, 2 tangential cut, 3 cultured sheet, 4 hardly anything.
    kind = rng.choice(5, p=[0.67, 0.12, 0.08, 0.11, 0.02])
    # The surface may lie anywhere in the tile; deep in the dermis it lies outside.
    shift = {1: rng.uniform(thickness + ridge_um, 900)}.get(kind, rng.uniform(-0.4, 0.5) * side)
    down = down + np.float32(shift)
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (along / period) + 1.6 * c.noise(period * 0.8, along, down * 0.1))
    ridge = wave ** rng.uniform(0.6, 2.5) * ridge_um * (1 + 0.4 * c.noise(period, along, down * 0.05)).clip(0.2)
    junction = thickness * (1 + 0.18 * c.noise(150, along, down * 0.05)) + ridge + c.noise(5) * rng.uniform(0, 1.5)
    horn_here = horn * (1 + 0.35 * c.noise(60, along, down * 0.1)).clip(0.15)
    mask = np.where(down > junction, _DERMIS, _EPIDERMIS)
    mask[down < 0] = _KERATIN
    mask[down < -horn_here] = _BACKGROUND
    c.height[...] = -down / np.maximum(horn_here, 1)
    if kind == 2:  # tangential: papillae of dermis in a sea of epidermis, or islands of it
        pattern = c.noise(_spread(rng, 25, 90)) + 0.4 * c.noise(20) + 0.004 * down * rng.normal()
        mask = np.where(pattern > rng.uniform(-1.0, 1.2), _DERMIS, _EPIDERMIS)
        down = np.where(mask == _EPIDERMIS, np.float32(50), 200).astype(np.float32)
        mask[c.x * cos + bend > rng.uniform(0.1, 1.0) * side] = _BACKGROUND
    elif kind == 3:  # cultured: no dermis, sometimes a membrane below
        membrane = rng.uniform(0, 45) * (rng.random() < 0.6)
        c.special[(mask == _DERMIS) & (down < junction + membrane)] = _MEMBRANE
        mask[mask == _DERMIS] = _BACKGROUND
    elif kind == 4 and rng.random() < 0.5:
        mask[:] = _BACKGROUND
    end = _spread(rng, 150, 4000)  # the lower edge of the section
    mask[(down > junction + end + 40 * c.noise(70) + 6 * c.noise(12)) & (kind != 2)] = _BACKGROUND
    if rng.random() < 0.25:  # the lateral edge
        mask[along > rng.uniform(-0.2, 0.6) * side + 10 * c.noise(60) + 3 * c.noise(10)] = _BACKGROUND
    if rng.random() < 0.3:  # flakes that come off
        flakes = (c.noise(rng.uniform(3, 9), along, down, rng.uniform(6, 14)) > 1.9) & (c.height > 1) & (c.height < 4)
        mask[flakes & (mask == _BACKGROUND) & (kind != 4)] = _KERATIN
    if rng.random() < 0.3:
        fat = down > junction + rng.uniform(80, 700) + 50 * c.noise(90)
        c.special[fat & (mask == _DERMIS)] = _FAT
    if rng.random() < 0.25:
        crust = (mask == _KERATIN) & (c.noise(60, along, down * 0.2) > rng.uniform(-1, 1))
        c.special[crust] = _CRUST
    c.mask[...], c.depth[...], c.along[...] = mask, down, along


def _add_adnexa(c: _Canvas) -> None:
    """Follicles and islands (epidermis, with keratin or a lumen), glands and vessels (dermis)."""
    rng, um = c.rng, 1 / c.mpp
    deep = _distance(c.mask == _DERMIS) * c.mpp
    for _ in range(rng.poisson(c.field_um / 80)):
        kind = rng.choice(4, p=[0.2, 0.12, 0.28, 0.4])  # follicle, island, gland, vessel
        radius = {0: rng.uniform(25, 90), 1: rng.uniform(15, 60), 2: rng.uniform(12, 28), 3: rng.uniform(6, 30)}[kind]
        places = np.argwhere(deep > radius * (0.8 if kind < 2 else 1.1))
        if not len(places):
            continue
        row, column = places[rng.integers(len(places))]
        copies = rng.integers(2, 8) if kind == 2 else 1
        for _ in range(copies):
            y, x = c.y - c.y[row, 0], c.x - c.x[0, column]
            if copies > 1:
                y, x = y - rng.normal() * radius * 1.6, x - rng.normal() * radius * 1.6
            turn, long = rng.uniform(0, np.pi), rng.uniform(1, 2.8 if kind != 2 else 1.6)
            away = np.hypot((x * np.cos(turn) + y * np.sin(turn)) / long, y * np.cos(turn) - x * np.sin(turn))
            away = away + (0.06 * radius) * c.noise(max(8, radius * 0.7))
            inside = (away < radius) & (c.mask == _DERMIS)
            if kind < 2:
                c.mask[inside], c.depth[inside] = _EPIDERMIS, (away[inside] * 1.2)
                if kind == 0 and rng.random() < 0.7:
                    core = inside & (away < radius * rng.uniform(0.2, 0.5))
                    c.mask[core], c.height[core], c.along[core] = _KERATIN, (away[core] / radius), c.x[core]
            else:
                c.special[inside] = _GLAND if kind == 2 else _VESSEL
                # A tube's wall is one or two rows of cells round a lumen.
                wall = rng.uniform(5, 9) if kind == 2 else rng.uniform(1.5, 4)
                step = rng.uniform(5, 8) / max(radius - wall / 2, 3)
                for at in np.arange(0, 2 * np.pi, step):
                    r = radius - wall * rng.uniform(0.4, 0.7)
                    px, py = r * long * np.cos(at), r * np.sin(at)
                    if copies == 1:
                        x_px = column + (px * np.cos(turn) - py * np.sin(turn)) * um
                        y_px = row + (px * np.sin(turn) + py * np.cos(turn)) * um
                        c.dermal_cells.append((float(x_px), float(y_px), float(np.degrees(at + turn) + 90)))
                lumen = inside & (away < radius - wall)
                c.special[lumen] = _VESSEL if kind == 3 else _GLAND
                c.depth[lumen] = -1  # a lumen: see _stain


def _tear(c: _Canvas) -> None:
    """Draws tears and a cleft below the epidermis: background where tissue separated."""
    rng = c.rng
    if rng.random() < 0.25:
        line = np.abs(c.noise(_spread(rng, 40, 140)))
        torn = ((line < rng.uniform(0.03, 0.2)) & (c.noise(80) > 0.3) & (c.mask > 0)).astype(np.uint8)
        wide = max(3, round(14 / c.mpp))
        c.special[torn > 0] = _GAP  # narrow tears keep their class, as annotators draw them
        c.mask[cv2.morphologyEx(torn, cv2.MORPH_OPEN, np.ones((wide, wide), np.uint8)) > 0] = _BACKGROUND
    if rng.random() < 0.08:
        near = _distance(c.mask != _EPIDERMIS) * c.mpp
        cleft = (c.mask == _DERMIS) & (near < rng.uniform(4, 30) * (0.5 + c.noise(50)))
        c.mask[cleft] = _BACKGROUND


@dataclass(frozen=True)
class _Stain:
    """Optical density vectors (3, RGB) of nuclear dye, counterstain and DAB, and amounts by class."""

    vectors: Floats
    nuclei: float
    nuclear_dye: Floats
    counter: Floats
    dab: float
    pattern: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Stain:
        kind = rng.choice(3, p=[0.35, 0.3, 0.35])  # H&E, PAS, IHC
        nuclear = np.array([rng.uniform(0.4, 0.85), rng.uniform(0.55, 0.9), rng.uniform(0.05, 0.5)])
        if kind == 0:
            counter = np.array([rng.uniform(0.03, 0.3), 0.95, rng.uniform(0.1, 0.6)])
        else:
            counter = np.array([rng.uniform(0.1, 0.5), 0.95, rng.uniform(0.02, 0.35)])
        dab = np.array([rng.uniform(0.2, 0.4), rng.uniform(0.5, 0.65), rng.uniform(0.65, 0.9)])
        vectors = np.stack([v / np.linalg.norm(v) for v in (nuclear, counter, dab)]).astype(np.float32)
        nuclei = _spread(rng, 0.3, 1.3)
        weak = 0.25 if kind == 2 else 1.0
        dermis = _spread(rng, 0.06, 0.5) * weak
        epidermis = rng.uniform(0.0, 0.5) * nuclei
        return cls(
            vectors,
            nuclei,
            np.array([0, rng.uniform(0, 0.25) * epidermis, epidermis, rng.uniform(0, 1.2) * epidermis], np.float32),
            np.array([0, dermis, rng.uniform(0.2, 1.6) * dermis, rng.uniform(0.4, 2.2) * dermis], np.float32),
            _spread(rng, 0.15, 1.2) if kind == 2 and rng.random() < 0.8 else 0.0,
            int(rng.integers(8)),
        )


def _stain(c: _Canvas, s: _Stain) -> Floats:
    """Optical density, (S, S, 3)."""
    rng, um = c.rng, 1 / c.mpp
    epidermis, dermis, horn = (c.mask == k for k in (_EPIDERMIS, _DERMIS, _KERATIN))
    cloud = 1 + 0.15 * c.noise(60) + 0.08 * c.noise(12)
    grain = c.noise(1.2)

    texture = np.ones_like(c.x)
    texture[dermis] = _fibres(c)[dermis]
    texture[horn] = _lamellae(c)[horn]
    nuclear_dye, counter = s.nuclear_dye[c.mask] * texture * cloud, s.counter[c.mask] * texture * cloud
    dab = np.zeros_like(c.x)

    from_dermis = np.minimum(_distance(~dermis) * c.mpp, 400)
    cell = _spread(rng, 0.8, 1.3)
    spacing = rng.uniform(9, 13.5) * cell
    points = _points(c, epidermis, spacing)
    rows, columns = points.T
    basal_um = from_dermis[rows, columns]
    territory, border = _territory(c, points)
    # Between cells: clefts (pale) or membranes (dark).
    edge = rng.uniform(-0.75, 0.6) * border
    gradient = 1 + rng.uniform(-0.5, 0.6) * np.exp(-from_dermis / 15) + rng.uniform(-0.4, 0.3) * (c.depth < 15)
    shape = ((1 + edge) * gradient * (1 + 0.1 * grain)).clip(0.03)
    nuclear_dye[epidermis] *= shape[epidermis]
    counter[epidermis] *= shape[epidermis]

    # Epidermal nuclei: upright in the basal row, flat below the surface, in a pale halo.
    nucleus, halo = np.zeros_like(c.mask), np.zeros_like(c.mask)
    slope_y, slope_x = np.gradient(cv2.GaussianBlur(from_dermis, (0, 0), 3 * um))
    big, lost = rng.uniform(2.6, 4.2) * cell, rng.uniform(0, 0.25)
    halo_um = rng.uniform(0, 2.2) * (rng.random() < 0.6)
    flat_um = rng.uniform(0, 60) if rng.random() < 0.5 else rng.uniform(0, 15)
    for number, (row, column) in enumerate(points):
        if rng.random() < lost:
            continue
        long, short = big * rng.uniform(0.85, 1.35), big * rng.uniform(0.65, 0.95)
        angle = np.degrees(np.arctan2(slope_y[row, column], slope_x[row, column])) + rng.normal() * 15
        if basal_um[number] < 12:
            long, short = long * 1.1, short * 0.85
        elif 0 <= c.depth[row, column] < flat_um:
            long, short, angle = long * 1.2, short * 0.55, angle + 90
        else:
            angle = rng.uniform(0, 180)
        if halo_um:
            _ellipse(halo, column, row, (long + halo_um) * um, (short + halo_um) * um, angle, 255)
        _ellipse(nucleus, column, row, long * um, short * um, angle, int(rng.uniform(150, 255)))
    nucleus[~epidermis] = 0

    # Dermal nuclei: spindles of fibroblasts, round dark lymphocytes in clusters, the walls of tubes.
    crowd = np.exp(rng.uniform(0.2, 1.1) * c.noise(_spread(rng, 30, 120)) - 0.012 * from_dermis * rng.uniform(0, 1))
    solid = dermis & (c.special != _FAT) & (c.depth >= 0)
    for row, column in _points(c, solid, rng.uniform(8, 13) * cell):
        if rng.random() > 0.28 * crowd[row, column]:
            continue
        round_one = rng.random() < 0.15 * crowd[row, column]
        long = rng.uniform(2.0, 3.2) if round_one else rng.uniform(3.0, 6.0)
        short = long * rng.uniform(0.8, 1) if round_one else rng.uniform(0.9, 1.9)
        _ellipse(nucleus, column, row, long * um, short * um, rng.uniform(0, 180), int(rng.uniform(170, 255)))
    for x, y, angle in c.dermal_cells:
        _ellipse(nucleus, x, y, 3.2 * um, 1.7 * um, angle, 220)
    _in_keratin(c, nucleus, horn)

    lumen = dermis & (c.depth < 0)
    blood = (c.special == _VESSEL) & lumen & (rng.random() < 0.4)
    wall = dermis & (c.special == _GLAND) & ~lumen
    nuclear_dye[lumen], counter[lumen] = 0, 0
    counter[blood] = (s.counter.max() * rng.uniform(0.8, 1.6) * (0.6 + 0.5 * (c.noise(5) > 0)))[blood]
    nuclear_dye[wall] = s.nuclear_dye[_EPIDERMIS] * rng.uniform(0.6, 1.2)
    counter[wall] = s.counter[_EPIDERMIS] * rng.uniform(0.6, 1.2)
    membrane = c.special == _MEMBRANE
    counter[membrane & (c.mask == _BACKGROUND)] = rng.uniform(0, 0.15)

    pale = (cv2.GaussianBlur(halo, (0, 0), 0.5 * um) / np.float32(255)) * rng.uniform(0.4, 0.95)
    for dye in (nuclear_dye, counter):
        dye *= np.where(epidermis, 1 - pale, 1)
    chromatin = cv2.GaussianBlur(nucleus, (0, 0), 0.5 * um) / np.float32(255)
    inner = cv2.erode(nucleus, np.ones((3, 3), np.uint8), iterations=max(1, round(um))) > 0
    vesicular = 1 - rng.uniform(0, 0.5) * inner
    nuclear_dye += s.nuclei * chromatin * (1 + 0.25 * grain).clip(0.3) * vesicular

    if rng.random() < 0.25:  # the basement membrane
        counter += (epidermis & (from_dermis < rng.uniform(1, 2.5))) * rng.uniform(0.1, 0.6)
    if s.dab:
        of_cell = _stained_cells(c, s, points, basal_um)
        places = {0: chromatin, 1: border, 2: 1 - chromatin}.get(int(rng.integers(4)), np.ones_like(c.x))
        dab += np.where(epidermis, of_cell[territory] * places * (1 + 0.15 * grain), 0)
        dab += s.dab * horn * texture * rng.uniform(0, 0.9) * (rng.random() < 0.5)
        dab += s.dab * dermis * texture * rng.uniform(0, 0.6) * (rng.random() < 0.3)
        dab += s.dab * 0.5 * membrane * rng.uniform(0, 1)
    if rng.random() < 0.2:  # melanin above the basal nuclei
        melanin = (c.noise(1.5) + c.noise(6) > rng.uniform(0.5, 2)) & epidermis & (from_dermis < rng.uniform(6, 20))
        dab += rng.uniform(0.2, 0.8) * melanin
    amounts = np.stack([nuclear_dye, counter, dab], axis=-1)
    amounts[c.special == _GAP] = 0
    return np.asarray(amounts.clip(0) @ s.vectors, dtype=np.float32)


def _stained_cells(c: _Canvas, s: _Stain, points: npt.NDArray[np.intp], basal_um: Floats) -> Floats:
    """DAB of each epidermal cell, (N + 1,) float32, by pattern."""
    rng = c.rng
    depth = c.depth[points[:, 0], points[:, 1]]
    chosen = {
        0: basal_um < 12,
        1: basal_um >= 12,
        2: depth < rng.uniform(10, 40),
        3: rng.random(len(points)) < rng.uniform(0.02, 0.4),
        4: (basal_um < 12) & (rng.random(len(points)) < 0.3),
        5: np.exp(-basal_um / 40),
    }.get(s.pattern, np.ones(len(points)))
    amount = s.dab * chosen * np.exp(rng.normal(0, rng.uniform(0.05, 0.4), len(points)))
    return np.append(np.float32(0), amount.astype(np.float32))


def _in_keratin(c: _Canvas, nucleus: ClassMap, horn: BoolMap) -> None:
    """Parakeratosis: flat nuclei left in the keratin; a crust: crowded dark granulocytes."""
    rng, um = c.rng, 1 / c.mpp
    crust = horn & (c.special == _CRUST)
    for row, column in _points(c, crust, 5.5):
        _ellipse(nucleus, column, row, rng.uniform(1.5, 3) * um, rng.uniform(1.2, 2.2) * um, rng.uniform(0, 180), 250)
    if rng.random() < 0.12:
        slope_y, slope_x = np.gradient(cv2.GaussianBlur(c.height, (0, 0), 4 * um))
        for row, column in _points(c, horn & ~crust, rng.uniform(9, 18)):
            angle = np.degrees(np.arctan2(slope_y[row, column], slope_x[row, column])) + 90
            _ellipse(nucleus, column, row, rng.uniform(3, 5) * um, rng.uniform(0.7, 1.3) * um, angle, 200)


def _fibres(c: _Canvas) -> Floats:
    """Texture of the dermis, around 1: bundles in two directions, with pale gaps; fat as bubbles."""
    rng = c.rng
    size, gaps = _spread(rng, 1.5, 9), rng.uniform(0, 1) ** 0.6
    thin = _spread(rng, 1, 3.5)
    bend_x, bend_y = (c.noise(35) * rng.uniform(3, 14) + c.noise(9) * rng.uniform(0, 3) for _ in range(2))
    total = np.zeros_like(c.x)
    for _ in range(2):
        angle = rng.uniform(0, np.pi)
        u = (c.x + bend_x) * np.float32(np.cos(angle)) + (c.y + bend_y) * np.float32(np.sin(angle))
        v = (c.y + bend_y) * np.float32(np.cos(angle)) - (c.x + bend_x) * np.float32(np.sin(angle))
        ridge = 1 - np.abs(c.noise(size, u, v, rng.uniform(2.5, 9))) * thin  # 1 on the line of a fibre
        total = np.maximum(total, ridge) if rng.random() < 0.6 else (total + ridge) / 2
    sharp = _spread(rng, 0.7, 3)
    lines = total.clip(0, 1) ** sharp * (1 + sharp) * 0.7
    texture = gaps * lines + (1 - gaps) * (1 + 0.2 * c.noise(size * 1.5))
    texture = texture * (1 + 0.25 * c.noise(25)).clip(0.3)
    fat = c.special == _FAT
    if fat.any():
        _, border = _territory(c, _points(c, fat, rng.uniform(45, 80)))
        texture = np.where(fat, border * 1.5, texture)
    return np.asarray(texture.clip(0.0, 3), dtype=np.float32)


def _lamellae(c: _Canvas) -> Floats:
    """Texture of the keratin: compact, or wavy lamellae with gaps between them."""
    rng = c.rng
    across = -c.depth + c.noise(40, c.along, c.depth * 0.3) * rng.uniform(0, 8) + c.noise(12) * rng.uniform(0, 3)
    lines = c.noise(_spread(rng, 1.2, 14), c.along, across, rng.uniform(5, 20))
    open_share = rng.uniform(0, 1) ** 0.4 * (rng.random() < 0.8)
    thin = _spread(rng, 1.2, 9)
    ridge = (1 - np.abs(lines) * thin).clip(0, 1)
    loose = ridge * (1 + thin * rng.uniform(0.2, 0.6)) + rng.uniform(0, 0.25) * (c.noise(25) > 0)
    texture = open_share * loose + (1 - open_share) * (1 + 0.25 * lines)
    texture = np.where(c.special == _CRUST, 1.6 * (c.noise(5) > -0.8), texture)
    return np.asarray(texture.clip(0, 3), dtype=np.float32)


def _points(c: _Canvas, where: BoolMap, spacing_um: float) -> npt.NDArray[np.intp]:
    """(N, 2) rows and columns of a jittered hexagonal grid, restricted to ``where``."""
    side, step = where.shape[0], spacing_um / c.mpp
    rows, columns = np.mgrid[0 : side / step * 1.15 + 1, 0 : side / step + 1].astype(np.float64)
    columns = columns + 0.5 * (rows % 2)
    rows = rows * 0.87
    jitter = c.rng.uniform(-0.33, 0.33, (2, *rows.shape))
    at = (np.stack([rows + jitter[0], columns + jitter[1]], axis=-1).reshape(-1, 2) * step).astype(np.intp)
    at = at[(at < side).all(axis=1) & (at >= 0).all(axis=1)]
    return np.asarray(at[where[at[:, 0], at[:, 1]]], dtype=np.intp)


def _territory(c: _Canvas, points: npt.NDArray[np.intp]) -> tuple[Instances, Floats]:
    """For each pixel the number of the nearest point, from 1, and its closeness to the border of two (0 to 1)."""
    territory, edges = territories(points, c.mask.shape[0])
    if not len(points):
        return territory, edges
    border = cv2.GaussianBlur(edges, (0, 0), c.rng.uniform(0.4, 0.8) / c.mpp) * 1.8
    return territory, np.asarray(border.clip(0, 1), dtype=np.float32)


def territories(points: npt.NDArray[np.intp], size_px: int) -> tuple[Instances, Floats]:
    """(S, S): the number, from 1, of the nearest of (N, 2) points, 0 if there is none; and 1 where two of them meet."""
    territory = np.zeros((size_px, size_px), dtype=np.int32)
    if len(points):
        at = tuple(points.T)
        seeds = np.ones((size_px, size_px), dtype=np.uint8)
        seeds[at] = 0
        _, nearest = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
        number_of = np.zeros(int(nearest.max()) + 1, dtype=np.int32)
        number_of[nearest[at]] = np.arange(1, len(points) + 1)
        territory = number_of[nearest]
    edges = np.zeros((size_px, size_px), dtype=np.float32)
    edges[1:] += territory[1:] != territory[:-1]
    edges[:, 1:] += territory[:, 1:] != territory[:, :-1]
    return territory, edges.clip(0, 1)


def _ellipse(into: ClassMap, x: float, y: float, long: float, short: float, angle: float, value: int) -> None:
    cv2.ellipse(into, ((float(x), float(y)), (2 * float(long), 2 * float(short)), float(angle)), value, -1)


def _photograph(c: _Canvas, od: Floats) -> RgbImage:
    """Folds, lamp, dirt, blur, noise and JPEG, at the resolution of the tile."""
    rng = c.rng
    if rng.random() < 0.1:
        od = od * np.where(np.abs(c.noise(_spread(rng, 80, 250))) < 0.08, rng.uniform(1.5, 2.2), 1)[..., None]
    od = od + (c.noise(200) * 0.004 * (rng.random() < 0.5))[..., None]
    if rng.random() < 0.4:
        dirt = (c.noise(_spread(rng, 4, 40)) + c.noise(_spread(rng, 20, 80)) - rng.uniform(2.8, 4)).clip(0)
        od = od + dirt[..., None] * rng.uniform(0.02, 0.25) * rng.uniform(0.5, 1, 3).astype(np.float32)
    lamp = rng.uniform(0.82, 1.1) * (1 + rng.normal(0, 0.025, 3) * (rng.random() < 0.6))
    light = (lamp * np.power(10, -od)).clip(0, 1).astype(np.float32)
    side = od.shape[0] // _FINER
    blur = rng.uniform(0, 1.6) * (rng.random() < 0.6)
    if blur > 0.2:
        light = cv2.GaussianBlur(light, (0, 0), blur)
    light = cv2.resize(light, (side, side), interpolation=cv2.INTER_AREA)
    light = light ** _spread(rng, 0.8, 1.25) + rng.uniform(0, 0.02) * rng.standard_normal(light.shape, dtype=np.float32)
    pixels = np.rint(light.clip(0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = int(rng.integers(45, 96))
        _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        pixels = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)[..., ::-1]
    return np.ascontiguousarray(pixels)
