"""Training tiles: cut where the ROI says, named as promised, read back the same."""

import json
import math
import time

import numpy as np
import pytest
from PIL import Image

from dermatome.classes import IGNORED, TissueClass
from dermatome.errors import BadAnnotation, MissingInput, StorageFailed
from dermatome.geometry import Box
from dermatome.skin.tiles.crops import cut_tiles, load_tiles, manifest_rows, tiles_sha256
from dermatome.skin.tiles.rois import Roi, read_rois

FREEHAND = [[k * 1.5, k**2 % 997] for k in range(3000)]
INF = math.inf


@pytest.fixture
def slide():
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 4, (90, 120), dtype=np.uint8)
    return rng.integers(0, 255, (90, 120, 3), dtype=np.uint8), mask


def test_tiles_come_back_as_they_were_cut(tmp_path, slide):
    image, mask = slide
    rois = [Roi("r1", Box(10, 20, 50, 60), divide=2), Roi("all", Box(0, 0, 90, 120))]
    rows = cut_tiles("s7", image, mask, rois, tmp_path, ihc=255 - image)
    assert [row["name"] for row in rows] == ["s7_r1_1-1", "s7_r1_1-2", "s7_r1_2-1", "s7_r1_2-2", "s7_all"]
    assert [rows[2][side] for side in ("top_px", "left_px", "height_px", "width_px")] == [30, 20, 20, 20]
    pairs = {pair.name: pair for pair in load_tiles(tmp_path)}
    assert len(pairs) == 10
    assert (pairs["s7_all+ihc"].read()[0] == 255 - image).all()
    assert (pairs["s7_all+ihc"].read()[1] == mask).all()
    got_image, got_mask = pairs["s7_r1_2-1"].read()
    assert (got_image == image[30:50, 20:40]).all()
    assert (got_mask == mask[30:50, 20:40]).all()
    assert pairs["s7_all"].group == "s7"
    ihc = np.asarray(Image.open(tmp_path / "ihc" / "s7_all.png"))
    assert (ihc == 255 - image).all()


def test_errors_come_before_anything_is_written(tmp_path, slide):
    image, drawn = slide
    good = Roi("ok", Box(0, 0, 10, 10))
    for rois, mask, says in [
        ([good, Roi("far", Box(80, 0, 100, 20))], drawn, "'far' of s1 .*not inside"),
        ([good, Roi("empty", Box(5, 5, 5, 9))], drawn, "not inside"),
        ([good], drawn[:-1], "120×89"),
        ([good], np.full_like(drawn, IGNORED), "No pixel in the ROIs of s1 has a class"),
    ]:
        with pytest.raises(BadAnnotation, match=says):
            cut_tiles("s1", image, mask, rois, tmp_path / "out")
    with pytest.raises(StorageFailed, match="file name"):
        cut_tiles("../s1", image, drawn, [good], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_our_roi_file_and_quapths_rectangles_say_the_same(tmp_path):
    own, geo = tmp_path / "own.json", tmp_path / "rois.geojson"
    own.write_text(json.dumps({"rois": [{"name": "a", "top": 10, "left": 20, "height": 30, "width": 40, "divide": 2}]}))
    ring = [[20, 10], [60, 10], [60, 40], [20, 40], [20, 10]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "name": "a", "metadata": {"divide": "2"}},
    }
    geo.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    assert read_rois(own) == read_rois(geo) == [Roi("a", Box(10, 20, 40, 60), 2)]
    geo.write_bytes(b"\xef\xbb\xbf" + json.dumps(feature).encode())  # as Windows writes it
    assert read_rois(geo) == [Roi("a", Box(10, 20, 40, 60), 2)]


SIDES = {"top": 1, "left": 1, "height": 5, "width": 5}


