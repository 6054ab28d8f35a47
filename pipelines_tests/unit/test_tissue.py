"""Coarse to fine with a network that only looks at colour, so that every answer is known."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dermatome.classes import TissueClass
from dermatome.errors import BadSetting, BadWeights
from dermatome.geometry import Box
from dermatome.inference.backends import TorchRunner
from dermatome.inference.probabilities import Probabilities
from dermatome.skin.tissue.network import TissueCard, load_tissue_weights
from dermatome.skin.tissue.networks import STARTER_WEIGHTS
from dermatome.skin.tissue.segment import (
    TissueOutcome,
    joined_dermis,
    merge_boxes,
    prepare_tissue,
    segment_slides,
    significant_regions,
)
from dermatome.skin.tissue.segment import segment_tissue as segment
from dermatome.skin.tissue.settings import CleanupSettings, TissueSettings
from dermatome.slides.slide import MppSource, Slide, read_slide
from dermatome.synthetic.skin import toy_slide
from dermatome.training.weights import LoadedWeights

B, D, E, K = TissueClass
GREYS = np.array([250, 170, 90, 10], dtype=np.uint8)


class ByGrey(torch.nn.Module):
    """Logits fall with the distance from each class's grey; as sure as a network, and counting its images."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, batch):
        self.seen += len(batch)
        grey = batch[:, :1] * 0.25 * 255 + 0.5 * 255
        return -((grey - torch.tensor(GREYS.astype(np.float32)).view(1, 4, 1, 1)) ** 2) / 400


