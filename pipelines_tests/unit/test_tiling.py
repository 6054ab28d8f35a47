"""Tiles cover every pixel, and blending gives back what went in."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermatome.errors import BadSetting
from dermatome.geometry import Size
from dermatome.imaging.tiling import Blender, RowEnlarger, cut_tile, tile_grid, tile_starts
from dermatome.inference.canvas import Canvas, most_probable

sides = st.integers(1, 150)
tiles = st.tuples(st.integers(2, 40), st.integers(0, 39)).filter(lambda t: t[1] < t[0])


@given(st.integers(1, 5000), st.integers(1, 600), st.integers(0, 599))
def test_starts_cover_the_side_with_at_least_the_overlap(length, tile, overlap):
    if overlap >= tile:
        with pytest.raises(BadSetting):
            tile_starts(length, tile, overlap)
        return
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] + tile == max(length, tile)
    assert all(b - a <= tile - overlap for a, b in itertools.pairwise(starts))
    assert starts == sorted(set(starts))
    if len(starts) > 2:
        assert (len(starts) - 2) * (tile - overlap) + tile < length  # not one tile more than needed


@given(sides, sides, tiles)
@settings(deadline=None, max_examples=60)
def test_blending_tiles_of_a_field_gives_the_field_back(height, width, tile_overlap):
    tile, overlap = tile_overlap
    size = Size(height, width)
    field = np.random.default_rng(height * 151 + width).random((3, height, width)).astype(np.float32)
    out = np.full_like(field, np.nan)
    tops = []

    def sink(top, rows):
        tops.append(top)
        assert np.isnan(out[:, top : top + rows.shape[1]]).all()  # each row once
        out[:, top : top + rows.shape[1]] = rows

    blender = Blender(3, size, tile, sink)
    for box in tile_grid(size, tile, overlap):
        blender.add(box, np.stack([cut_tile(plane, box) for plane in field]))
    blender.close()
    assert tops == sorted(tops)
    np.testing.assert_allclose(out, field, atol=1e-5)


def test_overlapping_tiles_that_differ_pass_into_each_other_without_a_step():
    size = Size(32, 64)
    rows = []
    blender = Blender(1, size, 32, lambda top, r: rows.append(r))
    for number, box in enumerate(tile_grid(size, 32, 16)):
        blender.add(box, np.full((1, 32, 32), number, dtype=np.float32))
    blender.close()
    line = np.concatenate(rows, axis=1)[0, 16]
    assert line[0] == 0
    assert line[-1] == 2
    assert np.abs(np.diff(line)).max() < 0.3  # tiles side by side without blending would step by 1


@given(sides, sides, sides, sides, st.integers(1, 30))
@settings(deadline=None, max_examples=60)
def test_enlarging_rows_as_they_come_equals_enlarging_the_whole(h, w, out_h, out_w, band):
    import cv2

    field = np.random.default_rng(h * w).random((2, h, w)).astype(np.float32)
    got = np.full((2, out_h, out_w), np.nan, dtype=np.float32)

    def sink(top, rows):
        got[:, top : top + rows.shape[1]] = rows

    enlarger = RowEnlarger(Size(h, w), Size(out_h, out_w), sink)
    for top in range(0, h, band):
        enlarger(top, field[:, top : top + band])
    expected = np.stack([cv2.resize(p, (out_w, out_h), interpolation=cv2.INTER_LINEAR) for p in field])
    np.testing.assert_allclose(got, expected, atol=2e-3)


@pytest.mark.parametrize(
    ("h", "w", "out_h", "out_w"), [(40, 30, 160, 120), (97, 103, 397, 411), (97, 103, 40, 50), (1, 9, 33, 70)]
)
def test_enlarged_classes_are_those_of_the_enlarged_probabilities(h, w, out_h, out_w):
    import cv2

    noise = np.random.default_rng(h * w).random((4, h, w)).astype(np.float32)
    canvas = Canvas(4, Size(h, w))
    canvas.write(0, 0, np.stack([cv2.GaussianBlur(plane, (0, 0), 2) for plane in noise]))
    expected = []
    enlarge = RowEnlarger(Size(h, w), Size(out_h, out_w), lambda top, rows: expected.append(most_probable(rows)))
    enlarge(0, canvas.read(0, h).transpose(1, 0, 2).astype(np.float32))
    tops, bands = zip(*canvas.labels_at(Size(out_h, out_w)), strict=True)
    assert list(tops) == list(np.cumsum([0, *map(len, bands)])[:-1])
    found = np.concatenate(bands)
    assert len(np.unique(found)) > 1
    np.testing.assert_array_equal(found, np.concatenate(expected))
