"""Tissue annotations in: QuPath's outlines, label images, Dermatome's own files; what nobody annotated is ignored."""

import json

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from dermatome.classes import IGNORED, TissueClass
from dermatome.errors import BadAnnotation
from dermatome.geometry import Size
from dermatome.imaging.augmentation import AugmentSettings
from dermatome.labels.geojson import summarise_mask, tissue_features, write_geojson
from dermatome.labels.ome_tiff import write_ome_tiff
from dermatome.labels.palette import Palette
from dermatome.labels.tiled import TiledArray
from dermatome.labels.tissue_outlines import draw_tissue
from dermatome.skin.tiles.annotated import make_tiles, read_annotated_mask
from dermatome.skin.tiles.crops import load_tiles
from dermatome.skin.tissue.evaluate import evaluate
from dermatome.skin.tissue.figures import samples_figure
from dermatome.training.data import TileBatches
from dermatome.training.losses import make_loss

SIZE = Size(60, 80)
D, E, K = TissueClass.DERMIS, TissueClass.EPIDERMIS, TissueClass.KERATIN


def ring(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def feature(name, *rings, **geometry):
    geometry = geometry or {"type": "Polygon", "coordinates": rings}
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": name and {"name": name}}}


def drawn(tmp_path, features, palette=None, **more):
    path = tmp_path / "mask.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return draw_tissue(path, SIZE, palette, **more)


def test_polygons_with_holes_lie_on_one_another_in_their_order(tmp_path, caplog):
    two = {"type": "MultiPolygon", "coordinates": [[ring(60, 0, 64, 4)], [ring(70, 0, 74, 4), ring(71, 1, 73, 3)]]}
    mask = drawn(tmp_path, [
        feature("Dermis", ring(0, 0, 40, 40), ring(5, 5, 15, 15), ring(25, 25, 30, 30)),
        feature("EPIDERMIS", ring(10, 10, 20, 20)),
        feature("keratin", **two),
        feature("Ignore*", ring(0, 30, 10, 40)),
        feature("background", ring(50, 50, 200, 200)),
        feature(None, ring(0, 0, 80, 60)),
        feature("Region*", ring(0, 0, 80, 60)),
        feature("Dermis", type="Point", coordinates=[1, 2]),
    ])  # fmt: skip
    wanted = np.full((60, 80), IGNORED)
    wanted[:40, :40] = D
    wanted[5:15, 5:15] = wanted[25:30, 25:30] = IGNORED
    wanted[10:20, 10:20] = E
    wanted[0:4, 60:64] = wanted[0:4, 70:74] = K
    wanted[1:3, 71:73] = wanted[30:40, 0:10] = IGNORED
    wanted[50:, 50:] = 0
    np.testing.assert_array_equal(mask, wanted)
    assert "1 × class Region*, 1 × no class, 1 × no polygon" in caplog.text


def test_names_of_the_palette_and_what_no_polygon_covers(tmp_path):
    palette = Palette.from_json({"classes": {"dermis": ["Stratum papillare"]}}, "p")
    mask = drawn(tmp_path, [feature("stratum Papillare", ring(0, 0, 10, 10))], palette, elsewhere=0)
    assert np.bincount(mask.ravel()).tolist() == [60 * 80 - 100, 100]


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ([feature("Tumor", ring(0, 0, 9, 9))], "class 'Tumor': use background, dermis"),
        ([feature(None, ring(0, 0, 9, 9))], "no polygon with a class"),
        ([feature("dermis", [[0, 0], [float("inf"), 0], [0, 9]])], "no GeoJSON of polygons"),
        ([feature("dermis", [[0, 0], [1, 1]])], "no GeoJSON of polygons"),
        ([{"properties": None}], "no polygon with a class"),
        ([feature("dermis", ring(0, 0, 80, 60))] * 21, "more than 20 times"),
        (
            [feature("dermis", ring(0, 0, 80, 60), [[9, 0], [9, 60]] * 500_000)],
            r"mask.geojson has outlines whose edges cross 60 million rows of pixels, and 50 million are drawn at most",
        ),
    ],
)
def test_bad_outlines_are_one_sentence(tmp_path, features, says):
    with pytest.raises(BadAnnotation, match=says):
        drawn(tmp_path, features)


@pytest.fixture
def own(tmp_path):
    """A mask of blobs, in Dermatome's own files."""
    rng = np.random.default_rng(0)
    mask = (rng.random((15, 20)) * 4).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    tiles = TiledArray(SIZE, np.uint8)
    tiles.append(mask)
    return mask, tiles


