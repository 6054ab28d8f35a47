"""Labels written in bands are the labels written whole."""

import itertools
import json

import numpy as np
import pytest
import tifffile

from dermatome.classes import TissueClass
from dermatome.errors import MissingInput
from dermatome.geometry import Box, Size
from dermatome.labels import bands as label_bands
from dermatome.labels.bands import LabelTally, mask_writer, write_ome_bands
from dermatome.labels.mask_files import load_mask, open_mask, save_mask, tissue_geojson, write_ome_tiff

RNG = np.random.default_rng(0)


def blobs(height, width):
    mask = np.zeros((height, width), np.uint8)
    for tissue in (1, 2, 3):
        top, left = (int(v) for v in RNG.integers(0, (height // 2 + 1, width // 2 + 1)))
        mask[top : top + height // 3 + 1, left : left + width // 3 + 1] = tissue
    return mask


def bands_of(mask):
    edges = [0, *sorted(int(v) for v in RNG.integers(0, len(mask), 3)), len(mask)]
    return [mask[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("size", [(1, 1), (30, 700), (512, 512), (1030, 513), (1025, 40)])
def test_bands_give_the_same_files_as_the_whole(tmp_path, size):
    mask, crop = blobs(*size), Box(0, 0, 1, 1)
    with mask_writer(tmp_path / "bands.npz", Size(*size), crop) as write:
        for band in bands_of(mask):
            write(band)
    save_mask(tmp_path / "whole.npz", mask, crop)
    assert (tmp_path / "bands.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    read, read_crop = load_mask(tmp_path / "bands.npz")
    assert (read == mask).all()
    assert read_crop == crop
    write_ome_bands(tmp_path / "bands.ome.tif", bands_of(mask), Size(*size), np.uint8, 0.5, {}, name="s")
    write_ome_tiff(tmp_path / "whole.ome.tif", mask, 0.5, {}, name="s")
    assert (tmp_path / "bands.ome.tif").read_bytes() == (tmp_path / "whole.ome.tif").read_bytes()
    assert (tifffile.imread(tmp_path / "bands.ome.tif") == mask).all()
    opened = open_mask(tmp_path / "bands.ome.tif")
    assert opened.shape == size
    assert (opened[size[0] // 3 :, : size[1] // 2 + 1] == mask[size[0] // 3 :, : size[1] // 2 + 1]).all()


def test_too_few_rows_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match="20 of 30 rows"):
        write_ome_bands(tmp_path / "a.ome.tif", [np.zeros((20, 10), np.uint8)], Size(30, 10), np.uint8, 0.5, {})
    with pytest.raises(OSError, match="read on"), mask_writer(tmp_path / "a.npz", Size(30, 10), Box(0, 0, 1, 1)):
        raise OSError("cannot read on")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MissingInput, match="no mask"):
        open_mask(tmp_path / "a.ome.tif")


def test_a_tally_counts_every_pixel_and_does_not_depend_on_the_bands():
    mask = blobs(300, 200)
    whole, parts = LabelTally(Size(300, 200)), LabelTally(Size(300, 200))
    whole(mask)
    for band in bands_of(mask):
        parts(band)
    assert whole.digest == parts.digest
    assert whole.counts == parts.counts == {t: int((mask == t).sum()) for t in TissueClass}
    assert sum(whole.shares.values()) == pytest.approx(1)
    assert (whole.to_trace() == mask).all()
    other = LabelTally(Size(200, 300))
    other(mask.reshape(200, 300))
    assert other.digest != whole.digest


def test_outlines_of_a_large_mask_are_drawn_on_fewer_pixels_and_areas_stay_exact(monkeypatch):
    mask = np.zeros((903, 1202), np.uint8)
    mask[100:700, 200:900] = TissueClass.EPIDERMIS
    monkeypatch.setattr(label_bands, "_TRACED_WHOLE_PX", 50_000)
    monkeypatch.setattr(label_bands, "_TRACED_LARGE_PX", 50_000)
    tally = LabelTally(Size(*mask.shape))
    for band in bands_of(mask):
        tally(band)
    assert tally.step_px == 5
    assert tally.to_trace().size <= 50_000
    (feature,) = json.loads(tissue_geojson(tally, mpp=0.5, slide="s"))["features"]
    assert feature["properties"]["measurements"]["area_px"] == 600 * 700
    ring = np.array(feature["geometry"]["coordinates"][0])
    assert (np.abs(ring.min(axis=0) - [200, 100]) <= 5).all()
    assert (np.abs(ring.max(axis=0) - [900, 700]) <= 5).all()
