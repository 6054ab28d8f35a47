"""Label maps, instance files and outlines of cells: what is written part by part is what other programs read."""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely.geometry
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from dermatome.errors import BadAnnotation, BadSetting
from dermatome.geometry import Box, Size
from dermatome.labels.instance_files import load_instances, save_instances, write_cells_geojson, write_map_tiff
from dermatome.labels.label_map import LabelMap
from dermatome.labels.patchwork import Patchwork


def discs(height_px: int, width_px: int) -> np.ndarray:
    """Discs in rows, across the borders of tiles, numbered in reading order of their rows."""
    rows, columns = np.mgrid[:height_px, :width_px]
    centre = (rows % 32 - 16) ** 2 + (columns % 32 - 16) ** 2 < 120
    return np.where(centre, (rows // 32) * (width_px // 32 + 1) + columns // 32 + 1, 0).astype(np.int32)


@pytest.mark.parametrize("shape", [(30, 40), (512, 512), (513, 1030)])
def test_a_label_map_is_its_array(shape: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 9, shape).astype(np.int32)
    made = LabelMap.of(labels)
    np.testing.assert_array_equal(made.whole(), labels)
    np.testing.assert_array_equal(np.concatenate(list(made.bands(100))), labels)
    np.testing.assert_array_equal(made[3:-2, :17], labels[3:-2, :17])
    with pytest.raises(ValueError, match="without steps"):
        made[::2, :]
    assert list(LabelMap.of(labels.copy()).content()) == list(made.content())
    labels[-1, -1] += 1
    assert list(LabelMap.of(labels).content()) != list(made.content())


@settings(max_examples=60, deadline=None)
@given(
    writes=st.lists(
        st.tuples(st.integers(-5, 60), st.integers(-5, 60), st.integers(1, 30), st.integers(1, 30)), max_size=6
    ),
    side=st.integers(3, 40),
    read=st.tuples(st.integers(-9, 50), st.integers(-9, 50), st.integers(1, 60), st.integers(1, 60)),
)
def test_a_patchwork_reads_what_was_written(
    writes: list[tuple[int, int, int, int]], side: int, read: tuple[int, int, int, int]
) -> None:
    plain, patchwork = np.zeros((200, 200), np.int64), Patchwork(side, np.int64)
    for number, (top, left, tall, wide) in enumerate(writes, 1):
        box = Box(top, left, top + tall, left + wide)
        values = number * np.arange(1, tall * wide + 1).reshape(tall, wide)
        here = plain[top + 50 : top + tall + 50, left + 50 : left + wide + 50]
        if number % 2:
            patchwork.write(box, values)
            here[:] = values
        else:
            patchwork.add(box, values)
            here += values
    top, left, tall, wide = read
    np.testing.assert_array_equal(
        patchwork.read(Box(top, left, top + tall, left + wide)),
        plain[top + 50 : top + tall + 50, left + 50 : left + wide + 50],
    )
    patchwork.forget_above(3 * side)
    assert all(row >= 3 for row, _ in patchwork.patches())


def test_instances_come_back(tmp_path: Path) -> None:
    instances = discs(700, 1300)
    path = save_instances(tmp_path / "a.npz", instances)
    loaded = load_instances(path, size=Size(700, 1300))
    np.testing.assert_array_equal(loaded, instances)
    assert loaded.dtype == np.int32
    loaded[0, 0] = 7  # it can be written to
    with np.load(path, allow_pickle=False) as plain:
        np.testing.assert_array_equal(plain["instances"], instances)
    first = path.read_bytes()
    time.sleep(1.1)  # zip dates have whole seconds
    assert save_instances(path, LabelMap.of(instances)).read_bytes() == first


def test_numbers_below_zero_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", instances=np.array([[-1]]))
    with pytest.raises(BadAnnotation, match="outside 0"):
        load_instances(tmp_path / "a.npz")


def test_the_tiff_of_instances_holds_them_with_their_scale(tmp_path: Path) -> None:
    instances = discs(700, 1300)
    instances[:, 512:1024] = 0  # tiles that hold no cell
    path = write_map_tiff(tmp_path / "c.ome.tif", LabelMap.of(instances), 0.25)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        assert tiff.pages[0].is_tiled  # type: ignore[union-attr]
        assert tiff.pages[0].compression.name == "ADOBE_DEFLATE"  # type: ignore[union-attr]
        np.testing.assert_array_equal(tiff.series[0].asarray(), instances)
        assert 'PhysicalSizeX="0.25"' in (tiff.ome_metadata or "")
    with pytest.raises(BadSetting, match="mpp"):
        write_map_tiff(tmp_path / "d.ome.tif", LabelMap.of(instances), 0.0)
    assert [p.name for p in tmp_path.iterdir()] == ["c.ome.tif"]


def test_cells_are_qupath_detections_with_their_numbers(tmp_path: Path) -> None:
    instances = np.zeros((20, 20), np.int32)
    instances[2:5, 3:7], instances[2:5, 7:9] = 1, 2  # they touch
    cells = pd.DataFrame(
        {"cell_id": [1, 2], "mean_dab_od": pd.array([0.25, None], dtype="Float64"), "kind": ["a", "b"]}
    )
    path = write_cells_geojson(tmp_path / "a.geojson", instances, cells, slide="s1")
    data = path.read_bytes()
    features = json.loads(data)["features"]
    assert [f["properties"]["objectType"] for f in features] == ["detection"] * 2
    assert [shapely.geometry.shape(f["geometry"]).area for f in features] == [12, 6]
    assert features[0]["properties"]["measurements"] == {"cell_id": 1, "mean_dab_od": 0.25}
    assert features[1]["properties"]["measurements"] == {"cell_id": 2}
    assert write_cells_geojson(path, instances, cells, slide="s1").read_bytes() == data
    assert write_cells_geojson(path, instances, cells, slide="s2").read_bytes() != data


def test_outlines_are_whole_across_blocks(tmp_path: Path) -> None:
    """Two thousand cells and more, some over the borders of tiles and blocks: each outlined once, at its place."""
    instances = np.zeros((2100, 2200), np.int32)
    instances[300:, 180:] = discs(1800, 2020)
    used = np.unique(instances)[1:]
    cells = pd.DataFrame({"cell_id": used, "mean_dab_od": 0.5})
    path = write_cells_geojson(tmp_path / "a.geojson", instances, cells, slide="s")
    features = json.loads(path.read_bytes())["features"]
    assert [f["properties"]["measurements"]["cell_id"] for f in features] == used.tolist()
    areas = np.bincount(instances.ravel())[used]
    shapes = [shapely.geometry.shape(f["geometry"]) for f in features]
    assert [shape.area for shape in shapes] == areas.tolist()
    assert len(used) > 3500
    for number, shape in list(zip(used, shapes, strict=True))[::97]:
        rows, columns = np.nonzero(instances == number)
        assert shape.bounds == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_a_map_without_cells_has_no_outlines(tmp_path: Path) -> None:
    path = write_cells_geojson(
        tmp_path / "a.geojson", np.zeros((9, 9), np.int32), pd.DataFrame({"cell_id": []}), slide="s"
    )
    assert json.loads(path.read_bytes()) == {"type": "FeatureCollection", "features": []}
