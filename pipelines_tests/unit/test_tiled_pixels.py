"""A region of a large file is the slice of the whole image, however the file is laid out; damage is found."""

import io

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dermatome.errors import BadImage
from dermatome.geometry import Box, Size
from dermatome.slides import levels, resize
from dermatome.slides import slide as slides
from dermatome.slides import tiled_tiff as tiled_pixels
from dermatome.slides.resize import resize_image
from dermatome.slides.slide import Slide, read_slide
from dermatome.slides.tiled_tiff import TiledLabels, TiledPixels


def picture(height=301, width=467):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows % 251, columns % 253, (rows * 3 + columns * 5) % 255], axis=-1).astype(np.uint8)


WHOLE = picture()
LAYOUTS = {
    "tiles": {"tile": (64, 48)}, "deflated tiles": {"tile": (64, 64), "compression": "zlib", "predictor": True},
    "lzw tiles": {"tile": (16, 128), "compression": "lzw"}, "one tile": {"tile": (512, 512)},
    "strips": {"rowsperstrip": 7}, "deflated strips": {"rowsperstrip": 32, "compression": "zlib"},
    "one strip": {"rowsperstrip": 301}, "bigtiff": {"tile": (64, 64), "bigtiff": True},
    "big-endian": {"tile": (64, 64), "byteorder": ">"},
}  # fmt: skip


def write(path, image, *, bigtiff=False, byteorder="<", **layout):
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as writer:
        writer.write(image, photometric="rgb" if image.ndim == 3 else "minisblack", metadata=None, **layout)
    return path


@pytest.fixture(scope="module", params=LAYOUTS)
def tiled(request, tmp_path_factory):
    return TiledPixels(write(tmp_path_factory.mktemp("tiled") / "a.tif", WHOLE, **LAYOUTS[request.param]))


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_a_region_is_the_slice_of_the_whole(tiled, data):
    top, bottom = sorted((data.draw(st.integers(0, 301)), data.draw(st.integers(0, 301))))
    left, right = sorted((data.draw(st.integers(0, 467)), data.draw(st.integers(0, 467))))
    assert np.array_equal(tiled[top:bottom, left:right], WHOLE[top:bottom, left:right])


def test_a_slide_gives_the_same_region_at_any_scale_from_memory_and_from_parts(tiled):
    memory, parts = (Slide("s", pixels, 0.5, slides.MppSource.DECLARED, "") for pixels in (WHOLE, tiled))
    for box, size in (
        (Box(0, 0, 301, 467), Size(75, 117)),
        (Box(13, 40, 290, 460), Size(31, 200)),
        (Box(0, 0, 301, 467), Size(301, 467)),
        (Box(10, 10, 20, 30), Size(35, 70)),
        (Box(100, 0, 101, 467), Size(1, 3)),
    ):
        found = parts.region(box, size)
        assert found.shape == (size.height_px, size.width_px, 3)
        assert np.array_equal(found, memory.region(box, size))
    assert np.array_equal(parts.overview(90), memory.overview(90))
    with pytest.raises(BadImage, match="too large"):
        parts.whole()


def test_rows_in_bands_are_the_region_and_agree_with_shrinking_at_once():
    big = Slide("s", np.tile(picture(600, 400), (3, 1, 1)), 0.5, slides.MppSource.DECLARED, "")
    box = Box.whole(big.size)
    for size in (Size(450, 100), Size(447, 99), Size(1800, 400)):
        bands = list(big.rows(box, size))
        assert len(bands) > 1
        at_once = resize_image(big.whole(), size)
        assert np.concatenate(bands).shape == at_once.shape
        # Bands begin at whole pixels: where the scale is no whole number, a row may move by half a pixel.
        assert np.abs(np.concatenate(bands).astype(int) - at_once).mean() < (0.01 if 1800 % size.height_px == 0 else 3)