def ring(*corners):
    return {"geometry": {"type": "Polygon", "coordinates": [corners]}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"rois": [{"top": 1, "left": 1, "height": 5}]}, "ROI 1 of .* is not usable"),
        ({"rois": [SIDES | {"top": 1.5}]}, "whole px"),
        ({"rois": [SIDES | {"divide": 0}]}, "not usable"),
        ({"rois": [SIDES | {"name": "a"}] * 2}, "two ROIs named 'a'"),
        (
            {"type": "FeatureCollection", "features": [{"geometry": {"type": "Point", "coordinates": [1, 2]}}]},
            "upright",
        ),
        ([ring([0, 0], [5, 1], [5, 5], [0, 5], [0, 0])], "not an upright rectangle"),
        ([ring(*FREEHAND)], "not an upright rectangle"),
        ([ring([0, 0], [INF, 0], [INF, 9], [0, 9])], "upright rectangle"),
        ([ring([0, 0], [10**400, 0], [0, 9])], "upright rectangle"),
        ({"shapes": []}, "neither"),
    ],
)
def test_bad_roi_files(tmp_path, content, says):
    path = tmp_path / "rois.json"
    path.write_text(json.dumps(content))
    start = time.monotonic()
    with pytest.raises(BadAnnotation, match=says):
        read_rois(path)
    assert time.monotonic() - start < 2, "the corners of 3,000 points are not listed"


def test_tiles_without_partner_palette_or_at_all(tmp_path, slide):
    image, drawn = slide
    cut_tiles("s1", image, drawn, [Roi("a", Box(0, 0, 9, 9)), Roi("b", Box(0, 0, 9, 9))], tmp_path)
    whole = tiles_sha256(load_tiles(tmp_path))
    assert whole == tiles_sha256(reversed(load_tiles(tmp_path)))
    (tmp_path / "masks" / "s1_b.png").unlink()
    with pytest.raises(MissingInput, match="'s1_b' has no mask"):
        load_tiles(tmp_path)
    (tmp_path / "images" / "s1_b.png").unlink()
    assert tiles_sha256(load_tiles(tmp_path)) != whole
    Image.new("L", (9, 8)).save(tmp_path / "masks" / "s1_a.png")
    with pytest.raises(BadAnnotation, match="9×9 px and .* is 9×8 px"):
        load_tiles(tmp_path)[0].read()
    Image.new("RGB", (9, 9)).save(tmp_path / "masks" / "s1_a.png")
    with pytest.raises(BadAnnotation, match=r"palette\.json"):
        load_tiles(tmp_path)[0].read()


def test_parts_of_which_nothing_is_known_are_no_tiles(tmp_path, slide):
    image, mask = slide
    mask[:, 20:] = IGNORED
    rows = cut_tiles("s1", image, mask, [Roi("a", Box(0, 0, 80, 80), divide=2)], tmp_path, slide="s", mpp=0.4)
    assert [row["name"] for row in rows] == ["s1_a_1-1", "s1_a_2-1"]
    tile = load_tiles(tmp_path)[0]
    assert (tile.slide, tile.group, tile.mpp) == ("s", "s", 0.4)
    assert tile.class_pixels().sum() == 40 * 20
    (row, _) = manifest_rows(load_tiles(tmp_path), "train")
    assert sum(row.pixels) == 40 * 20


def test_a_public_data_set_is_read_as_it_comes_with_a_shipped_palette(tmp_path):
    """Folders, suffixes and colours of the University of Queensland's data set."""
    classes = {
        "background": [(0, 0, 0)],
        "dermis": [(108, 0, 115), (145, 1, 122), (181, 9, 130), (236, 85, 157), (254, 246, 242), (127, 255, 142)],
        "epidermis": [(73, 0, 106), (216, 47, 148), (127, 255, 255), (255, 127, 127)],
        "keratin": [(248, 123, 168)],
    }
    colours = [colour for own in classes.values() for colour in own]
    (tmp_path / "Images").mkdir()
    (tmp_path / "Masks").mkdir()
    Image.new("RGB", (12, 2)).save(tmp_path / "Images" / "1_BCC.tif")
    Image.fromarray(np.tile(np.array(colours, np.uint8), (2, 1, 1))).save(tmp_path / "Masks" / "1_BCC.png")
    (tile,) = load_tiles(tmp_path, palette="queensland")
    labels = [label for label, own in classes.items() for _ in own]
    assert [TissueClass(number).label for number in tile.read()[1][0]] == labels
