"""The trainer on synthetic tiles: it learns, depends on the seed alone, keeps its time and resumes exactly."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from dermatome.classes import TissueClass
from dermatome.errors import BadSetting, BadWeights
from dermatome.imaging.augmentation import AugmentSettings, random_crop, tile_levels
from dermatome.inference.compute import choose_compute
from dermatome.registry.manifest import known_sides, manifest_path, read_manifest, write_manifest
from dermatome.registry.version import train_file
from dermatome.skin.tiles.crops import load_tiles
from dermatome.skin.tissue.network import TissueCard, load_tissue_weights
from dermatome.skin.tissue.task import TissueTask, TissueTraining
from dermatome.storage.files import sha256_file
from dermatome.training.data import Split, split_samples
from dermatome.training.losses import class_weights, make_loss
from dermatome.training.settings import settings_from
from dermatome.training.trainer import train
from dermatome.training.weights import read_card
from pipelines_tests.toy_tiles import write_pairs

COLOURS = np.array([[245, 245, 245], [230, 150, 180], [120, 60, 160], [200, 120, 90]], dtype=np.uint8)
SMALL = TissueTraining(
    encoder="tu-tf_mobilenetv3_small_minimal_100", encoder_weights=None, train_mpp=1.0,
    decoder_channels=(16, 8, 8, 8, 8), epochs=3, epoch_steps=2, batch=2, crop_px=64, checkpoint_seconds=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six 128 px tiles of horizontal bands, one colour a class, with noise."""
    folder, pairs = tmp_path_factory.mktemp("tiles"), {}
    for number in range(6):
        rng = np.random.default_rng(number)
        rows = np.sort(rng.integers(10, 118, 3))
        mask = np.repeat(np.searchsorted(rows, np.arange(128)).astype(np.uint8)[:, None], 128, axis=1)
        image = np.clip(COLOURS[mask] + rng.normal(0, 8, (128, 128, 3)), 0, 255).astype(np.uint8)
        pairs[f"t{number}"] = image, mask
    write_pairs(folder, pairs)
    return folder


def test_it_learns_easy_tiles_and_writes_weights_that_predict(folder, tmp_path, compute):
    from dermatome.skin.tissue.segment import prepare_tissue, segment_tissue
    from dermatome.slides.slide import MppSource, Slide

    rows = []
    settings = SMALL.changed(epochs=4, epoch_steps=16, batch=4, learning_rate=4e-3, ema_decay=0.9)
    task = TissueTask.choose([folder], (), settings)
    version = train_file(task, tmp_path / "w.safetensors", compute, on_epoch=lambda row, share: rows.append(row))
    result = version.trained
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert f"loss {rows[0]['train_loss']:.3f}, mean IoU {rows[0]['mean_iou']:.3f}" in task.epoch_text(rows[0])
    assert len(result.history) == 4
    assert result.history["train_loss"].iloc[-1] < result.history["train_loss"].iloc[0] * 0.75
    assert result.card.scores["mean_iou"] == rows[-1]["mean_iou"]
    assert result.card.scores["mean_iou"] > 0.6
    assert result.evaluation.confusion.sum() == 128 * 128
    assert result.evaluation.calibration.pixels.sum() == 128 * 128
    assert result.evaluation.tiles[0].mean_iou == result.card.scores["mean_iou"]
    assert "1 of 6 tiles held out" in result.card.validation
    loaded = load_tissue_weights(tmp_path / "w.safetensors")
    assert loaded.sha256 == version.sha256
    assert (loaded.card.mpp, loaded.card.coarse_mpp, loaded.card.steps) == (1.0, 2.0, 64)
    image, truth = load_tiles(folder)[0].read()
    found = segment_tissue(
        Slide("t", image, 0.5, MppSource.DECLARED, ""), prepare_tissue(loaded, replace(compute, backend="torch"))
    )
    assert (found.mask == truth).mean() > 0.8


def fit(tiles, tiles_val, settings, compute, checkpoint_dir=None, on_epoch=None, **options):
    task = TissueTask(settings, Split(tuple(tiles), tuple(tiles_val)))
    return train(task, compute, checkpoint_dir=checkpoint_dir, on_epoch=on_epoch, **options)


