"""The quick way gives the classes of the plain one, on the shipped tissue network: ≥ 99.9 % of pixels."""

from dataclasses import replace

import numpy as np
import pytest

from dermatome.geometry import Size
from dermatome.inference.backends import prepare_runner
from dermatome.inference.predictor import Predictor
from dermatome.inference.probabilities import Probabilities
from dermatome.skin.tissue.network import load_tissue_weights
from dermatome.skin.tissue.networks import STARTER_WEIGHTS
from dermatome.slides.plain import decode_rgb
from dermatome.slides.resize import resize_image
from dermatome.synthetic.skin import toy_slide
from pipelines_tests.benchmarks.source_way import tissue_one_by_one
from pipelines_tests.toy_network import labelled

TILE_PX, OVERLAP_PX = 128, 32


@pytest.fixture(scope="module")
def weights():
    return load_tissue_weights(STARTER_WEIGHTS)


@pytest.fixture(scope="module")
def pixels():
    """A toy at the network's resolution in a wide frame of background."""
    framed = np.full((1600, 1000, 3), 240, np.uint8)
    framed[600:1400, 100:900] = toy_slide(7, size_px=800).slide.whole()
    return resize_image(framed, Size(800, 500))


@pytest.fixture(scope="module")
def plain(weights, pixels):
    found = tissue_one_by_one(weights, pixels, tile_px=TILE_PX, overlap_px=OVERLAP_PX)
    assert len(np.unique(found)) >= 3
    return found


@pytest.fixture(scope="module", params=["torch", "openvino"])
def quick(request, weights, compute):
    """Classes and number of tiles of an image, by one backend."""
    card = weights.card
    module = Probabilities(weights.network, card.mean, card.std).eval()
    example = np.random.default_rng(0).integers(0, 255, (4, TILE_PX, TILE_PX, 3), dtype=np.uint8)
    runner = prepare_runner(module, example, replace(compute, backend=request.param))

    def predict(pixels, **options):
        return labelled(Predictor(runner, len(card.classes), TILE_PX, OVERLAP_PX, **options), pixels)

    return predict


def test_the_quick_way_agrees_with_one_tile_at_a_time(quick, pixels, plain):
    mask, tiles = quick(pixels)
    assert (mask == plain).mean() >= 0.999
    every, all_tiles = quick(pixels, skip_background=False)
    assert all_tiles > tiles
    assert (every == plain).mean() >= 0.9999
    assert (quick(pixels, batch=3)[0] == mask).mean() >= 0.9999


@pytest.mark.parametrize("quick", ["openvino"], indirect=True)
def test_skipping_background_changes_nothing_on_real_cores(quick, realdata):
    for path in sorted((realdata / "hpa_ihc").glob("*.jpg"))[1::2]:
        pixels = resize_image(decode_rgb(path.read_bytes(), path.name)[0], Size(750, 750))
        (mask, tiles), (every, all_tiles) = (quick(pixels, skip_background=skip) for skip in (True, False))
        assert tiles <= all_tiles
        assert (mask == every).mean() >= 0.999, path.name
