"""Masks and outlines: what is written is what other programs read, and bad files are refused."""

import io
import json
import time
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import numpy as np
import pytest
import shapely.geometry
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dermatome.classes import TissueClass
from dermatome.errors import BadAnnotation, BadSetting, MissingInput
from dermatome.geometry import Box, Size
from dermatome.labels.bands import LabelTally
from dermatome.labels.mask_files import (
    load_mask,
    save_mask,
    tissue_geojson,
    write_ome_tiff,
)
from dermatome.labels.outlines import trace_polygons

MASK = np.zeros((30, 40), np.uint8)
MASK[5:20, 4:30] = 2
MASK[20:, :] = 1
CLASSES = {int(c): (c.label, c.colour) for c in TissueClass}


def tallied(mask):
    tally = LabelTally(Size(*mask.shape))
    tally(mask)
    return tally


def test_a_mask_comes_back_and_numpy_reads_it(tmp_path: Path) -> None:
    path = save_mask(tmp_path / "a.npz", MASK, Box(5, 4, 20, 30))
    mask, crop = load_mask(path, size=Size(30, 40))
    np.testing.assert_array_equal(mask, MASK)
    assert mask.dtype == np.uint8
    assert crop == Box(5, 4, 20, 30)
    with np.load(path, allow_pickle=False) as plain:
        np.testing.assert_array_equal(plain["mask"], MASK)
        assert plain["crop_bbox"].tolist() == [5, 4, 20, 30]


def test_reading_uses_no_ast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython 3.11's ``ast`` fails at random in threads, and slides are read in threads."""
    path = save_mask(tmp_path / "a.npz", MASK, Box(5, 4, 20, 30))
    monkeypatch.setattr("ast.parse", None)
    np.testing.assert_array_equal(load_mask(path)[0], MASK)


def test_the_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    first = save_mask(tmp_path / "a.npz", MASK, Box(0, 0, 30, 40)).read_bytes()
    tiff = write_ome_tiff(tmp_path / "a.ome.tif", MASK, 0.5, CLASSES).read_bytes()
    time.sleep(1.1)  # zip and TIFF dates have whole seconds
    assert save_mask(tmp_path / "a.npz", np.asfortranarray(MASK), Box(0, 0, 30, 40)).read_bytes() == first
    assert write_ome_tiff(tmp_path / "a.ome.tif", MASK, 0.5, CLASSES).read_bytes() == tiff


@pytest.mark.parametrize("layout", ["C", "F"])
def test_masks_of_the_source_system_load(tmp_path: Path, layout: str) -> None:
    """Written by plain numpy, 64-bit, in either memory order, without a crop."""
    np.savez_compressed(tmp_path / "a.npz", mask=np.array(MASK, np.int64, order=layout))  # type: ignore[call-overload]
    mask, crop = load_mask(tmp_path / "a.npz")
    np.testing.assert_array_equal(mask, MASK)
    assert crop == Box(0, 0, 30, 40)