def states_equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_the_seed_decides(folder, compute):
    tiles = load_tiles(folder)
    one, two = (fit(tiles[:4], tiles[4:], SMALL, compute) for _ in range(2))
    assert states_equal(one.state, two.state)
    assert one.history.drop(columns="seconds").equals(two.history.drop(columns="seconds"))
    assert not states_equal(one.state, fit(tiles[:4], [], SMALL.changed(seed=1), compute).state)


def killed(tiles, checkpoint_dir, epoch):
    """Trains in a process that ends itself in the middle of a run."""

    def end(row, share):
        if row["epoch"] == epoch:
            os.kill(os.getpid(), signal.SIGKILL)

    fit(tiles[:4], tiles[4:], SMALL, choose_compute("cpu", "fp32", 1), checkpoint_dir, end)


def test_a_run_killed_twice_ends_like_one_that_was_not(folder, tmp_path, compute):
    tiles = load_tiles(folder)
    undisturbed = fit(tiles[:4], tiles[4:], SMALL, compute)
    context = multiprocessing.get_context("forkserver")  # one process imports torch, and both that are killed are forks
    context.set_forkserver_preload(["dermatome.skin.tissue.task"])
    for epoch in (1, 2):
        process = context.Process(target=killed, args=(tiles, tmp_path, epoch))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    resumed = fit(tiles[:4], tiles[4:], SMALL, compute, tmp_path)
    assert resumed.resumed
    assert states_equal(resumed.state, undisturbed.state)
    assert resumed.history.drop(columns="seconds").equals(undisturbed.history.drop(columns="seconds"))
    assert resumed.card.scores == undisturbed.card.scores
    finished = fit(tiles[:4], tiles[4:], SMALL, compute, tmp_path)  # killed before its weights were written
    assert states_equal(finished.state, undisturbed.state)
    assert (finished.evaluation.confusion == undisturbed.evaluation.confusion).all()
    sides = fit(tiles[1:5], [tiles[0], *tiles[5:]], SMALL, compute, tmp_path)
    assert not sides.resumed, "it would have learnt what it is validated on"
    other = fit(tiles[:4], tiles[4:], SMALL.changed(seed=9, epochs=1), compute, tmp_path)
    assert not other.resumed
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(BadWeights, match="damaged"):
        fit(tiles[:4], tiles[4:], SMALL, compute, tmp_path)


def test_two_processes_learn_what_one_does(folder, tmp_path, compute):
    tiles = load_tiles(folder)
    settings = SMALL.changed(epochs=2, accumulate=2, dropout=0.2, class_weighting="inverse_root")
    together = fit(tiles[:4], tiles[4:], settings, compute, tmp_path, processes=2)
    alone = fit(tiles[:4], tiles[4:], settings, compute)
    for name, tensor in alone.state.items():
        torch.testing.assert_close(together.state[name], tensor, rtol=1e-3, atol=1e-4)
    assert together.history["train_loss"].to_numpy() == pytest.approx(alone.history["train_loss"].to_numpy(), rel=1e-4)
    with pytest.raises(BadSetting, match="set accumulate to 3"):
        fit(tiles[:4], [], settings, compute, processes=3)


def test_an_early_end_keeps_the_best_epoch(folder, tmp_path, compute, monkeypatch):
    tiles = load_tiles(folder)
    found = iter([0.2, 0.6, 0.5, 0.6, 0.9])
    states = []

    def validate(task, network, compute):
        states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"mean_iou": next(found)}

    monkeypatch.setattr(TissueTask, "validate", validate)
    settings = SMALL.changed(epochs=9, epoch_steps=1, batch=24, patience=2)
    result = fit(tiles[:4], tiles[4:], settings, compute, tmp_path)
    assert len(result.history) == 4
    assert states_equal(result.state, states[1])
    assert result.card.steps == 4
    again = fit(tiles[:4], tiles[4:], settings, compute, tmp_path)  # out of patience: no further epoch
    assert again.resumed
    assert states_equal(again.state, states[1])


