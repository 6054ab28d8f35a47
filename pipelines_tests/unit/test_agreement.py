"""The quick way gives the classes of the plain one, on trained weights: ≥ 99.9 % of pixels."""

from dataclasses import replace

import numpy as np
import pytest

from dermatome.geometry import Size
from dermatome.inference.backends import prepare_runner
from dermatome.inference.compute import choose_compute
from dermatome.inference.predictor import Predictor
from dermatome.inference.probabilities import Probabilities
from dermatome.skin.tissue.segment import prepare_tissue, segment_tissue
from dermatome.skin.tissue.settings import TissueSettings
from dermatome.slides.plain import decode_rgb
from dermatome.slides.resize import resize_image
from dermatome.slides.slide import MppSource, Slide
from dermatome.synthetic.skin import toy_slide
from pipelines_tests.benchmarks.source_way import tissue_one_by_one
from pipelines_tests.toy_network import trained

TILE_PX, OVERLAP_PX = 128, 32


@pytest.fixture(scope="module")
def compute():
    return choose_compute("cpu", "fp32", 2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory, compute):
    return trained(tmp_path_factory.mktemp("weights"), compute)


def toy_at_the_networks_resolution():
    toy = toy_slide(7, size_px=1600).slide.whole()
    framed = np.full((2400, 2000, 3), 240, np.uint8)
    framed[400:2000, 200:1800] = toy
    return resize_image(framed, Size(600, 500))


def quick(weights, compute, backend, pixels, **options):
    card = weights.card
    module = Probabilities(weights.network, card.mean, card.std).eval()
    example = np.random.default_rng(0).integers(0, 255, (4, TILE_PX, TILE_PX, 3), dtype=np.uint8)
    runner = prepare_runner(module, example, replace(compute, backend=backend))
    predictor = Predictor(runner, len(card.classes), TILE_PX, OVERLAP_PX, **options)
    return predictor.labels(pixels, Size(*pixels.shape[:2]))


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_the_quick_way_agrees_with_one_tile_at_a_time(weights, compute, backend):
    pixels = toy_at_the_networks_resolution()
    plain = tissue_one_by_one(weights, pixels, tile_px=TILE_PX, overlap_px=OVERLAP_PX)
    assert len(np.unique(plain)) >= 3
    found = quick(weights, compute, backend, pixels)
    assert (found.mask == plain).mean() >= 0.999
    every = quick(weights, compute, backend, pixels, skip_background=False)
    assert every.tiles > found.tiles
    assert (every.mask == plain).mean() >= 0.9999
    other_batch = quick(weights, compute, backend, pixels, batch=3)
    assert (other_batch.mask == found.mask).mean() >= 0.9999


def test_skipping_glass_changes_nothing_on_real_cores(weights, compute, realdata):
    for path in sorted((realdata / "hpa_ihc").glob("*.jpg"))[1::2]:
        pixels = resize_image(decode_rgb(path.read_bytes(), path.name)[0], Size(750, 750))
        found, every = (quick(weights, compute, "openvino", pixels, skip_background=skip) for skip in (True, False))
        assert found.tiles <= every.tiles
        assert (found.mask == every.mask).mean() >= 0.999, path.name


def test_a_slide_read_in_parts_is_found_as_one_in_memory(weights, compute, tmp_path):
    import tifffile

    from dermatome.slides.tiled_tiff import TiledPixels

    pixels = toy_slide(3, size_px=1200).slide.whole()
    tifffile.imwrite(tmp_path / "s.tif", pixels, tile=(256, 256), photometric="rgb", compression="zlib")
    network = prepare_tissue(weights, replace(compute, backend="torch"))
    memory = Slide("s", pixels, 0.5, MppSource.DECLARED, "")
    settings = TissueSettings(refine_whole_px=0)
    one = segment_tissue(memory, network, settings)
    other = segment_tissue(replace(memory, pixels=TiledPixels(tmp_path / "s.tif")), network, settings)
    assert (one.mask == other.mask).all()
    assert (one.overview == other.overview).all()
    assert np.concatenate([band for _, band in one.bands()]).shape == (1200, 1200)
