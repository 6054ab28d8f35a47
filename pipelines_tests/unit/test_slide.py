"""Plain images as slides; files that are odd or bad are in `test_bad_images.py`."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from dermatome.errors import BadImage, BadSetting, MissingInput
from dermatome.slides.plain import TURNED, decode_numbers, decode_rgb
from dermatome.slides.slide import read_slide
from pipelines_tests.bad_images import saved, tiff

RNG = np.random.default_rng(0)


def rgb(size=(40, 30)):
    return Image.fromarray(RNG.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("how", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2, "progressive": True}])
def test_a_jpeg_has_the_pixels_that_pillow_gives(how, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(rgb((43, 31)), "JPEG", quality=80, exif=exif, **how)
    pixels, notes = decode_rgb(data, "a.jpg")
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(pixels, np.asarray(ImageOps.exif_transpose(image)))
    assert notes == ((TURNED,) if orientation == 6 else ())


def grey16(top=65535):
    return Image.fromarray(np.linspace(0, top, 1200).astype(np.uint16).reshape(30, 40))


def twelve_bit(**options):
    eight = np.asarray(rgb((64, 48))).copy()
    eight[0, 0] = 255
    return eight, tiff(eight.astype(np.uint16) * 16, photometric="rgb", **options)


@pytest.mark.parametrize(
    "stated",
    [{"extratags": [(281, "H", 3, (4095, 4095, 4095), True)]}, {"ome": True, "metadata": {"SignificantBits": 12}}],
)
def test_twelve_bits_in_sixteen_are_scaled_by_their_stated_depth(stated):
    eight, data = twelve_bit(**stated)
    pixels, conversions = decode_rgb(data, "a.tif")
    assert np.abs(pixels.astype(int) - eight).max() <= 1
    assert conversions == ("16-bit colour of 12 used bits scaled to 8 bits",)


def test_sixteen_bit_files_of_unknown_depth_are_refused():
    for data in (twelve_bit()[1], saved(grey16(4095), "PNG"), saved(grey16(4095), "TIFF")):
        with pytest.raises(BadImage, match="does not state how many bits they use"):
            decode_rgb(data, "a.tif")
    with pytest.raises(BadImage, match="states 8 bits but contains values up to 4080"):
        decode_rgb(twelve_bit(extratags=[(281, "H", 3, (255, 255, 255), True)])[1], "a.tif")


def test_hot_pixels_alpha_and_channels_stored_apart_do_not_hide_the_depth():
    eight = np.asarray(rgb((64, 48))).copy()
    twelve = eight.astype(np.uint16) * 16
    hot = twelve.copy()
    hot[3:5, 3] = 65535
    planes = {"planarconfig": "separate", "photometric": "rgb"}
    alpha = np.dstack([twelve, np.full(twelve.shape[:2], 65535, np.uint16)])
    for values, how in (
        (hot, {"photometric": "rgb"}),
        (hot[..., 0].copy(), {}),
        (np.moveaxis(twelve, -1, 0).copy(), planes),
        (alpha, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    ):
        with pytest.raises(BadImage, match="does not state how many bits they use"):
            decode_rgb(tiff(values, **how), "a.tif")
    apart = np.moveaxis(eight.astype(np.uint16) * 257, -1, 0).copy()
    np.testing.assert_array_equal(decode_rgb(tiff(apart, **planes), "a.tif")[0], eight)
    with pytest.raises(BadImage, match="pixels of type float32, which has no safe 8-bit RGB conversion"):
        decode_rgb(tiff(eight.astype(np.float32) / 255, photometric="rgb"), "a.tif")


def test_class_numbers_of_a_tiff_where_zero_is_white_are_read_as_stored():
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4) % 4
    np.testing.assert_array_equal(decode_numbers(tiff(numbers, photometric="miniswhite"), "m.tif"), numbers)


@pytest.mark.parametrize(
    ("code", "name", "whole_px"), [(50001, "WEBP", 10_000), (50505, "a number that is not registered", 10)]
)
def test_a_compression_that_is_not_read_is_named(code, name, whole_px, tmp_path, monkeypatch):
    monkeypatch.setattr("dermatome.slides.slide.WHOLE_PX", whole_px)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.asarray(rgb((64, 64))), photometric="rgb")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags[259].overwrite(code)
    with pytest.raises(BadImage, match=rf"compressed with {name} \({code}\), which is not read"):
        read_slide(path)


@pytest.mark.parametrize("deep", [1, 257])
@pytest.mark.parametrize(
    ("orientation", "corner"), [(2, (0, -1)), (3, (-1, -1)), (5, (0, 0)), (6, (0, -1)), (8, (-1, 0))]
)
def test_a_tiff_is_turned_as_it_says(deep, orientation, corner):
    pixels = np.full((30, 40, 3), 240)
    pixels[0, 0] = 10
    pixels = (pixels * deep).astype(np.uint8 if deep == 1 else np.uint16)
    data = tiff(pixels, photometric="rgb", metadata=None, extratags=[(274, "H", 1, orientation, True)])
    found, conversions = decode_rgb(data, "a.tif")
    assert found.shape == ((40, 30, 3) if orientation > 4 else (30, 40, 3))
    assert (found == 10).all(axis=2).sum() == 1
    assert found[corner].tolist() == [10] * 3
    assert conversions[-1] == "turned upright as its EXIF orientation says"


def test_sixteen_bits_where_zero_is_white_are_turned_round():
    dark = np.linspace(0, 65535, 1200).astype(np.uint16).reshape(30, 40)
    found = decode_rgb(tiff(dark, photometric="miniswhite"), "a.tif")[0]
    assert np.array_equal(found[..., 0], (65535 - dark) >> 8)


def test_more_channels_than_a_colour_has_are_refused():
    five = np.zeros((30, 40, 5), np.uint8)
    with pytest.raises(BadImage, match="^a.tif holds 5 channels, of which only three would be read: export it as RGB"):
        decode_rgb(tiff(five, photometric="rgb", extrasamples=["unspecified"] * 2, metadata=None), "a.tif")


def test_transparent_pixels_are_white():
    image = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    pixels, _ = decode_rgb(saved(image, "PNG"), "a")
    assert (pixels == 255).all()


def test_other_mistakes(tmp_path):
    with pytest.raises(MissingInput, match="There is no image"):
        read_slide(tmp_path / "absent.jpg")
    with pytest.raises(BadSetting, match="declared mpp"):
        read_slide(tmp_path / "absent.jpg", declared_mpp=0)