def test_what_is_fine_tuned_from_synthetic_skin_rehearses_it(folder, compute, monkeypatch, tmp_path):
    class Drawn:
        def read(self):
            return np.full((128, 128, 3), 90, np.uint8), np.full((128, 128), TissueClass.EPIDERMIS, np.uint8)

    monkeypatch.setattr("dermatome.skin.tissue.task.varied_tiles", lambda count, mpp, seed: [Drawn()] * count)
    starter = TissueTask.named("starter", tmp_path)
    given = starter.fill_in({"crop_px": 64, "batch": 4, "mpp": 0.5})
    scratch = TissueTask.choose([folder], (), SMALL)
    tuned = TissueTask.choose([folder], (), settings_from(TissueTraining, given), starter)
    assert (scratch.settings.rehearsal, tuned.settings.rehearsal) == (0.0, 0.5)
    for task, least, most in ((scratch, 0.0, 0.0), (tuned, 0.35, 0.65)):
        source = task.build(compute, None).source
        drawn = [bool((truth == TissueClass.EPIDERMIS).all()) for n in range(25) for truth in source.batch(n)[1]]
        assert least <= np.mean(drawn) <= most


def test_training_goes_on_from_a_parent(folder, tmp_path, compute):
    train_file(
        TissueTask.choose([folder], (), SMALL.changed(epochs=1)), tmp_path / "w.safetensors", compute, name="v001"
    )
    parent = load_tissue_weights(tmp_path / "w.safetensors")
    tiny = SMALL.changed(epochs=1, epoch_steps=1, learning_rate=1e-9)
    tiles = load_tiles(folder)
    result = fit(tiles, [], tiny, compute, parent=parent)
    assert result.card.parent == parent.sha256
    for before, now in ((True, True), (True, False), (False, True)):
        started = replace(parent, card=replace(parent.card, synthetic=before))
        card = fit(tiles, [], tiny.changed(synthetic=now), compute, parent=started).card
        assert card.synthetic == (before and now), "real images were learnt, before or now"
    for name, tensor in parent.network.named_parameters():
        torch.testing.assert_close(result.state[name], tensor, rtol=0, atol=1e-5)
    with pytest.raises(BadWeights, match="Do not set decoder_channels"):
        fit(tiles, [], tiny.changed(decoder_channels=(8, 8, 8, 8, 8)), compute, parent=parent)


def test_the_manifest_is_the_split_and_the_card_names_it(folder, tmp_path, compute):
    out = tmp_path / "w.safetensors"
    result = train_file(TissueTask.choose([folder], (), SMALL.changed(epochs=1)), out, compute).trained
    path = manifest_path(out)
    assert result.card.manifest_sha256 == sha256_file(path) == read_card(out, TissueCard).manifest_sha256
    rows = read_manifest(path)
    assert sorted(row.side for row in rows) == ["train"] * 5 + ["validation"]
    tiles = {tile.name: tile for tile in load_tiles(folder)}
    for row in rows:
        assert row.image_sha256 == sha256_file(tiles[row.name].image_path)
        assert row.pixels == np.bincount(tiles[row.name].read()[1].ravel(), minlength=4).tolist()
        assert len(row.thumbnail) == 32 * 32
    assert write_manifest(tmp_path / "again.parquet", rows) == result.card.manifest_sha256
    assert "nobody stated" in result.card.licence
    sides = known_sides(rows)
    other_seed = split_samples(load_tiles(folder), 0.15, 77, sides)
    assert [tile.name for tile in other_seed.validation] == [row.name for row in rows if row.side == "validation"]
    new = [*load_tiles(folder), *(replace(tile, name=f"n{tile.name}", slide=f"new{n}") for n, tile in
                                  enumerate(load_tiles(folder)))]  # fmt: skip
    grown = split_samples(new, 0.34, 77, sides)
    assert {tile.name for tile in grown.validation} > {tile.name for tile in other_seed.validation}
    assert not {row.name for row in rows if row.side == "train"} & {tile.name for tile in grown.validation}


def test_it_keeps_its_time(folder, compute):
    tiles = load_tiles(folder)
    start = time.perf_counter()
    result = fit(tiles[:4], tiles[4:], SMALL.changed(epochs=None, max_minutes=3 / 60), compute)
    assert time.perf_counter() - start < 60
    assert result.card.steps > 2
    assert result.history["learning_rate"].iloc[-1] < SMALL.learning_rate / 3  # the cosine ran its course


