"""Outlines of nuclei as Aperio's ImageScope saves them: the XML of MoNuSAC and MoNuSeg, files nobody vouches for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from lxml import etree

from dermatome.classes import NUCLEUS_LABELS
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.geometry import Size
from dermatome.slides.mpp import is_microscope

MAX_BYTES = 256 * 1024 * 1024
MAX_REGIONS = 200_000
MAX_VERTICES = 20_000_000
"""Limits of one file; the largest of MoNuSAC's and MoNuSeg's have 4 MB, 2,000 regions and 100,000 vertices."""

MAX_COORDINATE = 10_000_000.0
_MAX_DEPTH = 32
_RECTANGLE, _ELLIPSE = "1", "2"
_NO_REGIONS = {"3": "arrow", "4": "ruler"}
"""Types of a region that have a length and no area."""
_NO_CLASS = ("", "description")
"""Names of a layer's field, in lower case, that are of the form and not of a class."""
_LAYER_CLASSES = (*NUCLEUS_LABELS[1:], "ambiguous")
_ELLIPSE_CORNERS = 128
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Region:
    """One object: an outline, or several.

    Attributes:
        outline: (N, 2) float64, x and y in pixels of level 0, (0, 0) being the image's upper left corner; it is closed
            whether or not the last point repeats the first. N may be 0.
        name: of its class as the annotators wrote it (``Annotation/Attributes/Attribute@Name``), such as
            ``Epithelial`` or ``Ambiguous``; where that is none, the attribute's value or the layer's own name
            (``Annotation@Name``), if that is a class; empty where the layer has none.
        cut_out: drawn with ImageScope's negative pen: no nucleus, but taken out of those below it.
        more: further outlines of the same object, as polygons of one feature have them.
    """

    outline: npt.NDArray[np.float64]
    name: str
    cut_out: bool = False
    more: tuple[npt.NDArray[np.float64], ...] = ()

    @property
    def parts(self) -> tuple[npt.NDArray[np.float64], ...]:
        """All outlines of the object."""
        return self.outline, *self.more


@dataclass(frozen=True)
class Annotation:
    """All outlines of an image.

    Attributes:
        regions: in the file's order.
        mpp: microns per pixel, where the file states them.
        source: the file's name, for messages.
        left_out: how many of what the file has were no objects, by what they were.
        size: of the image it was drawn on, where the file states it.
    """

    regions: tuple[Region, ...]
    mpp: float | None = None
    source: str = "the annotation"
    left_out: Mapping[str, int] = field(default_factory=dict)
    size: Size | None = None


def read_annotation(path: Path) -> Annotation:
    """Reads an Aperio XML file in bounded memory; document types and entities are refused.

    Raises:
        MissingInput: there is no such file.
        BadAnnotation: it is no whole Aperio XML, over a limit, or a coordinate is no number.
    """
    reader = _Reader(path.name)
    parser = etree.XMLParser(
        target=reader, resolve_entities="internal", no_network=True, load_dtd=False, huge_tree=False
    )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadAnnotation(f"{path.name} is larger than {MAX_BYTES >> 20} MB: export fewer regions to a file.")
        with path.open("rb") as file:
            while data := file.read(_CHUNK_BYTES):
                parser.feed(data)
        parser.close()
    except FileNotFoundError as error:
        raise MissingInput(f"There is no annotation {path}: put the image's XML beside it.") from error
    except etree.XMLSyntaxError as error:
        raise BadAnnotation(
            f"{path.name} is not whole XML (line {error.lineno}: {error.msg}): it was damaged or cut short; export it "
            "again."
        ) from error
    return Annotation(tuple(reader.regions), reader.mpp, path.name, dict(reader.left_out))


