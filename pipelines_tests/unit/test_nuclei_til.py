"""TIL scores of nuclei whose places are known."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermatome.geometry import Size
from dermatome.imaging.tissue_area import tissue_mask, tissue_mm2
from dermatome.labels.object_table import empty_table
from dermatome.nuclei.maps.table import NUCLEUS_COLUMNS
from dermatome.nuclei.til.figures import til_figure
from dermatome.nuclei.til.score import score_til, square_rows
from dermatome.nuclei.til.settings import TilSettings
from dermatome.slides.slide import MppSource, Slide
from dermatome.synthetic.nuclei import toy_nuclei


def nuclei(*rows):
    return pd.DataFrame(rows, columns=["class", "centroid_y_px", "centroid_x_px", "class_probability"])


def test_scores_by_hand():
    # At 0.5 µm per pixel; 20 µm are 40 px, and a square of 50 µm is 100 px.
    table = nuclei(
        ("epithelial", 100, 100, 0.9),
        ("lymphocyte", 100, 140, 0.9),  # 20 µm away: near
        ("lymphocyte", 100, 141, 0.4),  # 20.5 µm: not near
        ("lymphocyte", 350, 350, 0.9),
        ("neutrophil", 10, 10, 0.9),
        ("macrophage", 399, 399, 0.9),
    )
    found = score_til(table, Size(400, 400), 0.5, 0.03)
    assert found.counts == {"epithelial": 1, "lymphocyte": 3, "neutrophil": 1, "macrophage": 1}
    assert found.lymphocytes_per_mm2 == pytest.approx(100)
    assert found.immune_share == pytest.approx(5 / 6)
    assert found.near_epithelium_share == pytest.approx(1 / 3)
    assert found.squares.shape == (4, 4)
    assert found.squares.tolist()[1] == [0, 2, 0, 0]
    assert found.nuclei.sum() == 6
    assert found.infiltrated_share == pytest.approx(2 / 3)
    rows = square_rows(found, 50.0)
    assert rows["nuclei"].tolist() == [1, 3, 2]
    assert rows[["top_um", "left_um"]].to_numpy().tolist() == [[0, 0], [50, 50], [150, 150]]
    assert rows["lymphocytes_per_mm2"].tolist() == pytest.approx([0, 800, 400])
    sure = score_til(table, Size(400, 400), 0.5, 0.03, TilSettings(min_probability=0.5))
    assert sure.counts["lymphocyte"] == 2
    assert sure.near_epithelium_share == pytest.approx(0.5)


def test_a_square_that_the_slide_s_edge_cuts_is_divided_by_what_lies_on_the_slide():
    found = score_til(nuclei(("lymphocyte", 1022, 1022, 1.0)), Size(1024, 1024), 0.25, 0.06)
    (row,) = square_rows(found, 50.0).to_dict("records")
    assert (row["top_um"], row["left_um"]) == (250, 250)
    assert row["lymphocytes_per_mm2"] == pytest.approx(1 / 0.006**2)
    assert found.areas_mm2.sum() == pytest.approx(0.256**2)


def test_a_nucleus_without_a_class_counts_nowhere():
    table = nuclei(("lymphocyte", 10, 10, 0.9), ("unclassified", 10, 12, 0.0))
    found = score_til(table, Size(100, 100), 0.5, 0.1)
    assert sum(found.counts.values()) == found.nuclei.sum() == 1
    assert (found.immune_share, found.near_epithelium_share) == (1, 0)


def test_nothing_is_no_score_and_not_zero():
    found = score_til(empty_table(NUCLEUS_COLUMNS), Size(90, 90), 0.5, 0.0)
    assert (found.lymphocytes_per_mm2, found.immune_share, found.near_epithelium_share) == (None, None, None)
    assert found.infiltrated_share is None
    assert len(square_rows(found, 50.0)) == 0
    lonely = score_til(nuclei(("lymphocyte", 5, 5, 1.0)), Size(90, 90), 0.5, 0.1)
    assert lonely.near_epithelium_share == 0


def test_the_preview_shows_the_dense_square_where_it_is():
    size, table = Size(400, 800), nuclei(("lymphocyte", 350, 750, 1.0), ("epithelial", 50, 50, 1.0))
    drawn = til_figure("s", score_til(table, size, 0.5, 0.1), 50.0, size, 0.5)
    with Image.open(io.BytesIO(drawn.preview)) as preview:
        pixels = np.asarray(preview.convert("RGB"), int)
    assert (pixels.shape[1], len(drawn.preview) <= 8_000) == (480, True)
    yellow, violet, none = pixels[8 + 203, 8 + 435], pixels[8 + 29, 8 + 29], pixels[8 + 29, 8 + 232]
    assert yellow == pytest.approx((253, 231, 37), abs=12)
    assert violet == pytest.approx((68, 1, 84), abs=12)
    assert none == pytest.approx((238, 238, 238), abs=6)


def test_tissue_is_what_is_stained():
    pixels = np.full((800, 800, 3), 242, np.uint8)
    pixels[:400, :600] = (230, 190, 215)
    pixels[100:108, 100:300] = 242  # a gap of 4 µm
    slide = Slide("s", pixels, 0.5, MppSource.DECLARED, "")
    assert tissue_mask(slide).shape == (100, 100)
    assert tissue_mm2(slide) == pytest.approx(400 * 600 * 0.25 / 1e6, rel=0.01)


@pytest.mark.parametrize("level", [200, 214, 230, 250])
def test_background_is_background_however_bright_it_is(level):
    noise = np.random.default_rng(0).normal(0, 2, (800, 800, 3))
    light = np.full((800, 800, 3), 1.0)
    light[:400, :600] = (0.96, 0.79, 0.9)  # the palest stroma
    slide = Slide("s", (light * level + noise).clip(0, 255).astype(np.uint8), 0.5, MppSource.DECLARED, "")
    assert tissue_mm2(slide) == pytest.approx(400 * 600 * 0.25 / 1e6, rel=0.02)
    bare = Slide("s", slide.pixels[400:], 0.5, MppSource.DECLARED, "")
    assert tissue_mm2(bare) == 0


def test_a_field_without_background_is_all_tissue_and_white_where_nothing_was_scanned_is_none():
    stroma = toy_nuclei(11, Size(512, 512)).slide.whole()
    assert tissue_mask(Slide("s", stroma, 0.25, MppSource.DECLARED, "")).mean() > 0.97
    pale = np.full((400, 400, 3), (238, 216, 230), np.uint8)
    assert tissue_mask(Slide("s", pale, 0.5, MppSource.DECLARED, "")).all()
    padded = np.full((800, 800, 3), 255, np.uint8)
    padded[:, :400] = 212
    padded[:200, :400] = (205, 170, 190)
    assert tissue_mask(Slide("s", padded, 0.5, MppSource.DECLARED, "")).mean() == pytest.approx(1 / 8, abs=0.01)
