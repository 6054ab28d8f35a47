"""Figures decode, show what they should, and stay small where they must."""

import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermatome.classes import StainingPattern, TissueClass
from dermatome.geometry import Box, Size
from dermatome.imaging.background import Background
from dermatome.inference.canvas import Canvas
from dermatome.reports import figures
from dermatome.skin.cells.figures import cells_figure
from dermatome.skin.layers.figures import DAB_COLOUR, layers_figure
from dermatome.skin.layers.measure import measure_layers
from dermatome.skin.tissue.figures import tissue_figure
from dermatome.slides.slide import MppSource, Slide
from dermatome.synthetic.skin import toy_slide

PNG_START = b"\x89PNG\r\n\x1a\n"


def pixels_of(png):
    assert png.startswith(PNG_START)
    with Image.open(io.BytesIO(png)) as image:
        return np.array(image.convert("RGB"))


def colours_in(png):
    return len(np.unique(pixels_of(png).reshape(-1, 3), axis=0))


@pytest.fixture(scope="module")
def toy():
    return toy_slide(3, StainingPattern.BASAL, size_px=448)


@pytest.fixture(scope="module")
def cells(toy):
    rows = []
    for number in range(1, int(toy.instances.max()) + 1):
        y, x = np.nonzero(toy.instances == number)
        if y.size:
            diameter_um = 2 * np.sqrt(y.size / np.pi) * toy.slide.mpp
            rows.append((number, y.mean(), x.mean(), diameter_um))
    return pd.DataFrame(rows, columns=["cell_id", "centroid_y_px", "centroid_x_px", "equivalent_diameter_um"])


def tissue_result(mask, crop):
    coarse = mask[::8, ::8]
    canvas = Canvas(4, Size(*mask.shape))
    canvas.write(0, 0, np.eye(4, dtype=np.float32)[mask].transpose(2, 0, 1))
    overview = np.repeat(mask[..., None] * np.uint8(50), 3, axis=2)
    return SimpleNamespace(
        canvas=canvas, overview=overview, crop=crop, coarse_mask=coarse, significant=coarse > 1, refined=mask,
        outcome="tissue", epidermis_share=float((mask == 2).mean()), mean_confidence=0.9,
    )  # fmt: skip


def test_figures_of_a_slide_without_epidermis_or_cells_are_drawn(toy, cells):
    mask = np.full_like(toy.mask, TissueClass.DERMIS)
    none = SimpleNamespace(
        instances=np.zeros_like(toy.instances), table=cells.iloc[:0], crop=None, h_equalised=None,
        background=Background(),
    )  # fmt: skip
    empty = tissue_result(mask, Box(0, 0, 448, 448))
    layers = measure_layers(toy.slide, mask, none.instances, none.table)
    for shown in (
        tissue_figure(toy.slide, empty), cells_figure(toy.slide, mask, none), layers_figure(toy.slide, layers)
    ):  # fmt: skip
        assert colours_in(shown.png) > 100
        with Image.open(io.BytesIO(shown.preview)) as preview:
            assert (preview.format, preview.width) == ("WEBP", 480)


@pytest.mark.parametrize("turn", [0, 1])
def test_the_layers_figure_shows_profiles(toy, cells, turn):
    slide = Slide("a_b %$\\{x} ü-1", np.rot90(toy.slide.pixels, turn), 0.5, MppSource.FILE, "0" * 64)
    mask, instances = np.rot90(toy.mask, turn), np.rot90(toy.instances, turn)
    result = measure_layers(slide, mask, instances, cells)
    shown = pixels_of(layers_figure(slide, result).png).reshape(-1, 3)
    brown = bytes.fromhex(DAB_COLOUR[1:])
    assert (np.abs(shown.astype(int) - list(brown)).max(axis=1) < 8).sum() > 300


def test_a_preview_keeps_its_text_whatever_the_image_costs():
    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype=np.uint8)
    facts = ["312 cells", ("epidermis 14.1%", (10, 200, 30)), "a long fact that needs a line of its own, all 480 px"]
    drawn = []
    for image in (noise, np.full_like(noise, 200)):
        webp = figures.preview_panel(figures.Panel(image, "", Size(900, 1200)), "slide", facts, 0.5)
        assert len(webp) <= 8_000
        with Image.open(io.BytesIO(webp)) as preview:
            assert preview.width == 480
            drawn.append(np.asarray(preview.convert("L"), float)[-80:])
    assert np.corrcoef(drawn[0].ravel(), drawn[1].ravel())[0, 1] > 0.98
    assert (drawn[1] < 60).sum() > 300, "black text"


@pytest.mark.parametrize(("mpp", "length"), [(1.0, 100), (0.99, 50), (0.032, 2), (0.007, 0.5), (19, 1000)])
def test_scale_bars_have_round_lengths(mpp, length):
    assert figures.bar_length_um(Size(450, 450), mpp) == length


def test_a_scale_bar_is_as_long_as_it_says():
    span = Size(400, 400)
    assert figures.bar_length_um(span, 0.5) == 20
    panel = figures.Panel(np.full((400, 400, 3), 255, np.uint8), "", span)
    sheet = pixels_of(figures.contact_sheet([panel], 1, 400, mpp=0.5, name=""))
    lower = sheet[440:488, :200]
    black = (lower == 0).all(axis=-1)
    assert max(longest_run(row) for row in black) == 40, "20 µm at 0.5 µm/px, drawn at the slide's own scale"


def longest_run(row):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
    return int(max((edges[1::2] - edges[::2]), default=0))