def test_without_validation_tiles_the_card_has_no_scores(folder, compute):
    result = fit(load_tiles(folder), [], SMALL.changed(epochs=1), compute)
    assert result.card.scores == {}
    assert result.card.validation == "nothing was held out"
    assert result.history["mean_iou"].isna().all()
    with pytest.raises(BadSetting, match="nothing to train on"):
        fit([], [], SMALL, compute)


def test_crops_move_image_and_labels_together():
    labels = np.zeros((200, 200), dtype=np.uint8)
    labels[:, 100:] = TissueClass.EPIDERMIS
    labels[150:] = TissueClass.KERATIN
    tile = tile_levels(COLOURS[labels], labels, 1.0)
    plain = AugmentSettings(stain=0, brightness=0, blur_px=0, noise=0, coarse_share=0.5)
    for seed in range(20):
        view, truth = random_crop(tile, 96, plain, 2.0, np.random.default_rng(seed))
        nearest = np.abs(view[..., None, :].astype(int) - COLOURS.astype(int)).sum(-1).argmin(-1)
        assert (nearest == truth).mean() > 0.95
        assert set(np.unique(truth)) <= {0, 2, 3}


def test_splits_hold_out_whole_slides_and_do_not_depend_on_order(folder):
    tiles = [replace(tile, slide=f"slide{n // 2}") for n, tile in enumerate(load_tiles(folder))]
    split = split_samples(tiles, 0.3, 0)
    assert len(split.validation) == 2
    assert not {t.group for t in split.train} & {t.group for t in split.validation}
    assert "whole slides" in split.how
    assert split == split_samples(tiles[::-1], 0.3, 0)
    assert len({split_samples(tiles, 0.3, seed).validation for seed in range(10)}) > 1
    assert split_samples(tiles, 0, 0).validation == ()
    one_slide = split_samples([replace(tile, slide="s") for tile in tiles], 0.2, 0)
    assert len(one_slide.validation) == 1
    stains = [*tiles[:3], *(replace(tile, name=f"{tile.name}+ihc") for tile in tiles[:3])]
    both = split_samples([replace(tile, slide="s") for tile in stains], 0.2, 0)
    assert len({tile.mask_path for tile in both.validation}) == 1
    assert len(both.validation) == 2
    with pytest.raises(BadSetting, match="only one of the tiles"):
        split_samples(tiles[:1], 0.2, 0)


def test_a_split_does_not_take_most_of_a_class_from_training(tmp_path):
    image, masks = np.zeros((32, 32, 3), np.uint8), np.full((6, 32, 32), TissueClass.DERMIS, np.uint8)
    masks[:, :2] = masks[3] = TissueClass.KERATIN
    tiles = write_pairs(tmp_path, {f"t{number}": (image, mask) for number, mask in enumerate(masks)})
    held = {tile.name for seed in range(40) for tile in split_samples(tiles, 0.15, seed).validation}
    assert held == {"t0", "t1", "t2", "t4", "t5"}
    two = split_samples(tiles[2:4], 0.15, 0)  # either choice takes too much of something: one is held out all the same
    assert (len(two.train), len(two.validation)) == (1, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"max_minutes": 0}, {"crop_px": 100}, {"batch": 1}, {"learning_rate": 0}, {"mpp": -1},
        {"coarse_factor": 0.5}, {"accumulate": 0}, {"patience": 0}, {"dropout": 1.0}, {"dice_weight": -1},
        {"dice_weight": 0, "focal_weight": 0},
    ],
)  # fmt: skip
def test_settings_out_of_range(wrong):
    with pytest.raises(BadSetting, match=next(iter(wrong))):
        SMALL.changed(**wrong)