@pytest.fixture
def weights():
    card = TissueCard(
        encoder="-", decoder_channels=(), mpp=1.0, mpp_range=(0.5, 4), coarse_mpp=4.0, tile_mpp=0.5, tile_px=64
    )
    card = replace(card, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return LoadedWeights(ByGrey, card, "0" * 64, Path("w.safetensors"))


SETTINGS = TissueSettings(refine_whole_px=0, views=1, margin_um=16)


def slide_of(mask, mpp=0.5):
    return Slide("s", np.repeat(GREYS[mask][..., None], 3, axis=2), mpp, MppSource.DECLARED, "0" * 64)


def segment_tissue(slide, weights, compute, settings, progress=None):
    network = prepare_tissue(weights, replace(compute, backend="torch"), settings)
    return segment(slide, network, settings, progress)


def bands(size=(400, 560)):
    """Background, keratin, epidermis, dermis from top to bottom, and an island of epidermis in the dermis."""
    mask = np.full(size, B, dtype=np.uint8)
    mask[60:100, 40:500] = K
    mask[100:180, 40:500] = E
    mask[180:, 40:500] = D
    mask[260:330, 200:290] = E
    return mask


def test_the_mask_is_found_at_full_resolution_and_islands_stay(weights, compute):
    truth = bands()
    told = []
    result = segment_tissue(slide_of(truth), weights, compute, SETTINGS, told.append)
    assert result.mask.shape == truth.shape
    assert result.mask.dtype == np.uint8
    for tissue in TissueClass:
        union = ((result.mask == tissue) | (truth == tissue)).sum()
        assert ((result.mask == tissue) & (truth == tissue)).sum() / union > 0.97, tissue
    assert result.outcome is TissueOutcome.TISSUE
    assert result.coarse_mask.shape == result.significant.shape == (50, 70)
    assert result.epidermis_share == pytest.approx((truth == E).mean(), rel=0.03)
    assert result.tissue_share == pytest.approx((truth != B).mean(), rel=0.03)
    assert 0.5 < result.mean_confidence <= 1
    assert set(result.seconds) == {"coarse", "refine", "cleanup"}
    assert len(told) >= 2
    assert result.crop.top_px <= 60
    assert result.crop.bottom_px < 400


def test_an_island_below_a_tenth_of_the_largest_is_not_refined_and_not_lost(weights, compute):
    truth = bands((800, 560))
    truth[690:760, 60:130] = E
    result = segment_tissue(slide_of(truth), weights, compute, SETTINGS)
    assert result.crop.bottom_px < 690
    assert (result.mask[695:755, 65:125] == E).all()
    assert (result.mask[680:770, 50:140] == truth[680:770, 50:140]).mean() > 0.9


@pytest.mark.parametrize("tissue", [B, D])
def test_tissue_without_epidermis_is_an_outcome(weights, compute, tissue):
    truth = np.full((300, 200), tissue, dtype=np.uint8)
    result = segment_tissue(slide_of(truth), weights, compute, SETTINGS)
    assert result.outcome is TissueOutcome.NO_EPIDERMIS
    assert (result.mask == tissue).all()
    assert result.epidermis_share == 0
    assert result.skin_check().passed, "nothing was taken for epidermis"
    assert result.crop == Box(0, 0, 300, 200)


def test_epidermis_without_dermis_is_not_the_skin_that_the_network_knows(weights, compute):
    truth = bands()
    assert segment_tissue(slide_of(truth), weights, compute, SETTINGS).skin_check().passed
    truth[truth == D] = E
    check = segment_tissue(slide_of(truth), weights, compute, SETTINGS).skin_check()
    assert not check.passed
    assert "does not look like the skin" in check.description


def test_dermis_in_small_pieces_between_epithelium_is_not_skin(weights, compute):
    truth = np.full((400, 560), E, np.uint8)
    truth[:, :20] = B
    for top, left in itertools.product(range(20, 380, 90), range(40, 540, 90)):
        truth[top : top + 60, left : left + 60] = D
    check = segment_tissue(slide_of(truth), weights, compute, SETTINGS).skin_check()
    assert not check.passed
    assert check.values["joined_dermis"] == pytest.approx(60**2 / (400 * 540), rel=0.1)


def test_joined_dermis_is_the_largest_piece_of_each_section():
    labels = np.full((40, 100), B, np.uint8)
    labels[:20, :40] = E
    labels[10:20, :40] = D
    assert joined_dermis(labels) == 0.5
    labels[:20, 60:] = labels[:20, :40]
    assert joined_dermis(labels) == 0.5, "two sections"
    labels[10:20, 30:32] = E
    assert joined_dermis(labels) == (10 * 30 + 10 * 40) / 1600
    assert joined_dermis(np.full((5, 5), B, np.uint8)) == 0
    assert joined_dermis(np.full((5, 5), D, np.uint8)) == 1


def test_the_starter_does_not_take_other_organs_for_skin(realdata, compute):
    network = prepare_tissue(load_tissue_weights(STARTER_WEIGHTS), replace(compute, backend="torch"))
    for name in ("55449_A_1_1", "7921_A_1_1"):
        core = read_slide(realdata / "hpa_ihc" / f"{name}.jpg", declared_mpp=0.5)
        half = Slide(name, core.region(Box.whole(core.size), core.size.scaled(0.5)), 1.0, MppSource.DECLARED, "0" * 64)
        check = segment(half, network).skin_check()
        assert not check.passed, check.description
    toy = toy_slide(5, size_px=512).slide
    assert segment(toy, network).skin_check().passed


def test_a_network_that_gives_no_numbers_is_refused(weights, compute):
    class NoNumbers(ByGrey):
        def forward(self, batch):
            return super().forward(batch) * torch.nan

    with pytest.raises(BadWeights, match="probabilities are not numbers"):
        segment_tissue(slide_of(bands()), replace(weights, build=NoNumbers), compute, SETTINGS)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (31, 33), (513, 40)])
def test_any_size_of_slide(weights, compute, size):
    truth = np.full(size, E, dtype=np.uint8)
    for settings in (SETTINGS, TissueSettings(views=4)):
        result = segment_tissue(slide_of(truth), weights, compute, settings)
        assert result.mask.shape == size
        assert (result.mask == E).all()


