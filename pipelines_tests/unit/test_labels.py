"""Label arrays and their files: what is written part by part is what other programs read, and bad files are refused."""

import io
import itertools
import json
import time
import xml.etree.ElementTree as ET
import zipfile

import numpy as np
import pandas as pd
import pytest
import shapely.geometry
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dermatome.classes import TissueClass
from dermatome.errors import BadAnnotation, BadSetting, MissingInput
from dermatome.geometry import Box, Size
from dermatome.labels import geojson
from dermatome.labels.geojson import object_features, summarise_mask, tissue_features, write_geojson
from dermatome.labels.npz import load_instances, load_mask, save_instances, save_mask
from dermatome.labels.ome_tiff import open_ome_tiff, write_ome_tiff
from dermatome.labels.outlines import trace_polygons
from dermatome.labels.tiled import TiledArray

MASK = np.zeros((30, 40), np.uint8)
MASK[5:20, 4:30] = 2
MASK[20:, :] = 1
CLASSES = {int(c): (c.label, c.colour) for c in TissueClass}
RNG = np.random.default_rng(0)


def discs(height_px, width_px):
    """Discs in rows, across the borders of tiles, numbered in reading order of their rows."""
    rows, columns = np.mgrid[:height_px, :width_px]
    centre = (rows % 32 - 16) ** 2 + (columns % 32 - 16) ** 2 < 120
    return np.where(centre, (rows // 32) * (width_px // 32 + 1) + columns // 32 + 1, 0).astype(np.int32)


# --- the tiled array


@pytest.mark.parametrize("shape", [(1, 1), (30, 40), (512, 512), (513, 1030)])
def test_a_tiled_array_is_its_array(shape):
    labels = RNG.integers(0, 9, shape).astype(np.int32)
    tiled = TiledArray.of(labels)
    np.testing.assert_array_equal(tiled.whole(), labels)
    np.testing.assert_array_equal(np.concatenate(list(tiled.bands())), labels)
    np.testing.assert_array_equal(tiled[3:-2, :17], labels[3:-2, :17])
    with pytest.raises(ValueError, match="without steps"):
        tiled[::2, :]
    in_bands = TiledArray(Size(*shape))
    edges = [0, *sorted(int(v) for v in RNG.integers(0, shape[0], 3)), shape[0]]
    for top, bottom in itertools.pairwise(edges):
        in_bands.append(labels[top:bottom])
    assert list(in_bands.content()) == list(tiled.content())
    labels[-1, -1] += 1
    assert list(TiledArray.of(labels).content()) != list(tiled.content())
    numbers = np.array([0, *RNG.integers(0, 99, 10)])
    tiled.write(Box(0, 0, 1, 1), np.zeros((1, 1), np.int32))
    expected = numbers[tiled.whole()]
    tiled.renumber(numbers)
    np.testing.assert_array_equal(tiled.whole(), expected)


Corner = st.tuples(st.integers(-9, 60), st.integers(-9, 60), st.integers(1, 60), st.integers(1, 60))


@settings(max_examples=60, deadline=None)
@given(writes=st.lists(Corner, max_size=6), side=st.integers(3, 40), read=Corner)
def test_an_array_without_bounds_reads_what_was_written(writes, side, read):
    plain, tiled = np.zeros((200, 200), np.int64), TiledArray(None, np.int64, tile_px=side)
    for number, (top, left, tall, wide) in enumerate(writes, 1):
        box = Box(top, left, top + tall, left + wide)
        values = number * np.arange(tall * wide).reshape(tall, wide)
        here = plain[box.moved(50, 50).slices]
        if number % 2:
            tiled.write(box, values)
            here[:] = values
        else:
            tiled.add(box, values)
            here += values
        if number % 3 == 0:
            tiled.pack()
    top, left, tall, wide = read
    box = Box(top, left, top + tall, left + wide)
    np.testing.assert_array_equal(tiled.read(box), plain[box.moved(50, 50).slices])
    tiled.forget_above(3 * side)
    assert all(row >= 3 for row, _ in tiled.places())


# --- npz


def test_masks_and_instances_come_back_and_numpy_reads_them(tmp_path):
    path = save_mask(tmp_path / "a.npz", MASK, Box(5, 4, 20, 30))
    mask, crop = load_mask(path, size=Size(30, 40))
    np.testing.assert_array_equal(mask, MASK)
    assert mask.dtype == np.uint8
    assert crop == Box(5, 4, 20, 30)
    with np.load(path, allow_pickle=False) as plain:
        np.testing.assert_array_equal(plain["mask"], MASK)
        assert plain["crop_bbox"].tolist() == [5, 4, 20, 30]
    instances = discs(700, 1300)
    path = save_instances(tmp_path / "b.npz", TiledArray.of(instances))
    loaded = load_instances(path, size=Size(700, 1300))
    np.testing.assert_array_equal(loaded, instances)
    assert loaded.dtype == np.int32
    loaded[0, 0] = 7  # it can be written to
    with np.load(path, allow_pickle=False) as plain:
        np.testing.assert_array_equal(plain["instances"], instances)


def test_reading_uses_no_ast(tmp_path, monkeypatch):
    """CPython 3.11's ``ast`` fails at random in threads, and slides are read in threads."""
    path = save_mask(tmp_path / "a.npz", MASK, Box(5, 4, 20, 30))
    monkeypatch.setattr("ast.parse", None)
    np.testing.assert_array_equal(load_mask(path)[0], MASK)


def test_the_same_arrays_give_the_same_bytes(tmp_path):
    def written(mask):
        tiled = TiledArray.of(mask)
        outlines = tissue_features(summarise_mask(tiled), mpp=0.5, slide="s")
        paths = [
            save_mask(tmp_path / "a.npz", mask, Box(0, 0, 30, 40)),
            save_mask(tmp_path / "b.npz", tiled, Box(0, 0, 30, 40)),
            write_ome_tiff(tmp_path / "a.ome.tif", tiled, 0.5, CLASSES),
            write_geojson(tmp_path / "a.geojson", outlines),
        ]
        return [path.read_bytes() for path in paths]

    first = written(MASK)
    assert first[0] == first[1]
    time.sleep(1.1)  # zip and TIFF dates have whole seconds
    assert written(np.asfortranarray(MASK)) == first


@pytest.mark.parametrize("layout", ["C", "F"])
def test_masks_of_the_source_system_load(tmp_path, layout):
    """Written by plain numpy, 64-bit, in either memory order, without a crop."""
    np.savez_compressed(tmp_path / "a.npz", mask=np.array(MASK, np.int64, order=layout))
    mask, crop = load_mask(tmp_path / "a.npz")
    np.testing.assert_array_equal(mask, MASK)
    assert crop == Box(0, 0, 30, 40)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_bad_files_are_refused_in_a_sentence(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(MissingInput, match="stage before"):
        load_mask(tmp_path / "none.npz")
    good = save_mask(path, MASK, Box(0, 0, 3, 4)).read_bytes()
    for data in (b"", b"not a zip", good[:-40], good[:60] + bytes(20) + good[80:], good[:80] + bytes(9) + good[89:]):
        path.write_bytes(data)
        with pytest.raises(BadAnnotation, match="damaged"):
            load_mask(path)
    for arrays, message in (
        ({"other": MASK}, "no array 'mask'"),
        ({"mask": MASK + 2}, "the classes are 0 to 3"),
        ({"mask": MASK.astype(float)}, "not integers"),
        ({"mask": np.array([{"a": 1}], object)}, "not integers"),
        ({"mask": MASK[0]}, "two dimensions"),
        ({"mask": MASK, "crop_bbox": [0, 0, 31, 40]}, "crop_bbox"),
        ({"mask": MASK, "crop_bbox": [0, 0, 3]}, "crop_bbox"),
    ):
        with pytest.raises(BadAnnotation, match=message):
            load_mask(npz(path, **arrays))
    with pytest.raises(BadAnnotation, match="from this image"):
        load_mask(save_mask(path, MASK, Box(0, 0, 3, 4)), size=Size(40, 30))
    with pytest.raises(BadAnnotation, match="outside 0"):
        load_instances(npz(path, instances=np.array([[-1]])))


def rewritten(path, data):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mask.npy", data)
    return path


def test_a_header_that_lies_takes_no_memory(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)})
    with pytest.raises(BadAnnotation, match="over the limit"):
        load_mask(rewritten(tmp_path / "a.npz", buffer.getvalue()))
    good = io.BytesIO()
    np.save(good, MASK)
    data = good.getvalue()
    lies = [data[:-1], data + b"\0", data.replace(b"'shape'", b"'share'")]
    lies += [data.replace(b"'|u1'", kind) for kind in (b"'u99'", b"'foo'", b"',,,'", b"'i,i'", b"'|((' ")]
    for lie in lies:
        with pytest.raises(BadAnnotation, match="damaged"):
            load_mask(rewritten(tmp_path / "a.npz", lie))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_any_damaged_byte_is_found_or_harmless(tmp_path, method):
    path, rng = tmp_path / "a.npz", np.random.default_rng(0)
    buffer = io.BytesIO()
    np.save(buffer, MASK)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("mask.npy", buffer.getvalue())
    good = path.read_bytes()
    refused = 0
    for _ in range(200):
        data = bytearray(good)
        data[rng.integers(len(data))] ^= rng.integers(1, 256)
        path.write_bytes(data)
        try:
            np.testing.assert_array_equal(load_mask(path)[0], MASK)
        except BadAnnotation:
            refused += 1
    assert refused > 100


# --- OME-TIFF


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_ome_tiff_opens_with_scale_and_names(tmp_path, dtype):
    labels = np.random.default_rng(0).integers(0, 4, (700, 1100)).astype(dtype)
    labels[:, 512:1024] = 0  # tiles that hold no label
    path = write_ome_tiff(tmp_path / "s1.ome.tif", TiledArray.of(labels), 0.25, CLASSES)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        page = tiff.pages[0]
        assert page.is_tiled
        assert page.compression.name == "ADOBE_DEFLATE"
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
    opened = open_ome_tiff(path)
    assert (opened.shape, opened.dtype) == (labels.shape, dtype)
    np.testing.assert_array_equal(opened[200:, :1050], labels[200:, :1050])


def test_ome_tiff_refuses_what_it_cannot_hold(tmp_path):
    with pytest.raises(BadSetting, match="uint8"):
        write_ome_tiff(tmp_path / "a.tif", TiledArray.of(MASK.astype(float)), 0.5)
    with pytest.raises(BadSetting, match="mpp"):
        write_ome_tiff(tmp_path / "a.tif", TiledArray.of(MASK), 0.0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(MissingInput, match="no mask"):
        open_ome_tiff(tmp_path / "a.tif")


# --- outlines


def polygon(rings):
    return shapely.geometry.Polygon(rings[0], rings[1:])


@settings(max_examples=150, deadline=None)
@given(labels=hnp.arrays(np.int32, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.integers(0, 2)))
def test_outlines_are_valid_and_cover_exactly_their_pixels(labels):
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


def features_of(mask, slide="s1"):
    return list(tissue_features(summarise_mask(TiledArray.of(mask)), mpp=0.5, slide=slide))


def test_nothing_has_no_outline(tmp_path):
    assert trace_polygons(np.zeros((5, 5), np.int32)) == []
    assert features_of(np.zeros((5, 5), np.uint8)) == []
    nothing = TiledArray.of(np.zeros((9, 9), np.int32))
    path = write_geojson(tmp_path / "a.geojson", object_features(nothing, pd.DataFrame({"cell_id": []}), slide="s"))
    assert json.loads(path.read_bytes()) == {"type": "FeatureCollection", "features": []}


def test_tissue_outlines_are_qupath_annotations(tmp_path):
    mask = MASK.copy()
    mask[8:10, 8:10] = 3  # keratin in a hole of the epidermis
    mask[0, 0] = 2  # and a second piece of epidermis
    collection = json.loads(write_geojson(tmp_path / "a.geojson", features_of(mask)).read_bytes())
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


def test_a_summary_counts_every_pixel():
    mask = RNG.integers(0, 4, (1300, 200)).astype(np.uint8)
    summary = summarise_mask(TiledArray.of(mask))
    assert summary.counts == {t: int((mask == t).sum()) for t in TissueClass}
    assert sum(summary.shares.values()) == pytest.approx(1)
    assert (summary.sampled == mask).all()
    assert summarise_mask(TiledArray.of(mask.reshape(200, 1300))).digest != summary.digest


def test_outlines_of_a_large_mask_are_drawn_on_fewer_pixels_and_areas_stay_exact(monkeypatch):
    mask = np.zeros((903, 1202), np.uint8)
    mask[100:700, 200:900] = TissueClass.EPIDERMIS
    monkeypatch.setattr(geojson, "_TRACED_WHOLE_PX", 50_000)
    monkeypatch.setattr(geojson, "_TRACED_LARGE_PX", 50_000)
    summary = summarise_mask(TiledArray.of(mask))
    assert summary.step_px == 5
    assert summary.sampled.size <= 50_000
    (feature,) = tissue_features(summary, mpp=0.5, slide="s")
    assert feature["properties"]["measurements"]["area_px"] == 600 * 700
    ring = np.array(feature["geometry"]["coordinates"][0])
    assert (np.abs(ring.min(axis=0) - [200, 100]) <= 5).all()
    assert (np.abs(ring.max(axis=0) - [900, 700]) <= 5).all()


def test_cells_are_qupath_detections_with_their_numbers():
    instances = np.zeros((20, 20), np.int32)
    instances[2:5, 3:7], instances[2:5, 7:9] = 1, 2  # they touch
    cells = pd.DataFrame(
        {"cell_id": [1, 2], "mean_dab_od": pd.array([0.25, None], dtype="Float64"), "kind": ["a", "b"]}
    )
    features, again, other = (
        list(object_features(TiledArray.of(instances), cells, slide=slide)) for slide in ("s1", "s1", "s2")
    )
    assert [f["properties"]["objectType"] for f in features] == ["detection"] * 2
    assert [shapely.geometry.shape(f["geometry"]).area for f in features] == [12, 6]
    assert features[0]["properties"]["measurements"] == {"cell_id": 1, "mean_dab_od": 0.25}
    assert features[1]["properties"]["measurements"] == {"cell_id": 2}
    assert features == again
    assert features != other


def test_outlines_are_whole_across_blocks():
    """Two thousand cells and more, some over the borders of tiles and blocks: each outlined once, at its place."""
    instances = np.zeros((2100, 2200), np.int32)
    instances[300:, 180:] = discs(1800, 2020)
    used = np.unique(instances)[1:]
    cells = pd.DataFrame({"cell_id": used, "mean_dab_od": 0.5})
    features = list(object_features(TiledArray.of(instances), cells, slide="s"))
    assert [f["properties"]["measurements"]["cell_id"] for f in features] == used.tolist()
    areas = np.bincount(instances.ravel())[used]
    shapes = [shapely.geometry.shape(f["geometry"]) for f in features]
    assert [shape.area for shape in shapes] == areas.tolist()
    assert len(used) > 3500
    for number, shape in list(zip(used, shapes, strict=True))[::97]:
        rows, columns = np.nonzero(instances == number)
        assert shape.bounds == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
