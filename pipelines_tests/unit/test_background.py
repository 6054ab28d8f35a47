"""Background is found on synthetic and real tiles; what is uncertain counts as tissue."""

import numpy as np
import pytest
from PIL import Image

from dermatome.geometry import Size
from dermatome.imaging.background import Background, find_background, is_background
from dermatome.imaging.tiling import cut_tile, tile_grid
from dermatome.slides.plain import decode_rgb
from dermatome.slides.resize import resize_image
from dermatome.synthetic.skin import toy_slide


def empty(level=240, size=(256, 256), noise=2.0):
    grey = np.random.default_rng(0).normal(level, noise, (*size, 1))
    return np.clip(np.repeat(grey, 3, axis=2), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("level", [225, 240, 255])
@pytest.mark.parametrize("size", [(256, 256), (32, 32), (3, 1)])
def test_noisy_background_is_background(level, size):
    assert is_background(empty(level, size))


def changed(change):
    tile = empty(noise=1.0)
    if change == "fibre":
        tile[100:104, 30:90] = 218
    elif change == "tint":
        tile[..., 2] -= 14
    elif change == "corner":
        tile[-12:, -12:] = (225, 205, 215)
    elif change == "shadow":
        tile[:] = tile - np.linspace(0, 22, 256, dtype=np.uint8)[:, None, None]
    elif change == "pale patch":
        tile[60:120, 60:120, 1] -= 16
    return tile


@pytest.mark.parametrize("change", ["fibre", "tint", "corner", "shadow", "pale patch"])
def test_anything_else_is_not(change):
    assert not is_background(changed(change))
    assert not is_background(np.full((256, 256, 3), 205, np.uint8)), "grey"


def tiles_of(image, side):
    for box in tile_grid(Size(*image.shape[:2]), side, side // 4):
        yield box, cut_tile(image, box)


@pytest.mark.parametrize("mpp", [2.0, 4.0])
def test_real_cores_lose_no_tissue(realdata, mpp):
    skipped = 0
    for path in sorted((realdata / "hpa_ihc").glob("*.jpg")):
        image, _ = decode_rgb(path.read_bytes(), path.name)
        small = resize_image(image, Size(3000, 3000).scaled(0.5 / mpp))
        for _, tile in tiles_of(small, 128):
            if is_background(tile):
                skipped += 1
                darker = tile.min(axis=2) < int(np.median(tile)) - 25
                coloured = np.ptp(tile.astype(int), axis=2) > 25
                # Single pixels of dust and of the camera's noise.
                assert (darker | coloured).mean() < 0.002
    assert skipped or mpp > 2


def test_no_real_tile_that_was_drawn_as_tissue_is_skipped(realdata):
    seen = 0
    for path in sorted((realdata / "skin_pas" / "images").glob("*.jpg")):
        image, _ = decode_rgb(path.read_bytes(), path.name)
        name = path.name.replace("-PAS", "").replace(".jpg", ".png")
        with Image.open(realdata / "skin_pas" / "masks" / name) as opened:
            drawn = np.asarray(opened.convert("RGB")).any(axis=2)
        for side in (64, 128, 256):
            for box, tile in tiles_of(image, side):
                if is_background(tile):
                    # Outlines are drawn with a little background beside the tissue: that much may be "tissue" here.
                    assert (drawn[box.slices] & (tile.min(axis=2) < 215)).mean() < 0.001, (path.name, box)
                    seen += 1
    assert seen


def test_the_light_is_that_of_scanned_background_and_dim_edges_are_background():
    slide = empty(238, (300, 300), noise=0.5)
    slide[:, :60] = 255  # not scanned
    slide[:, 280:] -= 14  # a dim edge
    slide[100:200, 100:200] = np.random.default_rng(1).integers(60, 200, (100, 100, 3))
    background, mask = find_background(slide)
    assert background.i0 == pytest.approx((238, 238, 238), abs=1)
    assert [mask[y, x] for y, x in ((20, 20), (250, 150), (250, 295), (150, 150))] == [True, True, True, False]
    assert background.share == pytest.approx(mask.mean())


@pytest.mark.parametrize("light", [(0.96, 0.96, 0.96), (0.8, 0.8, 0.8), (0.93, 0.72, 0.61), (0.85, 0.92, 1.0)])
def test_a_network_sees_a_slide_under_any_light_as_under_usual_light(light):
    toy = toy_slide(3, size_px=448).slide.whole()
    usual, _ = find_background(toy)
    assert Background().relight(toy) is toy
    dimmed = np.rint(toy * light).astype(np.uint8)
    background, _ = find_background(dimmed)
    off = np.abs(background.relight(dimmed) - (toy * (243 / np.array(usual.i0))).clip(0, 255))
    assert off.mean() < 1
    assert off.max() < 5
