"""Losses and sampling of nuclei in numbers worked out by hand; and a training that learns discs of two colours."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from dermatome.classes import IGNORED, NucleusClass, TernaryClass
from dermatome.errors import BadSetting
from dermatome.geometry import Box
from dermatome.labels.drawn_maps import ternary_map
from dermatome.nuclei.maps.losses import ImmuneSampling, NucleusLoss, make_nucleus_loss, ternary_weights
from dermatome.nuclei.maps.network import load_nucleus_weights
from dermatome.nuclei.maps.report import CLASSES_FILE
from dermatome.nuclei.maps.task import NucleusEvaluation, NucleusTask, NucleusTraining
from dermatome.registry.manifest import manifest_path, read_manifest
from dermatome.registry.report import CURVES_FIGURE, HISTORY_FILE, SAMPLES_FIGURE
from dermatome.registry.version import lineage_named, train_version
from dermatome.storage.files import sha256_file
from dermatome.storage.layout import WEIGHTS_FILE
from dermatome.training.data import Split
from dermatome.training.settings import settings_from
from dermatome.training.trainer import train

COLOURS = np.array([[235, 200, 220], [150, 100, 180], [60, 30, 120], [0, 0, 0], [0, 0, 0]], np.uint8)
SMALL = NucleusTraining(
    encoder="tu-tf_mobilenetv3_small_minimal_100", decoder_channels=(16, 16, 8, 8, 8), dropout=0.0, epochs=4,
    epoch_steps=12, batch=4, crop_px=64, learning_rate=8e-3, warmup_epochs=0.5, ema_decay=0.8,
    loss=NucleusLoss(semantic_weight=1.0), checkpoint_seconds=0.0,
)  # fmt: skip


def discs(seed, case="a", normalised=False):
    """A patch of epithelial and lymphocytic discs on a pale ground, and an ambiguous corner."""
    instances, kinds = np.zeros((96, 96), np.int32), [0]
    rows, columns = np.mgrid[:96, :96]
    rng = np.random.default_rng(seed)
    for y in range(16, 96, 32):
        for x in range(16, 96, 32):
            kinds.append(int(rng.integers(1, 3)))
            top, left = rng.integers(-4, 5, 2)  # no two patches are the same picture
            instances[(rows - y - top) ** 2 + (columns - x - left) ** 2 <= 12**2] = len(kinds) - 1
    semantic, ternary = np.array(kinds, np.uint8)[instances], ternary_map(instances)
    noise = np.random.default_rng([seed, 1]).normal(0, 6, (96, 96, 3))
    image = np.clip(COLOURS[semantic] + noise, 0, 255).astype(np.uint8)
    semantic[:4, :4] = ternary[:4, :4] = IGNORED
    return SimpleNamespace(
        name=f"discs-{seed}", slide=f"discs-{seed}", case=case, group=case, patient=case,
        normalised=normalised, sha256=f"{seed:064x}",
        box=Box(0, 0, 96, 96), semantic_px=tuple(np.bincount(semantic.ravel(), minlength=5)[:5].tolist()),
        instances=lambda: instances, read=lambda: (image, np.stack([semantic, ternary], axis=-1)),
    )  # fmt: skip


QUICK = SMALL.changed(epochs=1, epoch_steps=1, batch=2)


def task_of(patches, patches_val=(), settings=SMALL):
    return NucleusTask(settings, Split(tuple(patches), tuple(patches_val)))


@pytest.fixture(scope="module")
def made(tmp_path_factory, compute):
    """A version trained on four patches of one patient, validated on one of another."""
    folder, shares = tmp_path_factory.mktemp("weights"), []
    task = task_of([discs(seed) for seed in range(4)], [discs(9, "b")])
    result = train_version(
        task, folder, "v001", compute, on_epoch=lambda row, share: shares.append(share), checkpoint_dir=folder
    )
    return folder, result, shares


def test_it_learns_discs_and_keeps_the_best_epoch(made):
    folder, result, shares = made
    history = pd.read_parquet(folder / HISTORY_FILE)
    assert len(history) == len(shares) == 4
    assert shares[-1] == 1.0
    assert result.values["score"] == pytest.approx(history["score"].max())
    assert result.values["score"] > 0.5
    loaded = load_nucleus_weights(folder / WEIGHTS_FILE)
    assert loaded.sha256 == result.values["weights_sha256"]
    card = loaded.card
    assert (card.tile_px, card.mpp, card.created_from) == (64, 0.25, ("a",))
    assert card.scores["dice_lymphocyte"] > 0.3
    assert card.scores["pq_binary"] == result.values["pq_binary"]
    assert result.values["f1_detection"] > 0.5
    assert result.values["epochs"] == 4
    assert (result.values["images_validated"], result.values["nuclei_validated"]) == (1, 9)


def test_what_a_version_leaves_says_what_it_learnt_from(made):
    folder, result, _ = made
    manifest = manifest_path(folder / WEIGHTS_FILE)
    rows = read_manifest(manifest)
    assert [(row.side, row.patient) for row in rows] == [("train", "a")] * 4 + [("validation", "b")]
    assert all(sum(row.pixels) == 96 * 96 - 16 for row in rows)
    assert sha256_file(manifest) == result.values["manifest_sha256"]
    classes = pd.read_parquet(folder / CLASSES_FILE)
    assert classes.groupby("map")["truth_px"].sum().to_dict() == {"semantic": 96 * 96 - 16, "ternary": 96 * 96 - 16}
    assert all((folder / name).read_bytes()[:4] == b"\x89PNG" for name in (CURVES_FIGURE, SAMPLES_FIGURE))
    check, _ = result.checks
    assert check.passed


def test_the_card_says_that_patches_were_of_one_stain(made, compute):
    assert train(task_of([discs(0, normalised=True)], settings=QUICK), compute).card.normalised_stain
    assert not load_nucleus_weights(made[0] / WEIGHTS_FILE).card.normalised_stain


def test_a_patient_of_an_ancestor_fails_the_check(made, tmp_path, compute):
    folder, _, _ = made

    def child(number, case, tested, parent):
        lineage = lineage_named(NucleusTask, str(parent / WEIGHTS_FILE), tmp_path)
        task = task_of([discs(number, case)], [tested], QUICK)
        result = train_version(task, tmp_path / case, "v", compute, lineage=lineage)
        return result.checks[0], load_nucleus_weights(tmp_path / case / WEIGHTS_FILE).card.created_from

    assert load_nucleus_weights(folder / WEIGHTS_FILE).card.created_from == ("a",)
    check, cases = child(11, "c", discs(20, "b"), folder)
    assert (check.passed, cases) == (True, ("a", "c")), check.description
    check, _ = child(13, "d", discs(14, "a"), tmp_path / "c")
    assert not check.passed, "the grandparent learned from a, which the parent's card says"
    assert "share the patient or slide a" in check.description


def test_boundary_weights_go_with_the_inverse_of_frequency_up_to_their_caps():
    pixels = np.array([900, 80, 20])
    weights = ternary_weights(pixels, NucleusLoss(boundary_weighting=True))
    inverse = np.array([1 / 0.9, 1 / 0.08, 1 / 0.02])
    expected = inverse / inverse.mean()
    assert expected[2] > 2  # the boundary's own cap is at work
    expected = np.maximum(expected, 0.05)
    expected[2] = 2.0
    assert weights == pytest.approx(expected / expected.mean())
    raised = ternary_weights(
        pixels, NucleusLoss(boundary_weighting=True, least_weight=0.5, most_weight=0.55, most_boundary_weight=0.52)
    )
    assert raised == pytest.approx(np.array([0.5, 0.55, 0.52]) / np.mean([0.5, 0.55, 0.52]))
    assert ternary_weights(pixels, NucleusLoss(boundary_weighting=False)) is None


def test_immune_patches_are_drawn_more_often():
    background, lymphocytes, neutrophils, macrophages, both, few = np.zeros((6, 5), np.int64)
    lymphocytes[NucleusClass.LYMPHOCYTE] = 25
    neutrophils[NucleusClass.NEUTROPHIL] = 10
    macrophages[NucleusClass.MACROPHAGE] = 10
    both[[NucleusClass.LYMPHOCYTE, NucleusClass.NEUTROPHIL, NucleusClass.MACROPHAGE]] = 99
    few[1:] = (500, 24, 9, 9)
    pixels = np.stack([background, lymphocytes, neutrophils, macrophages, both, few])
    assert ImmuneSampling().weights(pixels).tolist() == [1, 2, 8, 8, 2 * 8 * 8 * 1.5, 1]


def logits_of(semantic, ternary, sure):
    """(1, 8, H, W) logits that say these classes with this lead."""
    parts = [torch.nn.functional.one_hot(torch.tensor(m), k) for m, k in ((semantic, 5), (ternary, 3))]
    return sure * torch.cat(parts, dim=-1).permute(2, 0, 1)[None].float()


def test_the_loss_in_numbers():
    semantic, ternary = np.array([[0, 1], [1, 2]]), np.array([[0, 1], [2, 2]])
    truth = torch.tensor(np.stack([semantic, ternary], axis=-1))[None]
    unsure = torch.zeros(1, 8, 2, 2)
    only = {
        "semantic": NucleusLoss(semantic_weight=1, ternary_weight=0),
        "focal": NucleusLoss(semantic_weight=0, ternary_dice_weight=0),
        "ternary": NucleusLoss(semantic_weight=0),
    }
    found = {name: float(make_nucleus_loss(how, (0.5, 1.0, 1.5))(unsure, truth)) for name, how in only.items()}
    # Each of five classes has probability 0.2 at four pixels; two classes are not there and count as missed.
    dice = [2 * 0.2 * n / (0.8 + n) for n in (1, 2, 1)]
    assert found["semantic"] == pytest.approx(1 - sum(dice) / 5, abs=1e-5)
    focal = np.mean([0.5, 1.0, 1.5, 1.5]) * (2 / 3) ** 2 * np.log(3)
    assert found["focal"] == pytest.approx(focal)
    parts = np.array([1 - 2 * n / 3 / (4 / 3 + n) for n in (1, 1, 2)])
    assert found["ternary"] == pytest.approx(focal + 0.5 * (parts * (0.5, 1.0, 1.5)).sum() / 3, abs=1e-5)
    whole = float(make_nucleus_loss(NucleusLoss(), (0.5, 1.0, 1.5))(unsure, truth))
    assert whole == pytest.approx(0.3 * found["semantic"] + found["ternary"])


def test_what_is_ignored_has_no_part_in_the_loss():
    semantic, ternary = np.array([[0, 1], [1, 2]]), np.array([[0, 1], [2, 2]])
    truth = torch.tensor(np.stack([semantic, ternary], axis=-1))[None]
    loss = make_nucleus_loss(NucleusLoss(), (0.5, 1.0, 1.5))
    wrong_there = logits_of(semantic, ternary, 9.0)
    wrong_there[..., 1, 1] = wrong_there[..., 1, 1].flip(1)
    unknown = truth.clone()
    unknown[0, 1, 1] = IGNORED
    right = float(loss(logits_of(semantic, ternary, 9.0), unknown))
    assert float(loss(wrong_there, unknown)) == pytest.approx(right)
    assert float(loss(wrong_there, truth)) > right + 0.2


def test_the_selection_score():
    ternary = np.zeros((3, 3), np.int64)
    ternary[TernaryClass.INSIDE, TernaryClass.INSIDE] = 30
    ternary[TernaryClass.INSIDE, TernaryClass.BOUNDARY] = 10
    ternary[TernaryClass.BOUNDARY, TernaryClass.BOUNDARY] = 10
    scores = NucleusEvaluation(np.zeros((5, 5), np.int64), ternary)
    assert scores.columns(SMALL)["score"] == pytest.approx(0.7 * 60 / 70 + 0.3 * 20 / 30)
    nothing = NucleusEvaluation(np.zeros((5, 5), np.int64), np.zeros((3, 3), np.int64))
    assert nothing.columns(SMALL)["score"] is None


def test_settings_are_those_of_the_recipe_unless_given():
    with pytest.raises(BadSetting, match="lower limit"):
        NucleusLoss(least_weight=3.0)
    plain = NucleusTraining()
    assert (plain.encoder, plain.batch, plain.learning_rate) == ("resnet18", 4, 1e-3)
    assert not plain.loss.boundary_weighting
    source = settings_from(NucleusTraining, {"recipe": "source", "batch": 6, "loss": {"focal_gamma": 0.0}})
    assert (source.encoder, source.batch, source.learning_rate) == ("resnet34", 6, 3e-4)
    assert source.loss == NucleusLoss(focal_gamma=0.0, boundary_weighting=True)