def npz(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_bad_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(MissingInput, match="stage before"):
        load_mask(tmp_path / "none.npz")
    for data in (b"", b"not a zip", save_mask(path, MASK, Box(0, 0, 3, 4)).read_bytes()[:-40]):
        path.write_bytes(data)
        with pytest.raises(BadAnnotation, match="damaged"):
            load_mask(path)
    for arrays, message in (
        ({"other": MASK}, "no array 'mask'"),
        ({"mask": MASK + 2}, "the classes go from 0 to 3"),
        ({"mask": MASK.astype(float)}, "not whole numbers"),
        ({"mask": np.array([{"a": 1}], object)}, "not whole numbers"),
        ({"mask": MASK[0]}, "two dimensions"),
        ({"mask": MASK, "crop_bbox": [0, 0, 31, 40]}, "crop_bbox"),
        ({"mask": MASK, "crop_bbox": [0, 0, 3]}, "crop_bbox"),
    ):
        with pytest.raises(BadAnnotation, match=message):
            load_mask(npz(path, **arrays))
    with pytest.raises(BadAnnotation, match="from this image"):
        load_mask(save_mask(path, MASK, Box(0, 0, 3, 4)), size=Size(40, 30))


def rewritten(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mask.npy", data)
    return path


def test_a_header_that_lies_takes_no_memory(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(  # type: ignore[no-untyped-call]
        buffer, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)}
    )
    with pytest.raises(BadAnnotation, match="over the limit"):
        load_mask(rewritten(tmp_path / "a.npz", buffer.getvalue()))
    good = io.BytesIO()
    np.save(good, MASK)
    for data in (good.getvalue()[:-1], good.getvalue() + b"\0"):
        with pytest.raises(BadAnnotation, match="damaged"):
            load_mask(rewritten(tmp_path / "a.npz", data))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_ome_tiff_opens_with_scale_and_names(tmp_path: Path, dtype: type) -> None:
    labels = np.random.default_rng(0).integers(0, 4, (700, 1100)).astype(dtype)
    path = write_ome_tiff(tmp_path / "s1.ome.tif", labels, 0.25, CLASSES)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        page = tiff.pages[0]
        assert page.is_tiled  # type: ignore[union-attr]
        assert page.compression.name == "ADOBE_DEFLATE"  # type: ignore[union-attr]
        np.testing.assert_array_equal(tiff.series[0].asarray(), labels)
        assert tiff.series[0].axes == "YX"
        assert tiff.ome_metadata is not None
        root = ET.fromstring(tiff.ome_metadata)
    space = {"o": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}
    pixels = root.find(".//o:Pixels", space)
    assert pixels is not None
    assert pixels.get("PhysicalSizeX") == pixels.get("PhysicalSizeY") == "0.25"
    assert pixels.get("PhysicalSizeXUnit") == "µm"
    assert (pixels.get("SizeX"), pixels.get("SizeY")) == ("1100", "700")
    assert [m.get("K") for m in root.iterfind(".//o:M", space)] == [
        "0 background", "1 dermis", "2 epidermis", "3 keratin",
    ]  # fmt: skip
    assert path.stat().st_size < labels.nbytes


def test_ome_tiff_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="uint8"):
        write_ome_tiff(tmp_path / "a.tif", MASK.astype(float), 0.5, {})
    with pytest.raises(BadSetting, match="mpp"):
        write_ome_tiff(tmp_path / "a.tif", MASK, 0.0, {})
    assert not list(tmp_path.iterdir())


def polygon(rings: list[list[list[int]]]) -> shapely.geometry.Polygon:
    return shapely.geometry.Polygon(rings[0], rings[1:])


@settings(max_examples=150, deadline=None)
@given(labels=hnp.arrays(np.int32, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.integers(0, 2)))
def test_outlines_are_valid_and_cover_exactly_their_pixels(labels: np.ndarray) -> None:
    drawn = np.zeros(labels.shape, int)
    rows, columns = np.mgrid[: labels.shape[0], : labels.shape[1]] + 0.5
    area = {1: 0.0, 2: 0.0}
    for piece in trace_polygons(labels):
        shape = polygon(piece.rings)
        assert shape.is_valid
        area[piece.label] += shape.area
        drawn += piece.label * shapely.contains_xy(shape, columns, rows)
    np.testing.assert_array_equal(drawn, labels)
    assert area == {1: (labels == 1).sum(), 2: (labels == 2).sum()}


def test_a_ring_that_meets_itself_in_a_corner_is_cut() -> None:
    """Two tips that touch by a corner close a hole: one piece with a valid outline."""
    labels = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 0]])
    for piece in trace_polygons(labels):
        assert polygon(piece.rings).is_valid
    assert sum(polygon(piece.rings).area for piece in trace_polygons(labels)) == labels.sum()


def test_nothing_has_no_outline() -> None:
    assert trace_polygons(np.zeros((5, 5), np.int32)) == []
    assert json.loads(tissue_geojson(tallied(np.zeros((5, 5), np.uint8)), mpp=0.5, slide="a"))["features"] == []


def test_tissue_outlines_are_qupath_annotations() -> None:
    mask = MASK.copy()
    mask[8:10, 8:10] = 3  # keratin in a hole of the epidermis
    mask[0, 0] = 2  # and a second piece of epidermis
    collection = json.loads(tissue_geojson(tallied(mask), mpp=0.5, slide="s1"))
    assert collection["type"] == "FeatureCollection"
    by_name = {f["properties"]["classification"]["name"]: f for f in collection["features"]}
    assert list(by_name) == ["dermis", "epidermis", "keratin"]
    epidermis = by_name["epidermis"]
    assert epidermis["properties"]["objectType"] == "annotation"
    assert epidermis["properties"]["classification"]["color"] == list(TissueClass.EPIDERMIS.colour)
    assert epidermis["geometry"]["type"] == "MultiPolygon"
    shape = shapely.geometry.shape(epidermis["geometry"])
    assert shape.is_valid
    assert shape.area == (mask == 2).sum()
    assert epidermis["properties"]["measurements"]["area_um2"] == (mask == 2).sum() * 0.25
    assert by_name["keratin"]["geometry"] == {
        "type": "Polygon",
        "coordinates": [[[10, 8], [10, 10], [8, 10], [8, 8], [10, 8]]],
    }
    assert len({f["id"] for f in collection["features"]}) == 3
