"""Reads outlines of nuclei from Aperio ImageScope's XML, as in MoNuSAC and MoNuSeg; the files are untrusted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
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
"""Limits of one file; the largest files of MoNuSAC and MoNuSeg have 4 MB, 2,000 regions and 100,000 vertices."""

MAX_COORDINATE = 10_000_000.0
_MAX_DEPTH = 32
_RECTANGLE, _ELLIPSE = "1", "2"
_NO_REGIONS = {"3": "arrow", "4": "ruler"}
"""Types of a region that has a length but no area."""
_NO_CLASS = ("", "description")
"""Names of a layer's field, in lower case, that belong to the form and name no class."""
_LAYER_CLASSES = (*NUCLEUS_LABELS[1:], "ambiguous")
_ELLIPSE_CORNERS = 128
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Region:
    """One object: an outline, or several.

    Attributes:
        parts: its outlines, (N, 2) float64 x and y in level-0 pixels each; (0, 0) is the upper left corner of the
            image. They are closed even if the last point does not repeat the first. N may be 0.
        name: class as the annotators wrote it (``Annotation/Attributes/Attribute@Name``), such as ``Epithelial`` or
            ``Ambiguous``; if that is not a class, the attribute's value or the layer's own name (``Annotation@Name``),
            if one of them is a class; empty if the layer has none.
        cut_out: whether it was drawn with ImageScope's negative pen: it is not a nucleus, but cut out of those below
            it.
    """

    parts: Sequence[npt.NDArray[np.float64]]
    name: str
    cut_out: bool = False


@dataclass(frozen=True)
class Annotation:
    """All outlines of an image.

    Attributes:
        regions: regions in the order of the file.
        mpp: microns per pixel, if the file states them.
        source: name of the file, for messages.
        left_out: number of elements that are not objects, by kind.
        size: size of the image that it was drawn on, if the file states it.
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
        BadAnnotation: it is not complete Aperio XML, is over a limit, or has a coordinate that is not a number.
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
            f"{path.name} is not complete XML (line {error.lineno}: {error.msg}): it is damaged or truncated; export "
            "it again."
        ) from error
    return Annotation(tuple(reader.regions), reader.mpp, path.name, dict(reader.left_out))


class _Reader:
    """Callbacks of the XML parser; they keep only vertices and names.

    Attributes:
        regions: finished regions.
        mpp: microns per pixel, if stated.
        left_out: number of regions without an area, by type.
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
        """Handles a start tag."""
        if not self._path and tag != "Annotations":
            raise BadAnnotation(
                f"{self._file} is not an Aperio annotation (its root is <{tag[:40]}>): export XML from ImageScope."
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
        """Handles an end tag."""
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
            self.regions += [Region([outline], name, cut_out) for outline, cut_out in self._layer]

    def doctype(self, *_: object) -> None:
        """Refuses any document type: ImageScope writes none, and entity bombs and file inclusion need one."""
        raise BadAnnotation(
            f"{self._file} declares a document type (DTD), which ImageScope never does: export it as Aperio XML again."
        )

    def close(self) -> None:
        """Handles the end of the file."""

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
                f"{self._file} has {key}={text[:40]!r} at region {self._count}, which cannot lie on an image: correct "
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
    """The outline of the axis-aligned ellipse in the bounding box of ``corners``, (N, 2) x and y in px."""
    low, high = corners.min(0), corners.max(0)
    angles = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)
    turned = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outline: npt.NDArray[np.float64] = (low + high) / 2 + turned * (high - low) / 2
    return outline