def test_settings_from_plain_values():
    plain = {"decoder_channels": [8, 8, 8, 8, 8], "augment": {"stain": 0.1}, "loss": "tversky"}
    found = settings_from(TissueTraining, plain)
    assert found == TissueTraining(decoder_channels=(8, 8, 8, 8, 8), augment=AugmentSettings(stain=0.1), loss="tversky")
    for wrong, says in (
        ({"rate": 1}, "there is no setting 'rate'; use one of epochs"),
        ({"augment": {"hue": 1}}, "there is no setting 'hue'; use one of scale"),
        ({"augment": {"noise": -1}}, "the setting noise is -1"),
        ({"loss": "lovasz"}, "the setting loss is 'lovasz'"),
        ({"batch": "many"}, "the setting batch is 'many'"),
    ):
        with pytest.raises(BadSetting, match=says):
            settings_from(TissueTraining, wrong)


def test_losses_fall_to_nothing_where_all_is_right_and_weights_count():
    truth = torch.tensor([[[0, 1], [2, 3]]])
    right = 100.0 * torch.nn.functional.one_hot(truth, 4).permute(0, 3, 1, 2).float() - 50
    wrong = right.roll(1, dims=1)
    for name in ("dice_focal", "dice", "focal", "cross_entropy", "tversky"):
        loss = make_loss(name)
        assert float(loss(right, truth)) == pytest.approx(0, abs=1e-3)
        assert float(loss(wrong, truth)) > 0.5
        # One class wrong: the more it weighs, the worse.
        one_wrong = torch.where(truth[:, None] == 3, wrong, right)
        light, heavy = (make_loss(name, class_weights=(1, 1, 1, w))(one_wrong, truth) for w in (0.1, 10))
        assert heavy > light
    parts = [float(make_loss(name)(wrong, truth)) for name in ("dice", "focal")]
    both = make_loss("dice_focal", dice_weight=2, focal_weight=0.5)
    assert float(both(wrong, truth)) == pytest.approx(2 * parts[0] + 0.5 * parts[1])
    with pytest.raises(BadSetting, match="no loss 'lovasz'"):
        make_loss("lovasz")


def test_class_weights_follow_pixel_counts():
    pixels = np.array([800, 100, 0, 100])
    assert class_weights(pixels, "equal") is None
    inverse = class_weights(pixels, "inverse")
    assert inverse[1] == pytest.approx(8 * inverse[0])
    assert np.mean([inverse[0], inverse[1], inverse[3]]) == pytest.approx(1)
    assert inverse[2] == 1
    root = class_weights(pixels, "inverse_root")
    assert root[1] == pytest.approx(8**0.5 * root[0])


def test_training_sees_other_lights():
    tile = tile_levels(np.full((80, 80, 3), 200, np.uint8), np.zeros((80, 80), dtype=np.uint8), 1.0)
    still = AugmentSettings(scale=1, coarse_share=0, elastic_px=0, stain=0, brightness=0, blur_px=0, noise=0)

    def lights(**change: float) -> np.ndarray:
        rngs = map(np.random.default_rng, range(40))
        return np.array([random_crop(tile, 32, still.changed(**change), 2.0, rng)[0][0, 0] for rng in rngs]) / 200

    assert (np.ptp(lights(), axis=0) == 0).all()
    grey, tinted = lights(brightness=0.2, tint=0), lights(brightness=0.2, tint=1)
    assert (grey.min(), grey.max()) == (pytest.approx(0.8, abs=0.03), pytest.approx(1.1, abs=0.03))
    assert np.ptp(grey, axis=1).max() == 0
    assert np.ptp(tinted, axis=1).max() == pytest.approx(0.4, abs=0.1)


def test_gamma_changes_brightness_and_contrast_the_spread_of_it():
    pixels = np.random.default_rng(0).integers(60, 200, (80, 80, 1)).repeat(3, axis=2).astype(np.uint8)
    tile = tile_levels(pixels, np.zeros((80, 80), dtype=np.uint8), 1.0)
    still = AugmentSettings(scale=1, coarse_share=0, elastic_px=0, stain=0, brightness=0, blur_px=0, noise=0)

    def spread(**change):
        crops = [random_crop(tile, 64, still.changed(**change), 2.0, np.random.default_rng(n))[0] for n in range(12)]
        return np.ptp([crop.mean() for crop in crops]), np.ptp([crop.std() for crop in crops])

    assert spread(gamma=0.4)[0] > 5 * spread()[0]
    assert spread(contrast=0.4)[1] > 1.5 * spread()[1]
