"""Training on drawn tiles: it learns, it is the same by seed, it keeps its time and goes on where it was killed."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dermatome.augment import AugmentSettings, TileCache, random_view
from dermatome.classes import TissueClass
from dermatome.compute import choose_compute
from dermatome.errors import BadSetting, BadWeights
from dermatome.palette import Palette, classes_to_rgb
from dermatome.skin.crops import load_tiles
from dermatome.training import TrainSettings, train, train_file
from dermatome.training_data import BatchSource, split_tiles
from dermatome.weights import load_weights

COLOURS = np.array([[245, 245, 245], [230, 150, 180], [120, 60, 160], [200, 120, 90]], dtype=np.uint8)
SMALL = TrainSettings(
    encoder="tu-tf_mobilenetv3_small_minimal_100",
    train_mpp=1.0,
    decoder_channels=(16, 8, 8, 8, 8),
    epochs=3,
    epoch_steps=2,
    batch=2,
    crop_px=64,
    checkpoint_seconds=0.0,
)


@pytest.fixture(scope="module")
def compute():
    return choose_compute("cpu", "fp32", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six 128 px tiles of horizontal bands, one colour a class, with noise."""
    folder = tmp_path_factory.mktemp("tiles")
    palette = Palette.shipped("dermatome")
    palette.save(folder / "palette.json")
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for number in range(6):
        rng = np.random.default_rng(number)
        rows = np.sort(rng.integers(10, 118, 3))
        mask = np.repeat(np.searchsorted(rows, np.arange(128)).astype(np.uint8)[:, None], 128, axis=1)
        image = np.clip(COLOURS[mask] + rng.normal(0, 8, (128, 128, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"t{number}.png")
        Image.fromarray(classes_to_rgb(mask, palette)).save(folder / "masks" / f"t{number}.png")
    return folder


def test_it_learns_easy_tiles_and_writes_weights_that_predict(folder, tmp_path, compute):
    from dermatome.skin.tissue import segment_tissue
    from dermatome.slide import MppSource, Slide

    reports = []
    settings = replace(SMALL, epochs=4, epoch_steps=16, batch=4, learning_rate=4e-3, ema_decay=0.9)
    result, sha256 = train_file([folder], tmp_path / "w.safetensors", settings, compute, on_epoch=reports.append)
    assert [r.epoch for r in reports] == [1, 2, 3, 4]
    assert len(result.history) == 4
    assert result.history["train_loss"].iloc[-1] < result.history["train_loss"].iloc[0] * 0.75
    assert result.card.scores["mean_iou"] == reports[-1].mean_iou
    assert result.card.scores["mean_iou"] > 0.6
    assert result.confusion.sum() == 128 * 128
    assert "1 of 6 tiles held out" in result.card.validation
    loaded = load_weights(tmp_path / "w.safetensors")
    assert loaded.sha256 == sha256
    assert (loaded.card.mpp, loaded.card.coarse_mpp, loaded.card.steps) == (1.0, 2.0, 64)
    image, truth = load_tiles(folder)[0].read()
    found = segment_tissue(Slide("t", image, 0.5, MppSource.DECLARED, ""), loaded, compute)
    assert (found.mask == truth).mean() > 0.8


def states_equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_the_seed_decides(folder, compute):
    tiles = load_tiles(folder)
    one, two = (train(tiles[:4], tiles[4:], SMALL, compute) for _ in range(2))
    assert states_equal(one.state, two.state)
    assert one.history.drop(columns="seconds").equals(two.history.drop(columns="seconds"))
    assert not states_equal(one.state, train(tiles[:4], [], replace(SMALL, seed=1), compute).state)


def test_a_run_that_was_killed_ends_like_one_that_was_not(folder, tmp_path, compute):
    tiles = load_tiles(folder)
    undisturbed = train(tiles[:4], tiles[4:], SMALL, compute)

    class Killed(Exception):
        pass

    def kill(report):
        if report.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(tiles[:4], tiles[4:], SMALL, compute, tmp_path, kill)
    resumed = train(tiles[:4], tiles[4:], SMALL, compute, tmp_path)
    assert resumed.resumed
    assert states_equal(resumed.state, undisturbed.state)
    assert resumed.history.drop(columns="seconds").equals(undisturbed.history.drop(columns="seconds"))
    finished = train(tiles[:4], tiles[4:], SMALL, compute, tmp_path)  # killed before its weights were written
    assert states_equal(finished.state, undisturbed.state)
    assert (finished.confusion == undisturbed.confusion).all()
    other = train(tiles[:4], tiles[4:], replace(SMALL, seed=9, epochs=1), compute, tmp_path)
    assert not other.resumed
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(BadWeights, match="damaged"):
        train(tiles[:4], tiles[4:], SMALL, compute, tmp_path)


def test_it_keeps_its_time(folder, compute):
    tiles = load_tiles(folder)
    start = time.perf_counter()
    result = train(tiles[:4], tiles[4:], replace(SMALL, epochs=None, max_minutes=6 / 60), compute)
    assert time.perf_counter() - start < 9
    assert result.card.steps > 2
    assert result.history["learning_rate"].iloc[-1] < SMALL.learning_rate / 3  # the cosine ran its course


def test_without_validation_tiles_the_card_has_no_scores(folder, compute):
    result = train(load_tiles(folder), [], replace(SMALL, epochs=1), compute)
    assert result.card.scores == {}
    assert result.card.validation == "nothing was held out"
    assert result.history["mean_iou"].isna().all()
    with pytest.raises(BadSetting, match="no tiles"):
        train([], [], SMALL, compute)


def test_batches_depend_on_seed_and_step_alone_and_show_every_tile(folder):
    def source():
        return BatchSource(
            load_tiles(folder), scale=0.5, crop_px=64, batch=3, augment=AugmentSettings(), coarse_factor=2.0, seed=5
        )

    one, two = source(), source()
    stream = one.batches(0)
    for step in range(4):
        images, labels = next(stream)
        again_images, again_labels = two.batch(step)
        assert (images == again_images).all()
        assert (labels == again_labels).all()
    assert images.shape == (3, 64, 64, 3)
    assert labels.dtype == np.int64
    stream.close()


def test_views_move_image_and_labels_together():
    labels = np.zeros((200, 200), dtype=np.uint8)
    labels[:, 100:] = TissueClass.EPIDERMIS
    labels[150:] = TissueClass.KERATIN
    cache = TileCache.build(COLOURS[labels], labels, 1.0)
    plain = AugmentSettings(stain=0, brightness=0, blur_px=0, noise=0, coarse_share=0.5)
    for seed in range(20):
        view, truth = random_view(cache, 96, plain, 2.0, np.random.default_rng(seed))
        nearest = np.abs(view[..., None, :].astype(int) - COLOURS.astype(int)).sum(-1).argmin(-1)
        assert (nearest == truth).mean() > 0.95
        assert set(np.unique(truth)) <= {0, 2, 3}


def test_stain_changes_leave_white_nearly_white_and_labels_alone():
    white = np.full((80, 80, 3), 250, dtype=np.uint8)
    cache = TileCache.build(white, np.zeros((80, 80), dtype=np.uint8), 1.0)
    for seed in range(10):
        view, truth = random_view(cache, 64, AugmentSettings(), 2.0, np.random.default_rng(seed))
        assert view.mean() > 215
        assert not truth.any()


def test_splits_hold_out_whole_slides_and_do_not_depend_on_order(folder):
    tiles = [replace(tile, group=f"slide{n // 2}") for n, tile in enumerate(load_tiles(folder))]
    split = split_tiles(tiles, 0.3, 0)
    assert len(split.validation) == 2
    assert not {t.group for t in split.train} & {t.group for t in split.validation}
    assert "whole slides" in split.how
    assert split == split_tiles(tiles[::-1], 0.3, 0)
    assert len({split_tiles(tiles, 0.3, seed).validation for seed in range(10)}) > 1
    assert split_tiles(tiles, 0, 0).validation == ()
    one_slide = split_tiles([replace(tile, group="s") for tile in tiles], 0.2, 0)
    assert len(one_slide.validation) == 1
    stains = [*tiles[:3], *(replace(tile, name=f"{tile.name}+ihc") for tile in tiles[:3])]
    both = split_tiles([replace(tile, group="s") for tile in stains], 0.2, 0)
    assert len({tile.mask_path for tile in both.validation}) == 1
    assert len(both.validation) == 2
    with pytest.raises(BadSetting, match="one tile only"):
        split_tiles(tiles[:1], 0.2, 0)


def test_a_split_does_not_take_most_of_a_class_from_training(tmp_path):
    palette = Palette.shipped("dermatome")
    palette.save(tmp_path / "palette.json")
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for number in range(6):
        mask = np.full((32, 32), TissueClass.DERMIS, dtype=np.uint8)
        mask[:2] = TissueClass.KERATIN
        if number == 3:
            mask[:] = TissueClass.KERATIN
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / f"t{number}.png")
        Image.fromarray(classes_to_rgb(mask, palette)).save(tmp_path / "masks" / f"t{number}.png")
    tiles = load_tiles(tmp_path)
    held = {tile.name for seed in range(40) for tile in split_tiles(tiles, 0.15, seed).validation}
    assert held == {"t0", "t1", "t2", "t4", "t5"}
    two = split_tiles(tiles[2:4], 0.15, 0)  # either choice takes too much of something: one is held out all the same
    assert (len(two.train), len(two.validation)) == (1, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"max_minutes": 0},
        {"crop_px": 100},
        {"batch": 1},
        {"learning_rate": 0},
        {"mpp": -1},
        {"coarse_factor": 0.5},
    ],
)
def test_settings_out_of_range(wrong):
    with pytest.raises(BadSetting):
        replace(SMALL, **wrong)