@pytest.mark.parametrize("at_once", [20_000, 1000])
def test_few_rows_are_read_at_once_however_much_a_slide_shrinks(tiled, monkeypatch, at_once):
    slide = Slide("s", tiled, 0.5, slides.MppSource.DECLARED, "")
    boxes = (Box.whole(slide.size), Box(13, 40, 290, 460))
    sizes = (Size(290 // 4, 400 // 4), Size(7, 11), Size(1, 1), Size(277, 100), Size(150, 300))
    before = [slide.region(box, size) for box in boxes for size in sizes]
    read, largest = tiled.read, []

    def recorded(box, level=0):
        largest.append(box.size.area_px)
        return read(box, level)

    monkeypatch.setattr(tiled, "read", recorded)
    monkeypatch.setattr(resize, "_READ_PX", at_once)
    now = [slide.region(box, size) for box in boxes for size in sizes]
    assert max(largest) <= at_once
    for one, other in zip(before, now, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def pyramid(path):
    with tifffile.TiffWriter(path) as writer:
        options = {"photometric": "rgb", "tile": (64, 64), "metadata": None}
        writer.write(WHOLE, subifds=2, **options)
        for times in (2, 4):
            size = Size(*WHOLE.shape[:2]).scaled(1 / times)
            writer.write(255 - resize_image(WHOLE, size), subfiletype=1, **options)  # told apart by its colours
    return path


def test_a_coarse_look_takes_the_level_that_is_fine_enough(tmp_path):
    pixels = TiledPixels(pyramid(tmp_path / "p.tif"))
    assert pixels.sizes == (Size(301, 467), Size(150, 234), Size(75, 117))
    assert [pixels.level_for(shrunk) for shrunk in (1, 1.9, 2.01, 3.9, 4.02, 50)] == [0, 0, 1, 1, 2, 2]
    slide = Slide("s", pixels, 0.5, slides.MppSource.DECLARED, "")
    whole = Box.whole(slide.size)
    inverted = resize_image(255 - resize_image(WHOLE, Size(150, 234)), Size(100, 156))
    assert np.array_equal(slide.region(whole, Size(100, 156)), inverted)
    assert np.array_equal(slide.region(whole, slide.size), WHOLE)
    enlarged = slide.region(Box(0, 0, 8, 8), Size(16, 16)).astype(int)
    assert np.abs(enlarged - resize_image(WHOLE[:8, :8], Size(16, 16))).max() <= 1


def test_jpeg_tiles_and_grey_are_read_as_rgb(tmp_path):
    smooth = np.asarray(Image.fromarray(WHOLE).resize((467, 301)).convert("L"))
    grey = TiledPixels(write(tmp_path / "grey.tif", smooth, tile=(64, 64)))
    assert np.array_equal(grey[3:100, 5:90], np.repeat(smooth[3:100, 5:90, None], 3, axis=2))
    colour = np.stack([smooth, 255 - smooth, smooth // 2], axis=-1)
    jpeg = TiledPixels(write(tmp_path / "jpeg.tif", colour, tile=(128, 128), compression="jpeg"))
    with Image.open(tmp_path / "jpeg.tif") as opened:
        whole = np.asarray(opened.convert("RGB"))
    assert np.abs(jpeg[:, :].astype(int) - whole).mean() < 2
    assert np.array_equal(jpeg[33:150, 100:301], jpeg[:, :][33:150, 100:301])


def test_a_large_tiff_is_opened_in_parts_and_others_are_decoded_whole(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", WHOLE, tile=(64, 64))
    assert isinstance(read_slide(path).pixels, np.ndarray)
    monkeypatch.setattr(slides, "WHOLE_PX", 100_000)
    large = read_slide(path, max_side_px=100)
    assert isinstance(large.pixels, TiledPixels)
    assert "in parts" in large.conversions[0]
    assert len(large.sha256) == 64
    monkeypatch.setattr(levels, "MAX_SIDE_IN_PARTS_PX", 400)
    with pytest.raises(BadImage, match="467×301 px, over the limit of 400"):
        read_slide(path)


@pytest.mark.parametrize(
    ("image", "layout", "said"),
    [
        (np.zeros((90, 90, 4), np.uint8), {"tile": (32, 32), "extrasamples": ["unassalpha"]}, "4 channels"),
        (np.zeros((90, 90, 3), np.uint16), {"tile": (32, 32)}, "uint16"),
        (np.zeros((3, 90, 90), np.uint8), {"tile": (32, 32), "planarconfig": "separate"}, "cannot be read in parts"),
        (np.zeros((90, 90, 3), np.uint8), {"tile": (32, 32), "extratags": [(274, 3, 1, 6, True)]}, "upright"),
    ],
)
def test_what_is_not_read_in_parts_is_said(tmp_path, image, layout, said):
    with pytest.raises(BadImage, match=said):
        TiledPixels(write(tmp_path / "a.tif", image, **layout))


@pytest.mark.parametrize("large", [False, True])
def test_channels_in_pages_of_their_own_are_refused_and_further_pages_said(tmp_path, monkeypatch, large):
    path = tmp_path / "a.tif"
    if large:
        monkeypatch.setattr(slides, "WHOLE_PX", 100)
    planes = np.ascontiguousarray(WHOLE.transpose(2, 0, 1))
    for how in ({"ome": True}, {"imagej": True}):
        tifffile.imwrite(path, planes, photometric="minisblack", metadata={"axes": "CYX"}, **how)
        with pytest.raises(BadImage, match="3 channels as separate pages.*interleaved"):
            read_slide(path)
        tifffile.imwrite(path, planes, photometric="minisblack", metadata={"axes": "ZYX"}, **how)
        said = ("the first of several pages taken", "grey repeated into three channels")
        assert read_slide(path).conversions[-2:] == said
        tifffile.imwrite(path, WHOLE, photometric="rgb", **how)
        assert "taken" not in str(read_slide(path).conversions)
    for text in ("<OME><Pixels SizeC='three'/></OME>", "<OME><Pixels></OME>"):
        tifffile.imwrite(path, WHOLE, photometric="rgb", metadata=None, description=text)
        with pytest.raises(BadImage, match="damaged in its description"):
            read_slide(path)


def test_huge_parts_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", WHOLE, rowsperstrip=301)
    monkeypatch.setattr(tiled_pixels, "_MAX_PART_PX", 100_000)
    with pytest.raises(BadImage, match="export it in tiles"):
        TiledPixels(path)


def test_damage_is_found_when_opened_or_when_decoded(tmp_path):
    whole = write(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8), tile=(64, 64),
                  compression="zlib")  # fmt: skip
    data = whole.read_bytes()
    (tmp_path / "short.tif").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadImage, match="damaged or cut short"):
        TiledPixels(tmp_path / "short.tif")
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        at = opened.pages[0].dataoffsets[7]
    (tmp_path / "bad.tif").write_bytes(data[:at] + bytes(300) + data[at + 300 :])
    damaged = TiledPixels(tmp_path / "bad.tif")
    damaged[:64, :64]
    with pytest.raises(BadImage, match="damaged in its part 7"):
        damaged.check()


def test_parts_are_kept_within_bounds(tiled, monkeypatch):
    monkeypatch.setattr(tiled_pixels, "_CACHE_BYTES", 40_000)
    fresh = TiledPixels(tiled.path)
    for _ in range(2):
        assert np.array_equal(fresh[:, :], WHOLE)
    assert fresh._cached_bytes == sum(part.nbytes for part in fresh._cache.values()) <= 40_000


def test_labels_of_another_type_are_refused(tmp_path):
    with pytest.raises(BadImage, match="float32"):
        TiledLabels(write(tmp_path / "f.tif", picture()[..., 0].astype(np.float32), tile=(64, 64)))
