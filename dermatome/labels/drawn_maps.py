"""Draws outlines of nuclei as maps: the nucleus, the class and the boundary at each pixel."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import IGNORED, NUCLEUS_LABELS, UNCLASSIFIED, ClassMap, Instances, NucleusClass, TernaryClass
from dermatome.errors import BadAnnotation
from dermatome.geometry import Size
from dermatome.labels.fill import check_crossed_rows, crossed_rows, outline_box, pixels_in_outlines
from dermatome.labels.imagescope import Annotation, Region

BOUNDARY_PX = 3
MAX_TIMES_COVERED = 20
"""Limit on the total area of the boxes around regions, in areas of the image, as drawing time grows with it."""
_MARGIN_PX = 1
"""Margin around the image in which outlines are drawn too, so that a hole at its edge is seen from outside."""
_SAME = 0.8
"""Intersection over union above which two outlines show the same nucleus; neighbours overlap far less."""
_WITHIN, _AROUND = 0.95, 3
"""An outline that contains at least this share of at least this many other nuclei marks a region, not a nucleus. Of
2,030 nuclei of MoNuSeg, none contains even one other."""
AMBIGUOUS = "ambiguous"
UNCLASSED = ("", "description", "nucleus", "nuclei", UNCLASSIFIED)
"""Layer names, in lower case, that name no class; MoNuSeg's layers have the name of a form field."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NucleusMaps:
    """The ground truth of one image; all maps are (H, W).

    Attributes:
        instances: int32, 0 background, 1..N without gaps.
        semantic: uint8, :class:`NucleusClass`; :data:`IGNORED` in ambiguous regions and in nuclei without a class.
        ternary: uint8, :class:`TernaryClass`; :data:`IGNORED` in ambiguous regions. The edge of the image does not
            count as the boundary of a nucleus.
        classes: (N + 1,) uint8, class of each nucleus by number; 0 for the background, :data:`IGNORED` if unknown.
        undrawn: indices in ``Annotation.regions`` of those without any pixel: fewer than three points, too thin,
            outside
            the image, or completely covered by others.
        left_out: number of objects of the annotation that are not in the maps, by reason; includes ``undrawn``.
    """

    instances: Instances
    semantic: ClassMap
    ternary: ClassMap
    classes: ClassMap
    undrawn: tuple[int, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def ignored(self) -> npt.NDArray[np.bool_]:
        """(H, W) bool: pixels of ambiguous regions, which are neither trained nor scored on."""
        return np.asarray(self.ternary == IGNORED)


def draw_nuclei(annotation: Annotation, size: Size, boundary_px: int = BOUNDARY_PX) -> NucleusMaps:
    """Draws all outlines; an outline contains the pixels whose centres lie in it.

    Where nuclei overlap, the smaller one is on top, whatever their order in the file; nuclei are on top of ambiguous
    regions. An outline around three or more nuclei marks the annotated region and is not a nucleus. Outlines that share
    more than :data:`_SAME` of their pixels are one nucleus that was drawn more than once; it has no class if they
    differ in class. Holes in outlines that cross themselves are filled.

    Args:
        annotation: the outlines.
        size: size of the image.
        boundary_px: see :func:`ternary_map`.

    Raises:
        BadAnnotation: it was drawn on another size, a region has the name of no class, or all cover the image more than
            :data:`MAX_TIMES_COVERED` times or have edges across too many rows.
    """
    if annotation.size is not None and annotation.size != size:
        raise BadAnnotation(
            f"{annotation.source} was drawn on {annotation.size.width_px}×{annotation.size.height_px} px but its image "
            f"has {size.width_px}×{size.height_px}: give it the image it was drawn on."
        )
    kinds = [_class_of(region, annotation.source) for region in annotation.regions]
    parts = [part for region in annotation.regions for part in region.parts]
    boxes = [outline_box(part, size, _MARGIN_PX) for part in parts]
    times = sum(box.size.area_px for box in boxes) / size.area_px
    if times > MAX_TIMES_COVERED:
        raise BadAnnotation(
            f"{annotation.source} has regions that cover their image {times:.0f} times, and the limit is "
            f"{MAX_TIMES_COVERED} times: delete overlapping ones, or export fewer to a file."
        )
    check_crossed_rows(sum(map(crossed_rows, parts, boxes)), annotation.source)
    painted = np.zeros((size.height_px, size.width_px), np.int32)
    ambiguous = np.zeros(painted.shape, bool)
    cut_out = np.zeros(painted.shape, bool)
    areas: dict[int, int] = {}
    drawn_as: dict[int, set[int | None]] = {}
    for number, (region, kind) in enumerate(zip(annotation.regions, kinds, strict=True)):
        drawn = [_filled(outline, size) for outline in region.parts]
        for part, inside in drawn:
            if region.cut_out:
                cut_out[part] |= inside
            elif kind is None:
                ambiguous[part] |= inside
        if kind is not None and not region.cut_out:
            areas[number] = sum(int(inside.sum()) for _, inside in drawn)
    # They are drawn once more, one by one, as all of them together could need any amount of memory. Equal sizes keep
    # the file's order, so that the same file always gives the same maps.
    by_size = sorted(areas, key=lambda number: -areas[number])
    within: dict[int, list[int]] = {}
    for number in by_size:
        shapes = [_filled(outline, size) for outline in annotation.regions[number].parts]
        below = np.concatenate([painted[part][inside] for part, inside in shapes])
        other, common_px = _most_common(below)
        if other and common_px > _SAME * (areas[number] + areas[other - 1] - common_px):
            drawn_as.setdefault(other - 1, {kinds[other - 1]}).add(kinds[number])
            continue
        if other and common_px > _WITHIN * areas[number]:
            within.setdefault(other - 1, []).append(number)
        for part, inside in shapes:
            painted[part][inside] = number + 1
    _settle_classes(annotation, kinds, drawn_as)
    around = _around_others(by_size, within)
    painted[cut_out | np.isin(painted - 1, list(around))] = 0
    seen, inverse = np.unique(painted, return_inverse=True)
    if seen[0] != 0:  # nuclei cover the whole image
        seen, inverse = np.insert(seen, 0, 0), inverse + 1
    instances = inverse.reshape(painted.shape).astype(np.int32)
    classes = np.array([0, *(kinds[number - 1] for number in seen[1:])], np.uint8)
    semantic, ternary = classes[instances], ternary_map(instances, boundary_px)
    unknown = ambiguous & (instances == 0) & ~cut_out
    semantic[unknown] = IGNORED
    ternary[unknown] = IGNORED
    here = set((seen[1:] - 1).tolist())
    undrawn = tuple(number for number in sorted(areas) if number not in here | around)
    left_out = dict(annotation.left_out)
    for why, numbers in (("around others", around), ("without a pixel of its own", undrawn)):
        left_out |= {why: len(numbers)} if numbers else {}
    return NucleusMaps(instances, semantic, ternary, classes, undrawn, left_out)


def _around_others(by_size: list[int], within: Mapping[int, list[int]]) -> set[int]:
    """Numbers of the outlines around :data:`_AROUND` or more nuclei or such regions; ``by_size`` is largest first."""
    around: set[int] = set()
    nuclei: dict[int, int] = {}
    for number in reversed(by_size):
        nuclei[number] = sum(nuclei[inner] if inner in around else 1 for inner in within.get(number, []))
        if nuclei[number] >= _AROUND:
            around.add(number)
    return around


def _most_common(numbers: npt.NDArray[np.int32]) -> tuple[int, int]:
    """The most frequent number that is not 0, and its frequency; (0, 0) if there is none."""
    found, counts = np.unique(numbers[numbers > 0], return_counts=True)
    return (int(found[counts.argmax()]), int(counts.max())) if found.size else (0, 0)


def _settle_classes(annotation: Annotation, kinds: list[int | None], drawn_as: Mapping[int, set[int | None]]) -> None:
    """Gives nuclei that were drawn more than once their single stated class, or none if there are two."""
    disputed: set[tuple[str, ...]] = set()
    for number, found in drawn_as.items():
        stated = sorted(kind for kind in found if kind is not None and kind != IGNORED)
        kinds[number] = stated[0] if len(stated) == 1 else IGNORED
        if len(stated) > 1:
            disputed.add(tuple(sorted(NUCLEUS_LABELS[kind] for kind in stated)))
    for names in sorted(disputed):
        _log.warning("%s: nuclei drawn as both %s have no class.", annotation.source, " and ".join(names))


def label_maps(
    instances: Instances,
    classes: ClassMap | None = None,
    white: npt.NDArray[np.bool_] | None = None,
    boundary_px: int = BOUNDARY_PX,
) -> NucleusMaps:
    """Makes maps from label images; a nucleus has the class of most of its classified pixels.

    Args:
        instances: (H, W) int32, any number for each nucleus, 0 background.
        classes: (H, W) uint8, :class:`NucleusClass`, if known.
        white: (H, W) bool, True in all nuclei, if known; nuclei without a number are ambiguous.
        boundary_px: see :func:`ternary_map`.
    """
    seen = np.union1d(0, np.unique(instances))
    instances = np.searchsorted(seen, instances).astype(np.int32)
    kinds = np.full(seen.size, IGNORED, np.uint8)
    if classes is not None:
        votes = np.bincount(instances.ravel() * len(NUCLEUS_LABELS) + classes.ravel(), minlength=seen.size * 5)
        votes = votes.reshape(seen.size, -1)[:, 1:]
        voted = votes.max(axis=1) > 0
        kinds[voted] = votes.argmax(axis=1)[voted] + 1
        white = classes > 0 if white is None else white
    kinds[0] = 0
    semantic, ternary = kinds[instances], ternary_map(instances, boundary_px)
    if white is not None:
        unknown = white & (instances == 0)
        semantic[unknown] = ternary[unknown] = IGNORED
    return NucleusMaps(instances, semantic, ternary, kinds)


def ternary_map(instances: npt.NDArray[np.integer[Any]], boundary_px: int = BOUNDARY_PX) -> ClassMap:
    """Background, inside and boundary of an instance map.

    A pixel of a nucleus is boundary if another nucleus or the background is within ``boundary_px``, so the boundary
    lies inside the nucleus. What lies beyond the edge of the map is unknown and makes no boundary. A nucleus that is
    too small to have an inside gets a thinner boundary, and one of one or two pixels none, so each has a seed for
    watershed.

    Args:
        instances: (H, W), 0 background, numbers up to 2²⁴.
        boundary_px: at least 1.

    Returns:
        (H, W) uint8, :class:`TernaryClass`.
    """
    import cv2

    labels = instances.astype(np.float32)  # OpenCV's filters accept it, and it holds these integers exactly
    ternary = np.where(labels > 0, np.uint8(TernaryClass.BOUNDARY), np.uint8(TernaryClass.BACKGROUND))
    left = labels > 0
    for reach in range(boundary_px, -1, -1):
        if not left.any():
            break
        across = np.arange(-reach, reach + 1)
        disc = (across[:, None] ** 2 + across[None] ** 2 <= reach**2).astype(np.uint8)
        inside = left & (cv2.erode(labels, disc) == cv2.dilate(labels, disc))
        ternary[inside] = TernaryClass.INSIDE
        left &= ~np.isin(instances, np.unique(instances[inside]))
    return ternary


def _class_of(region: Region, source: str) -> int | None:
    """The number of a region's class; :data:`IGNORED` if it has none, None if the region is ambiguous."""
    name = region.name.split(":")[0].strip().casefold()  # for QuPath's classes such as "Lymphocyte: Positive"
    if name in UNCLASSED:
        return IGNORED
    if name == AMBIGUOUS:
        return None
    if name in NUCLEUS_LABELS[1:]:
        return int(NucleusClass(NUCLEUS_LABELS.index(name)))
    raise BadAnnotation(
        f"{source} has regions named {region.name[:40]!r}: use one of {', '.join(NUCLEUS_LABELS[1:])} or {AMBIGUOUS}."
    )


def _filled(outline: npt.NDArray[np.float64], size: Size) -> tuple[tuple[slice, slice], npt.NDArray[np.bool_]]:
    """A part of the image, and (h, w) bool: its pixels that lie inside an outline."""
    from scipy.ndimage import label

    box = outline_box(outline, size, _MARGIN_PX)
    if not box.size.area_px:
        return box.slices, np.zeros((0, 0), bool)
    # What cannot be reached from a rim around it is a hole.
    parts, _ = label(np.pad(~pixels_in_outlines([outline], box), 1, constant_values=True))
    filled: npt.NDArray[np.bool_] = (parts != parts[0, 0])[1:-1, 1:-1]
    seen = box.expanded(0, size)
    return seen.slices, filled[seen.within(box).slices]
