"""Reads annotations of cells and nuclei that lie beside their image, as common annotation programs write them.

Beside ``x.png``, or any other image with the stem ``x``, lies one of these files; the case of suffixes is ignored:

- ``x.xml``: Aperio ImageScope, as in MoNuSeg and MoNuSAC (:mod:`dermatome.labels.imagescope`);
- ``x.geojson``, ``x.json``, ``x.png.geojson``: QuPath or labelme, recognized by their content;
- ``x_labels.tif``, ``_masks``, ``_label``, ``_mask``, ``_labelled``, ``_lbl``, the same after a hyphen, or Cellpose's
  ``_cp_masks``; TIFF or PNG: a label image. Its pixels are 0 or the number of an object, as integers of any depth or as
  palette indices;
- ``x_seg.npy``: Cellpose's own file, whose masks are read without running the code that such a file may contain.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dermatome.classes import Instances
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.geometry import Size
from dermatome.labels.drawn_maps import AMBIGUOUS, NucleusMaps, draw_nuclei, label_maps
from dermatome.labels.imagescope import MAX_BYTES, MAX_COORDINATE, Annotation, Region, ellipse, read_annotation
from dermatome.labels.npz import read_header
from dermatome.slides.plain import TIFF_STARTS

_SEG_SUFFIX = "_seg.npy"
_IMAGE = r"\.(?:jpe?g|png|tiff?|svs)"
_FILE = re.compile(
    rf"(.+?)(?:(?:{_IMAGE})?\.(?:xml|geojson|json)|(?:_cp_masks|[_-](?:masks?|labels?|labell?ed|lbl))(?:\.ome)?\.(?:tiff?|png)"
    rf"|{re.escape(_SEG_SUFFIX)})",
    re.IGNORECASE,
)
# Name endings of pictures that Cellpose writes of its results.
_PICTURES = ("_cp_output", "_flows", "_outlines", "_dp")
LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "F")
_OUTLINES = (".xml", ".geojson", ".json")
_NO_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString", "LinearRing")

_log = logging.getLogger(__name__)


def annotations_in(folder: Path) -> dict[str, Path]:
    """The annotation file of each image in a folder, by the image's stem.

    If Cellpose wrote both ``_seg.npy`` and ``_cp_masks``, the former is used, as Cellpose's window saves edits there.

    Raises:
        BadAnnotation: an image has two annotation files.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem = _FILE.fullmatch(path.name)
        if stem is None or path.name[0] == "." or not path.is_file():
            continue
        other = found.setdefault(stem[1], path)
        if other != path:
            if "_cp_masks." not in other.name.lower() or not path.name.lower().endswith(_SEG_SUFFIX):
                raise BadAnnotation(f"{folder / stem[1]} has both {other.name} and {path.name}: keep one of them.")
            found[stem[1]] = path
    return found


def is_annotation(name: str) -> bool:
    """Whether a file of that name is an annotation or a picture of one, and so not an image to be annotated."""
    return _FILE.fullmatch(name) is not None or Path(name).stem.lower().endswith(_PICTURES)


def is_outlines(path: Path) -> bool:
    """Whether an annotation file contains outlines; otherwise it is a label image."""
    return path.suffix.lower() in _OUTLINES


def read_outlines(path: Path) -> Annotation:
    """Reads a file of outlines: Aperio's XML, GeoJSON or labelme.

    Raises:
        MissingInput: there is no such file.
        BadAnnotation: it cannot be read; see `read_annotation` and :func:`read_json_outlines`.
    """
    return read_annotation(path) if path.suffix.lower() == ".xml" else read_json_outlines(path)


