"""The quick way gives the classes of the plain one, on trained weights: ≥ 99.9 % of pixels."""

from dataclasses import replace

import numpy as np
import pytest

from dermatome.geometry import Size
from dermatome.inference.backends import prepare_runner
from dermatome.inference.compute import choose_compute
from dermatome.inference.predictor import Predictor
from dermatome.inference.probabilities import Probabilities
from dermatome.slides.plain import decode_rgb
from dermatome.slides.resize import resize_image
from dermatome.synthetic.skin import toy_slide
from pipelines_tests.benchmarks.source_way import tissue_one_by_one
from pipelines_tests.toy_network import labelled, trained

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
    return labelled(predictor, pixels)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_the_quick_way_agrees_with_one_tile_at_a_time(weights, compute, backend):
    pixels = toy_at_the_networks_resolution()
    plain = tissue_one_by_one(weights, pixels, tile_px=TILE_PX, overlap_px=OVERLAP_PX)
    assert len(np.unique(plain)) >= 3
    mask, tiles = quick(weights, compute, backend, pixels)
    assert (mask == plain).mean() >= 0.999
    every, all_tiles = quick(weights, compute, backend, pixels, skip_background=False)
    assert all_tiles > tiles
    assert (every == plain).mean() >= 0.9999
    assert (quick(weights, compute, backend, pixels, batch=3)[0] == mask).mean() >= 0.9999


def test_skipping_glass_changes_nothing_on_real_cores(weights, compute, realdata):
    for path in sorted((realdata / "hpa_ihc").glob("*.jpg"))[1::2]:
        pixels = resize_image(decode_rgb(path.read_bytes(), path.name)[0], Size(750, 750))
        (mask, tiles), (every, all_tiles) = (
            quick(weights, compute, "openvino", pixels, skip_background=skip) for skip in (True, False)
        )
        assert tiles <= all_tiles
        assert (mask == every).mean() >= 0.999, path.name