def test_a_slide_at_another_scale_is_rescaled_to_the_networks(weights, compute):
    truth = bands((200, 280))
    result = segment_tissue(slide_of(truth, mpp=2.0), weights, compute, SETTINGS.changed(any_scale=True))
    assert result.coarse_mask.shape == (100, 140)
    assert (result.mask == truth).mean() > 0.95


def test_the_answer_does_not_depend_on_the_batch(weights, compute):
    truth = bands()
    noisy = slide_of(truth)
    pixels = np.clip(noisy.pixels + np.random.default_rng(0).normal(0, 25, noisy.pixels.shape), 0, 255).astype(np.uint8)
    noisy = replace(noisy, pixels=pixels)
    raw = CleanupSettings(
        min_epidermis_um2=0, min_keratin_um2=0, min_dermis_um2=0, min_background_um2=0, max_keratin_gap_um2=0
    )
    masks = [segment_tissue(noisy, weights, compute, SETTINGS.changed(batch=n, cleanup=raw)).mask for n in (1, 3, 50)]
    assert (masks[0] == masks[1]).all()
    assert (masks[0] == masks[2]).all()


def test_slides_found_together_are_as_each_alone(weights, compute):
    slides = [slide_of(bands()), slide_of(bands((200, 280)), mpp=1.25), slide_of(np.full((40, 50), D, np.uint8))]
    network = prepare_tissue(weights, replace(compute, backend="torch"), SETTINGS)
    together = segment_slides(slides, network, SETTINGS)
    for slide, found in zip(slides, together, strict=True):
        alone = segment(slide, network, SETTINGS)
        assert (found.mask == alone.mask).all()
        assert (found.crop, found.tiles, found.outcome) == (alone.crop, alone.tiles, alone.outcome)
        assert found.mean_confidence == pytest.approx(alone.mean_confidence)


def test_only_significant_regions_cost_tiles(weights, compute):
    truth = np.full((1600, 1600), D, dtype=np.uint8)
    truth[100:200, 100:300] = E
    few = segment_tissue(slide_of(truth), weights, compute, SETTINGS)
    all_of_it = segment_tissue(slide_of(truth), weights, compute, SETTINGS.changed(refine_whole_px=10_000))
    assert few.tiles < all_of_it.tiles / 3
    assert (few.mask == all_of_it.mask).mean() > 0.999


def test_views_turn_back_to_where_they_came_from(compute):
    images = np.random.default_rng(1).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    one, *more = (
        TorchRunner(Probabilities(ByGrey(), (0.5,) * 3, (0.25,) * 3, n).eval(), compute).run(images)[0]
        for n in (1, 2, 4, 8)
    )
    assert one.shape == (2, 4, 64, 64)
    for many in more:
        np.testing.assert_allclose(one, many, atol=1e-5)
    with pytest.raises(BadSetting, match="views"):
        Probabilities(ByGrey(), (0.5,) * 3, (0.25,) * 3, 3)


def test_significant_regions_and_boxes():
    coarse = np.zeros((40, 60), dtype=np.uint8)
    coarse[2:12, 2:22] = E
    coarse[12:14, 2:22] = K  # one region with the epidermis: 240 px
    coarse[20:25, 30:35] = E  # 25 px, over a tenth
    coarse[35:38, 50:53] = K  # 9 px, under
    significant, boxes = significant_regions(coarse, 0.10)
    assert boxes == [Box(2, 2, 14, 22), Box(20, 30, 25, 35)]
    assert significant.sum() == 265
    assert significant_regions(np.zeros((3, 3), np.uint8), 0.1)[1] == []


def test_boxes_that_overlap_are_joined_until_none_do():
    boxes = [Box(0, 0, 10, 10), Box(20, 20, 30, 30), Box(8, 8, 22, 22), Box(40, 0, 50, 5)]
    assert merge_boxes(boxes) == [Box(0, 0, 30, 30), Box(40, 0, 50, 5)]