def read_maps(path: Path, size: Size, *, classes: bool = True) -> tuple[NucleusMaps, float | None]:
    """Reads an annotation file and draws it.

    Args:
        path: see this module's docstring.
        size: size of the image.
        classes: whether class names are read. If not, any name is accepted and objects have no class.

    Returns:
        The maps, and microns per pixel if the file states them.

    Raises:
        MissingInput: there is no such file.
        BadAnnotation: it cannot be read, does not fit the image, or names an unknown class.
    """
    if not is_outlines(path):
        return label_maps(read_label_image(path, size)), None
    read = read_outlines(path)
    if not classes:
        named = (replace(r, name=AMBIGUOUS if r.name.casefold() == AMBIGUOUS else "") for r in read.regions)
        read = replace(read, regions=tuple(named))
    return draw_nuclei(read, size), read.mpp


def read_label_image(path: Path, size: Size, *, objects: bool = True) -> Instances:
    """Reads a label image as (H, W) int32, with its numbers unchanged.

    Args:
        path: PNG, TIFF or Cellpose's ``_seg.npy``.
        size: size of the image it belongs to; checked before the file is decoded.
        objects: whether the numbers identify objects, so that a binary mask is refused; otherwise they are classes.

    Raises:
        MissingInput: there is no such file.
        BadAnnotation: it is damaged, of another size, or not a label image.
    """
    try:
        values = _label_values(path, size)
    except FileNotFoundError as error:
        raise MissingInput(f"There is no label image {path}: put it back.") from error
    except BadAnnotation:
        raise
    except Exception as error:  # Pillow and tifffile raise many classes of errors for a damaged file
        raise BadAnnotation(f"{path} is damaged or not a label image ({error}): export it again.") from error
    if values.dtype.kind == "f":  # the limits of int32 are out of the range of half floats
        values = values.astype(np.float64)
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    # Fiji saves labels as 32-bit floating-point numbers.
    if not (low >= 0 and high < 2**31) or (values.dtype.kind == "f" and (values != np.floor(values)).any()):
        raise BadAnnotation(
            f"{path} does not contain integers from 0: number objects from 1, with 0 for the background."
        )
    if objects and ((values == 0) | (values == high)).all() and _pieces(values) > 1:
        raise BadAnnotation(
            f"{path} is a black-and-white mask (0 and {high:g}) without a number for each object: number its pieces "
            "first (Fiji: Connected Components Labeling)."
        )
    return values.astype(np.int32)


def _label_values(path: Path, size: Size) -> npt.NDArray[Any]:
    """(H, W): the values of a label image as stored; its size is checked before it is decoded."""
    if path.suffix.lower() == ".npy":
        values = _cellpose_masks(path)
        _check_size(path, Size(*values.shape), size)
        return values
    with path.open("rb") as file:
        is_tiff = file.read(4) in TIFF_STARTS
    if not is_tiff:
        with warnings.catch_warnings(), Image.open(path, formats=("PNG",)) as opened:
            warnings.simplefilter("ignore")
            _check_size(path, Size(opened.height, opened.width), size)
            _check_one_channel(path, opened.mode in LABEL_MODES)
            return np.asarray(opened)
    import tifffile

    # Pillow inverts values if a TIFF declares 0 as white, and cannot read 64-bit numbers.
    with tifffile.TiffFile(path) as tiff:
        page, count = tiff.pages[0], tiff.series[0].size // (tiff.pages[0].imagelength * tiff.pages[0].imagewidth)
        _check_size(path, Size(page.imagelength, page.imagewidth), size)
        _check_one_channel(path, page.samplesperpixel == 1)
        if page.compression in (6, 7):
            raise BadAnnotation(
                f"{path} is compressed with JPEG, which changes numbers: export it with LZW or deflate."
            )
        if count > 1:
            raise BadAnnotation(f"{path} contains {count} images, but only one can show these objects: export one.")
        return np.asarray(page.asarray()).reshape(size.height_px, size.width_px)


def _check_one_channel(path: Path, passed: bool) -> None:
    if not passed:
        raise BadAnnotation(f"{path} contains colours, not a number for each object: export it as 16-bit labels.")


def _pieces(values: npt.NDArray[Any]) -> int:
    from scipy.ndimage import label

    return int(label(values, np.ones((3, 3)))[1])


