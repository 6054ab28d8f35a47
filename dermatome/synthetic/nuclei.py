"""Synthetic H&E fields with known ground truth: nests of epithelium in a stroma with immune cells.

Classes differ as in real tissue. Epithelial nuclei are large, oval and pale, with a nucleolus, in rows of pink cells.
Lymphocytes are small, round and dark, in crowds. Neutrophils are small, with two to four connected dark lobes.
Macrophages are large, bean-shaped and pale, in foamy cytoplasm. Nuclei touch, and one may hide a little of another.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dermatome.classes import BoolMap, Floats, Instances, NucleusClass
from dermatome.geometry import Box, Size
from dermatome.labels.drawn_maps import NucleusMaps, ternary_map
from dermatome.slides.slide import Slide
from dermatome.synthetic.skin import drawn_slide, photograph
from dermatome.synthetic.skin_shapes import smooth_noise

TOY_NUCLEI_MPP = 0.25
"""The scale of MoNuSAC, 40× magnification."""

DEFAULT_SIZE = Size(512, 512)

Points = npt.NDArray[np.float64]

_HIDDEN_SHARE = 0.15
_SAMPLES = 48
"""Number of points of an outline."""


@dataclass(frozen=True)
class ToyNuclei:
    """A synthetic field and its ground truth.

    Attributes:
        slide: pixels, scale and name.
        maps: instances, classes, semantic and ternary maps, without ambiguous pixels.
        nests: (H, W) bool, where the tissue is epithelium.
        densities: (H, W, 2) float32, decadic optical density of hematoxylin and eosin before noise.
    """

    slide: Slide
    maps: NucleusMaps
    nests: BoolMap
    densities: Floats


@dataclass(frozen=True)
class _Kind:
    """Appearance of the nuclei of a class; lengths in µm, decadic densities of hematoxylin.

    Attributes:
        radius: mean radius, and its relative deviation.
        stretch: lowest and highest ratio of length to width.
        bend: how far both ends bend to one side, as a share of the radius.
        wobble: irregularity of the outline, as a share of the radius.
        density: density of chromatin.
        clumps: variation of density in coarse chromatin, as a share.
        rim: how much denser the edge is, as a share.
        spacing: distance between the places that are tried.
    """

    radius: tuple[float, float]
    stretch: tuple[float, float]
    bend: float
    wobble: float
    density: float
    clumps: float
    rim: float
    spacing: float


_KINDS = {
    NucleusClass.EPITHELIAL: _Kind((4.6, 0.13), (1.05, 1.6), 0.05, 0.05, 0.34, 0.22, 0.55, 6.5),
    NucleusClass.LYMPHOCYTE: _Kind((3.0, 0.09), (1.0, 1.18), 0.0, 0.04, 0.72, 0.10, 0.10, 5.5),
    NucleusClass.NEUTROPHIL: _Kind((3.3, 0.10), (1.0, 1.2), 0.0, 0.05, 0.85, 0.06, 0.05, 9.0),
    NucleusClass.MACROPHAGE: _Kind((4.5, 0.14), (1.5, 2.1), 0.36, 0.07, 0.27, 0.12, 0.40, 11.0),
}


@dataclass
class _Field:
    """A field while it is drawn.

    Attributes:
        mpp: microns per pixel.
        instances: (S, S) int32.
        classes: class of each nucleus; entry 0 is the background.
        chromatin: (S, S) float32, density of hematoxylin in nuclei.
    """

    mpp: float
    instances: Instances
    classes: list[int]
    chromatin: Floats


def toy_nuclei(
    seed: int, size: Size = DEFAULT_SIZE, *, mpp: float = TOY_NUCLEI_MPP, name: str | None = None
) -> ToyNuclei:
    """Draws one synthetic field; the same seed and size give the same field.

    Args:
        seed: seed for tissue, nuclei, colours, and the number of nuclei of each class.
        size: size of the image.
        mpp: microns per pixel; classes can be distinguished between 0.2 and 0.6.
        name: name of the slide; by default built from the seed.
    """
    layout, looks, chemistry = (np.random.default_rng([seed, part]) for part in range(3))
    side = max(size.height_px, size.width_px, 64)
    nests = smooth_noise(layout, side, 38 / mpp) > layout.uniform(-0.5, 0.5)
    field = _Field(mpp, np.zeros((side, side), np.int32), [0], np.zeros((side, side), np.float32))
    _populate(layout, looks, field, nests)
    densities = _stained(chemistry, field, nests)
    pixels = photograph(chemistry, np.concatenate([densities, np.zeros_like(densities[..., :1])], axis=2), mpp)
    here = Box.whole(size).slices
    pixels = np.ascontiguousarray(pixels[here])
    maps = _ground_truth(field.instances[here], np.array(field.classes, np.uint8))
    return ToyNuclei(drawn_slide(name or f"toy-nuclei-{seed}", pixels, mpp), maps, nests[here], densities[here])


def _ground_truth(instances: Instances, classes: npt.NDArray[np.uint8]) -> NucleusMaps:
    """The maps of the part of the field on the image, with nuclei numbered without gaps."""
    seen = np.union1d(0, np.unique(instances))
    instances = np.searchsorted(seen, instances).astype(np.int32)
    classes = classes[seen]
    return NucleusMaps(instances, classes[instances], ternary_map(instances), classes)


def _populate(layout: np.random.Generator, looks: np.random.Generator, field: _Field, nests: BoolMap) -> None:
    """Places epithelium in nests and immune cells in the stroma, lymphocytes in crowds and a few in the nests."""
    side = field.instances.shape[0]
    crowds = smooth_noise(layout, side, 22 / field.mpp)
    crowded = crowds > layout.uniform(-0.2, 1.1)
    # Fields differ in how inflamed they are.
    some = {kind: layout.uniform(0.35, 1.0) for kind in _KINDS}
    inside_nests = layout.uniform(0.02, 0.15)
    where = {
        NucleusClass.EPITHELIAL: np.where(nests, 0.95, 0.0),
        NucleusClass.MACROPHAGE: np.where(nests, 0.04, 0.5 * some[NucleusClass.MACROPHAGE]),
        NucleusClass.NEUTROPHIL: np.where(nests, 0.05, 0.55 * some[NucleusClass.NEUTROPHIL]),
        NucleusClass.LYMPHOCYTE: np.where(
            nests, inside_nests, np.where(crowded, 0.95, 0.12) * some[NucleusClass.LYMPHOCYTE]
        ),
    }
    # Rare classes come first, or the frequent ones would leave them no room.
    for kind in (NucleusClass.MACROPHAGE, NucleusClass.NEUTROPHIL, NucleusClass.EPITHELIAL, NucleusClass.LYMPHOCYTE):
        spacing = _KINDS[kind].spacing / field.mpp
        steps = np.arange(0, side + spacing, spacing)
        places = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        places = places + layout.uniform(-0.45, 0.45, places.shape) * spacing
        chances = layout.uniform(size=len(places))
        for (x, y), chance in zip(places, chances, strict=True):
            row, column = (int(np.clip(value, 0, side - 1)) for value in (y, x))
            if chance < where[kind][row, column]:
                _place(looks, field, kind, x, y)


def _place(rng: np.random.Generator, field: _Field, kind: NucleusClass, x: float, y: float) -> None:
    """Draws one nucleus at ``x``, ``y`` unless others would hide too much of it."""
    looks = _KINDS[kind]
    radius = looks.radius[0] * np.exp(rng.normal(0, looks.radius[1])) / field.mpp
    turn = rng.uniform(0, 2 * np.pi)
    lobes = _lobes(rng, radius) if kind is NucleusClass.NEUTROPHIL else [_outline(rng, looks, radius)]
    depth = looks.density * float(np.clip(rng.normal(1, 0.13), 0.7, 1.35))
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    shapes = [lobe @ rotation + (x, y) for lobe in lobes]
    points = np.concatenate(shapes)
    side = field.instances.shape[0]
    left, top = np.maximum(np.floor(points.min(0)).astype(int) - 2, 0)
    right, bottom = np.minimum(np.ceil(points.max(0)).astype(int) + 3, side)
    if left >= right or top >= bottom:
        return
    here = (slice(top, bottom), slice(left, right))
    solid = np.zeros((bottom - top, right - left), np.uint8)
    for shape in shapes:
        cv2.fillPoly(solid, [np.rint((shape - (left, top)) * 16).astype(np.int32)], 1, shift=4)
    whole = solid
    if len(shapes) > 1:  # threads connect lobes, and an annotator draws around all of them
        reach = 2 * round(0.9 / field.mpp) + 1
        whole = cv2.morphologyEx(
            cv2.copyMakeBorder(solid, reach, reach, reach, reach, cv2.BORDER_CONSTANT),
            cv2.MORPH_CLOSE,
            cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)),
        )[reach:-reach, reach:-reach]
    free = ((whole > 0) & (field.instances[here] == 0)).astype(np.uint8)
    area = int(whole.sum())
    pieces = cv2.connectedComponents(free, connectivity=4)[0] - 1
    if pieces != 1 or free.sum() < (1 - _HIDDEN_SHARE) * area:
        return
    amount = _chromatin(rng, looks, solid, depth, field.mpp)
    if kind is NucleusClass.EPITHELIAL:
        _add_nucleoli(rng, amount, points - (left, top), radius)
    inside = free > 0
    field.instances[here][inside] = len(field.classes)
    field.chromatin[here][inside] = amount[inside]
    field.classes.append(int(kind))


def _outline(rng: np.random.Generator, looks: _Kind, radius: float) -> Points:
    """A stretched, bent and slightly irregular circle around (0, 0): points (:data:`_SAMPLES`, 2)."""
    angle = np.linspace(0, 2 * np.pi, _SAMPLES, endpoint=False)
    wobble = sum(rng.normal(0, looks.wobble) * np.cos(k * angle + rng.uniform(0, 6.3)) / (k - 1) for k in range(2, 6))
    stretch = np.sqrt(rng.uniform(*looks.stretch))
    x = radius * (1 + wobble) * np.cos(angle) * stretch
    y = radius * (1 + wobble) * np.sin(angle) / stretch
    bend = looks.bend * rng.uniform(0.6, 1.3)
    return np.stack([x, y + bend * (x**2 / (radius * stretch) - radius * stretch / 3)], axis=-1)


def _lobes(rng: np.random.Generator, radius: float) -> list[Points]:
    """Two to four round lobes in an arc about as wide as a nucleus of this radius."""
    count = int(rng.choice([2, 3, 4], p=[0.25, 0.5, 0.25]))
    arc = np.cumsum(rng.uniform(1.2, 1.7, count))
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    shapes = []
    for place in arc:
        size = radius * rng.uniform(0.44, 0.58) * np.array([1.0, rng.uniform(0.8, 1.0)])
        shapes.append(circle * size + 0.56 * radius * np.array([np.cos(place), np.sin(place)]))
    return shapes


def _chromatin(
    rng: np.random.Generator, looks: _Kind, solid: npt.NDArray[np.uint8], depth: float, mpp: float
) -> Floats:
    """Density of hematoxylin in one nucleus, paler between its lobes."""
    deep = cv2.distanceTransform(cv2.copyMakeBorder(solid, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 3)[1:-1, 1:-1]
    rim = np.exp(-((deep * mpp / 0.55) ** 2))
    clumps = cv2.GaussianBlur(rng.standard_normal(solid.shape).astype(np.float32), (0, 0), 0.45 / mpp)
    clumps /= max(float(clumps.std()), 1e-6)
    amount = depth * (1 + looks.clumps * clumps + looks.rim * rim).clip(0.35)
    return np.where(solid > 0, amount, 0.4 * depth).astype(np.float32)


def _add_nucleoli(rng: np.random.Generator, amount: Floats, outline: Points, radius: float) -> None:
    middle = outline.mean(0)
    for _ in range(int(rng.integers(1, 3))):
        x, y = middle + rng.uniform(-0.3, 0.3, 2) * radius
        cv2.circle(
            amount, (round(x), round(y)), max(1, round(radius * rng.uniform(0.14, 0.2))), float(amount.max() * 1.5), -1
        )


def _stained(rng: np.random.Generator, field: _Field, nests: BoolMap) -> Floats:
    """Density of hematoxylin and eosin of the field, (S, S, 2) float32."""
    side, mpp = field.instances.shape[0], field.mpp
    grain, cloud = smooth_noise(rng, side, 0.8 / mpp), smooth_noise(rng, side, 30 / mpp)
    fibres = smooth_noise(rng, side, 2.2 / mpp, stretch=8)
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    fibres = cv2.remap(
        fibres, columns, rows + (4 / mpp) * smooth_noise(rng, side, 30 / mpp), cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    depth_h, depth_e = rng.uniform(0.8, 1.25), rng.uniform(0.6, 1.15)
    epithelium = cv2.GaussianBlur(nests.astype(np.float32), (0, 0), 0.8 / mpp) > 0.5  # without the noise's corners
    eosin = np.where(epithelium, 0.19 * (1 + 0.10 * cloud), 0.13 * (1 + 0.38 * fibres).clip(0.1))
    hematoxylin = np.where(epithelium, 0.07, 0.035) * (1 + 0.2 * cloud).clip(0.3)
    kinds = np.array(field.classes, np.uint8)[field.instances]
    foam = 1 + 0.5 * smooth_noise(rng, side, 1.1 / mpp)
    for kind, reach_um, e_there, h_there in (
        (NucleusClass.MACROPHAGE, 3.6, 0.085, 0.05),
        (NucleusClass.NEUTROPHIL, 1.9, 0.25, 0.02),
        (NucleusClass.LYMPHOCYTE, 0.6, 0.10, 0.10),
    ):
        away = cv2.distanceTransform((kinds != kind).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * mpp
        body = away < reach_um
        eosin[body] = (e_there * (foam.clip(0.2) if kind is NucleusClass.MACROPHAGE else 1 + 0.15 * grain))[body]
        hematoxylin[body] = h_there
    nuclei = field.instances > 0
    hematoxylin = hematoxylin * (1 + 0.10 * grain).clip(0.3)
    hematoxylin[nuclei] = (field.chromatin * (1 + 0.06 * grain))[nuclei]
    eosin[nuclei] = 0.06
    stack = np.stack([hematoxylin * depth_h, eosin * depth_e], axis=-1).astype(np.float32)
    blurred = cv2.GaussianBlur(stack, (0, 0), max(0.3, 0.22 / mpp))
    return np.asarray(blurred.clip(0), dtype=np.float32)