def annotate(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(1).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(image).save(folder / "he.png")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_our_own_files_come_back_pixel_for_pixel(tmp_path, own):
    mask, tiles = own
    tiff = annotate(tmp_path / "tiff")
    write_ome_tiff(tiff / "mask.ome.tif", tiles, 0.5)
    np.testing.assert_array_equal(read_annotated_mask(tiff, SIZE), mask)
    outlines = annotate(tmp_path / "outlines", slide={"elsewhere": "background"})
    write_geojson(outlines / "mask.geojson", tissue_features(summarise_mask(tiles), mpp=0.5, slide="s"))
    np.testing.assert_array_equal(read_annotated_mask(outlines, SIZE), mask)
    (outlines / "slide.json").unlink()
    np.testing.assert_array_equal(read_annotated_mask(outlines, SIZE), np.where(mask == 0, IGNORED, mask))


def test_tiles_of_a_label_image_need_neither_palette_nor_rois(tmp_path):
    source = annotate(tmp_path / "s", slide={"slide": "core7", "mpp": 0.25},
                      palette={"classes": {"epidermis": [300], "background": [7], "ignored": [0]}})  # fmt: skip
    labels = np.zeros((60, 80), np.uint16)
    labels[20:40, 20:50], labels[20:40, 50:60] = 300, 7
    tifffile.imwrite(source / "mask.tif", labels)
    made = make_tiles(source, tmp_path / "tiles")
    assert (made.values["tiles"], made.values["epidermis_share"]) == (1, 0.75)
    (tile,) = load_tiles(tmp_path / "tiles")
    assert (tile.slide, tile.mpp, tile.palette) == ("core7", 0.25, None)
    np.testing.assert_array_equal(tile.read()[1], np.select([labels == 300, labels == 7], [2, 0], IGNORED))


@pytest.mark.parametrize("stated", [{"mpp": "x"}, {"mpp": -1}, {"elsewhere": "hair"}, {"slide": 3}, [1]])
def test_what_slide_json_must_not_hold(tmp_path, stated):
    source = annotate(tmp_path / "s", slide=stated)
    Image.fromarray(np.ones((60, 80), np.uint8)).save(source / "mask.png")
    with pytest.raises(BadAnnotation, match=r"slide\.json is not usable"):
        make_tiles(source, tmp_path / "tiles")


@pytest.mark.parametrize("name", ["dice_focal", "dice", "focal", "cross_entropy", "tversky"])
def test_ignored_pixels_have_no_loss_and_no_gradient(name):
    loss = make_loss(name, class_weights=(1, 2, 3, 4))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 8, 8, generator=generator, requires_grad=True)
    truth = torch.randint(0, 4, (2, 8, 8), generator=generator)
    truth[:, :, 4:] = IGNORED
    value = loss(logits, truth)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient[..., :4].abs().sum() > 0
    assert gradient[..., 4:].abs().sum() == 0
    assert value.item() == pytest.approx(loss(logits[..., :4], truth[..., :4]).item(), rel=1e-5)
    nothing = loss(logits, torch.full_like(truth, IGNORED))
    assert (nothing.item(), torch.autograd.grad(nothing, logits)[0].abs().sum().item()) == (0, 0)


def test_crops_of_a_tile_with_one_stroke_show_the_stroke(tmp_path):
    source = annotate(tmp_path / "s")
    labels = np.full((60, 80), IGNORED, np.uint8)
    labels[30:36, 50:56] = E
    Image.fromarray(labels).save(source / "mask.png")
    make_tiles(source, tmp_path / "tiles")
    tiles = load_tiles(tmp_path / "tiles")
    still = AugmentSettings(scale=1, coarse_share=0, elastic_px=0)
    batches = TileBatches(tiles, scale=1.0, augment=still, coarse_factor=2.0, crop_px=16, batch=4, seed=0)
    shown = [(batches.batch(number)[1] == E).any(axis=(1, 2)) for number in range(5)]
    assert np.mean(shown) > 0.9
    assert batches.pixels(4).tolist() == [0, 0, 36, 0]


def test_ignored_pixels_are_not_scored(tmp_path):
    source = annotate(tmp_path / "s")
    labels = np.full((60, 80), IGNORED, np.uint8)
    labels[:30, :40], labels[:30, 40:60] = E, D
    Image.fromarray(labels).save(source / "mask.png")
    make_tiles(source, tmp_path / "tiles")
    tiles = load_tiles(tmp_path / "tiles")

    def epidermis_everywhere(tile, sink):
        rows = np.zeros((4, *tile.read()[1].shape), np.float32)
        rows[E] = 1
        sink(0, rows)

    found = evaluate(tiles, epidermis_everywhere, 0.5)
    assert found.confusion.sum() == 30 * 60
    assert (found.confusion[E, E], found.confusion[D, E]) == (1200, 600)
    assert (found.tiles[0].accuracy, found.tiles[0].confidence) == (pytest.approx(2 / 3), 1)
    assert found.calibration.pixels.sum() == 1800
    assert samples_figure(found.tiles)