def read_json_outlines(path: Path) -> Annotation:
    """Reads the outlines in a GeoJSON file of QuPath or a labelme file, in pixels of the image; holes are filled.

    A feature is one object, even with several polygons, and so are labelme's shapes of one class and group. If there
    are detections or cells, annotations and features without a type are regions around them, not objects. Regions of
    the class Ambiguous or ``Ignore…`` are ambiguous. Everything else that is not an object is left out and counted:
    points, lines, features without geometry, tiles and TMA cores, and other classes that QuPath ignores (names that end
    in ``*``).

    Raises:
        MissingInput: there is no such file.
        BadAnnotation: it is neither, or larger than the limit.
    """
    left_out: Counter[str] = Counter()
    with json_outlines(path, "GeoJSON of polygons and no labelme file", "QuPath or labelme") as content:
        is_labelme = isinstance(content, dict) and "shapes" in content
        regions = (_labelme_regions if is_labelme else _qupath_regions)(content, left_out)
        stated = [content.get(f"image{side}") for side in ("Height", "Width")] if is_labelme else []
        size = Size(*map(int, stated)) if stated and all(stated) else None
        if not all((np.abs(part) <= MAX_COORDINATE).all() for region in regions for part in region.parts):
            raise ValueError("a coordinate cannot lie on an image")
    if left_out:
        _report(path, in_words(left_out))
    return Annotation(tuple(regions), None, path.name, dict(left_out), size)


@contextmanager
def json_outlines(path: Path, kind: str, program: str) -> Iterator[Any]:
    """Yields the content of a JSON file of outlines; errors while it is read become one sentence.

    Raises:
        MissingInput: there is no such file.
        BadAnnotation: it is larger than the limit, or reading it failed.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadAnnotation(f"{path} is larger than {MAX_BYTES >> 20} MB: export fewer outlines to a file.")
        yield json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingInput(f"There is no annotation {path}: put it beside its image.") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        # Not repr, in which an error of decoding has all bytes of the file.
        why = f"{type(error).__name__}: {error}"
        raise BadAnnotation(f"{path} is no {kind} ({why}): export it from {program} again.") from error


def in_words(left_out: Mapping[str, int]) -> str:
    """Describes what was left out of an annotation, such as ``2 × Point, 1 × no geometry``; empty if nothing was."""
    return ", ".join(f"{count} × {what}" for what, count in sorted(left_out.items()))


@cache
def _report(path: Path, left_out: str) -> None:
    """Logs what was left out, once for each file, as an annotation is read for several purposes."""
    _log.warning("%s: left out, as they are not objects: %s.", path, left_out)


def _qupath_regions(content: Any, left_out: Counter[str]) -> list[Region]:
    features = features_in(content)
    kinds = [_object_type(feature) for feature in features]
    detected = any(kind in ("detection", "cell") for kind in kinds)
    regions = []
    for feature, kind in zip(features, kinds, strict=True):
        geometry, name = feature.get("geometry"), class_name((feature.get("properties") or {}).get("classification"))
        parts = [ring(part[0]) for part in polygons(geometry) if part[0]]
        if not parts:
            left_out["no geometry" if geometry is None else str(geometry["type"])] += 1
        elif name.endswith("*"):
            left_out[f"class {name}"] += 1
        elif name != AMBIGUOUS and (kind in ("tile", "tmacore", "root") or (detected and kind in ("annotation", ""))):
            left_out[kind or "no type of object"] += 1
        else:
            regions.append(Region(parts, name))
    return regions


def features_in(content: Any) -> list[Any]:
    """The features of GeoJSON content: a collection, a list, a single feature, or a single geometry.

    Raises:
        ValueError: the content is none of these.
    """
    if isinstance(content, list):
        return [feature for one in content for feature in features_in(one)]
    if isinstance(content.get("features"), list):
        return list(content["features"])
    if "geometry" in content or content.get("type") == "Feature":
        return [content]
    if "coordinates" in content or "geometries" in content:
        return [{"geometry": content}]
    raise ValueError("it has no features")


def _object_type(feature: Any) -> str:
    """QuPath's object type, such as ``detection``, ``cell`` or ``annotation``; empty if none is stated."""
    properties = feature.get("properties") or {}
    stated = properties.get("objectType") or properties.get("object_type")  # the latter in QuPath 0.3
    if stated is None and str(feature.get("id")).startswith("Path"):  # up to QuPath 0.2: PathDetectionObject
        stated = str(feature["id"]).removeprefix("Path").removesuffix("Object")
    return str(stated or "").lower().replace("_", "")