class _Reader:
    """What the parser calls while it reads; nothing but vertices and names is kept.

    Attributes:
        regions: those that are whole.
        mpp: microns per pixel, where stated.
        left_out: how many regions have no area, by what they are.
    """

    def __init__(self, name: str) -> None:
        self.regions: list[Region] = []
        self.mpp: float | None = None
        self.left_out: Counter[str] = Counter()
        self._file = name
        self._path: list[str] = []
        self._layer: list[tuple[npt.NDArray[np.float64], bool]] = []
        self._class: str | None = None
        self._others: list[str] = []
        self._points: list[tuple[float, float]] = []
        self._cut_out, self._type = False, ""
        self._count = self._vertices = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """A tag begins an element."""
        if not self._path and tag != "Annotations":
            raise BadAnnotation(
                f"{self._file} is no Aperio annotation (its root is <{tag[:40]}>): export it from ImageScope as XML."
            )
        self._path.append(tag)
        if len(self._path) > _MAX_DEPTH:
            raise BadAnnotation(
                f"{self._file} nests elements deeper than {_MAX_DEPTH}, which no annotation does: export it again."
            )
        where = self._path[1:]
        if not where:
            self.mpp = self._scale(attributes)
        elif where == ["Annotation"]:
            self._layer, self._class, self._others = [], None, [attributes.get("Name", "")]
        elif where == ["Annotation", "Attributes", "Attribute"] and self._class is None:
            self._class = attributes.get("Name", "").strip()
            self._others.insert(0, attributes.get("Value", ""))
        elif where == ["Annotation", "Regions", "Region"]:
            self._count += 1
            if self._count > MAX_REGIONS:
                raise BadAnnotation(f"{self._file} has more than {MAX_REGIONS} regions: export fewer to a file.")
            self._points, self._cut_out = [], attributes.get("NegativeROA") == "1"
            self._type = attributes.get("Type", "")
        elif where == ["Annotation", "Regions", "Region", "Vertices", "Vertex"]:
            self._vertices += 1
            if self._vertices > MAX_VERTICES:
                raise BadAnnotation(f"{self._file} has more than {MAX_VERTICES} vertices: export fewer to a file.")
            self._points.append((self._place(attributes, "X"), self._place(attributes, "Y")))

    def end(self, tag: str) -> None:
        """A tag ends an element."""
        where = self._path[1:]
        self._path.pop()
        if where == ["Annotation", "Regions", "Region"]:
            outline = np.array(self._points, dtype=np.float64).reshape(-1, 2)
            if self._type in _NO_REGIONS:
                self.left_out[_NO_REGIONS[self._type]] += 1
                return
            if self._type == _ELLIPSE and 2 <= len(outline) <= 4:
                outline = ellipse(outline)
            elif self._type == _RECTANGLE and len(outline) == 2:
                outline = outline[[[0, 0], [1, 0], [1, 1], [0, 1]], [0, 1]]
            self._layer.append((outline, self._cut_out))
        elif where == ["Annotation"]:
            name = self._class or ""
            if name.casefold() in _NO_CLASS:
                named = (other.strip() for other in self._others if other.strip().casefold() in _LAYER_CLASSES)
                name = next(named, name)
            self.regions += [Region(outline, name, cut_out) for outline, cut_out in self._layer]

    def doctype(self, *_: object) -> None:
        """Refuses any document type: ImageScope writes none, and entity bombs and file reads come from there."""
        raise BadAnnotation(
            f"{self._file} declares a document type (DTD), which ImageScope never does: export it as Aperio XML again."
        )

    def close(self) -> None:
        """The file has ended."""

    def _scale(self, attributes: Mapping[str, str]) -> float | None:
        if not attributes.get("MicronsPerPixel", "").strip():
            return None
        mpp = _number(attributes["MicronsPerPixel"])
        if mpp == 0:  # ImageScope writes it where the image itself states no scale
            return None
        if not is_microscope(mpp):
            raise BadAnnotation(
                f"{self._file} states {attributes['MicronsPerPixel'][:40]!r} µm per pixel, which is no microscope's "
                "scale: correct MicronsPerPixel."
            )
        return mpp

    def _place(self, attributes: Mapping[str, str], key: str) -> float:
        text = attributes.get(key, "")
        value = _number(text)
        if not abs(value) <= MAX_COORDINATE:
            raise BadAnnotation(
                f"{self._file} has {key}={text[:40]!r} at region {self._count}, which is no place on an image: correct "
                "it or export it again."
            )
        return value


def _number(text: str) -> float:
    """The number in an attribute; not a number if it is none."""
    try:
        # German and French versions of Windows make ImageScope write 0,25.
        return float(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text)
    except ValueError:
        return math.nan


def ellipse(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The outline of the upright ellipse in the box around ``corners``, (N, 2) x and y in px."""
    low, high = corners.min(0), corners.max(0)
    angles = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)
    turned = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outline: npt.NDArray[np.float64] = (low + high) / 2 + turned * (high - low) / 2
    return outline