def class_name(classification: Any) -> str:
    """The name of a QuPath class; :data:`AMBIGUOUS` for classes of regions that are to be ignored."""
    if isinstance(classification, dict):
        classification = classification.get("name") or ": ".join(classification.get("names") or [])
    name = str(classification or "").strip()
    base = name.split(":")[0].strip().casefold()
    return AMBIGUOUS if base == AMBIGUOUS or base.startswith("ignore") else name


def polygons(geometry: Any) -> list[list[Any]]:
    """The rings of each polygon of a geometry as in the file, the outer ring first; lines and points have none."""
    if geometry is None or geometry["type"] in _NO_AREA:
        return []
    if geometry["type"] == "GeometryCollection":
        return [rings for one in geometry["geometries"] for rings in polygons(one)]
    if geometry["type"] not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"a {geometry['type']} is not a geometry")
    parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    return [part for part in parts if part]


def ring(points: Any) -> npt.NDArray[np.float64]:
    """The x and y of a ring's points as (N, 2) float64."""
    return np.array([[float(x), float(y)] for x, y, *_ in points])


def _labelme_regions(content: Any, left_out: Counter[str]) -> list[Region]:
    found: dict[tuple[str, Any], list[npt.NDArray[np.float64]]] = {}
    for number, shape in enumerate(content["shapes"]):
        kind, name, group = shape.get("shape_type") or "polygon", class_name(shape.get("label")), shape.get("group_id")
        points = np.array([[float(x), float(y)] for x, y in shape["points"]]).reshape(-1, 2)
        if kind == "rectangle" and len(points) == 2:
            (left, top), (right, bottom) = points
            points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        elif kind == "circle" and len(points) == 2:
            points = ellipse(points[0] + np.array([[-1.0], [1.0]]) * np.hypot(*(points[1] - points[0])))
        elif kind not in ("polygon", "rectangle", "rotation"):
            left_out[str(kind)] += 1
            continue
        found.setdefault((name, f"shape {number}" if group is None else str(group)), []).append(points)
    return [Region(parts, name) for (name, _), parts in found.items()]


def _check_size(path: Path, found: Size, size: Size) -> None:
    if found != size:
        raise BadAnnotation(
            f"{path} is {found.width_px}×{found.height_px} px but its image {size.width_px}×{size.height_px}: export "
            "both at the same size."
        )


class _Inert:
    """Replaces every object of a pickle that is not needed; none of its code is run."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _empty_array(_: Any, __: Any, dtype: Any) -> npt.NDArray[Any]:
    """The start of an unpickled array; its shape is set together with its data, so a false shape needs no memory."""
    return np.ndarray((0,), np.dtype("b" if dtype == b"b" else dtype))


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct":
            return _empty_array
        return {"ndarray": np.ndarray, "dtype": np.dtype}.get(name, _Inert) if module == "numpy" else _Inert


def _cellpose_masks(path: Path) -> npt.NDArray[Any]:
    """The ``masks`` of Cellpose's ``_seg.npy``: a pickled dictionary in an array of one object.

    Raises:
        ValueError: it is not such a file.
    """
    with path.open("rb") as file:
        try:
            read_header(file)
            content = _ArraysOnly(file).load()
            masks = content.item()["masks"]
        except (pickle.UnpicklingError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"it contains no masks of Cellpose: {error!r}") from error
    if not isinstance(masks, np.ndarray) or masks.ndim != 2 or masks.dtype.kind not in "iub":
        raise ValueError("its masks are not a label image")
    return masks
