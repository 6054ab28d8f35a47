"""Drawn masks: what is a speck, what is a hole, what stays."""

import numpy as np
import pytest

from dermatome.classes import TissueClass
from dermatome.skin.tissue import cleanup
from dermatome.skin.tissue.cleanup import clean_labels
from dermatome.skin.tissue.settings import CleanupSettings

B, D, E, K = TissueClass
MPP = 0.5
SETTINGS = CleanupSettings(
    min_epidermis_um2=1000, min_keratin_um2=60, min_dermis_um2=150, min_background_um2=100, max_keratin_gap_um2=2000,
    border_share=0.25,
)  # 4000, 240, 600, 400 and 8000 px  # fmt: skip


def drawn(*patches, base=D, size=(300, 300)):
    mask = np.full(size, base, dtype=np.uint8)
    for tissue, top, left, height, width in patches:
        mask[top : top + height, left : left + width] = tissue
    return mask


def clean(mask):
    cleaned = mask.copy()
    clean_labels(cleaned, MPP, SETTINGS)
    return cleaned


def test_spurious_epidermis_becomes_dermis_and_large_islands_stay():
    cleaned = clean(drawn((E, 50, 50, 40, 40), (E, 150, 150, 80, 80)))
    assert (cleaned == drawn((E, 150, 150, 80, 80))).all()


def test_a_mixed_piece_of_epidermis_and_keratin_stays():
    mask = drawn((E, 50, 50, 40, 40), (K, 45, 50, 8, 40))
    assert (clean(mask) == mask).all()


def test_a_speck_of_both_goes():
    assert (clean(drawn((E, 50, 50, 5, 5), (K, 45, 50, 5, 5))) == drawn()).all()


def test_holes_in_epidermis_close_and_papillae_stay_open():
    whole = drawn(base=E)
    assert (clean(drawn((B, 60, 60, 10, 10), (D, 100, 100, 20, 20), base=E)) == whole).all()
    papilla = drawn((D, 100, 100, 40, 40), base=E)
    assert (clean(papilla) == papilla).all()


def test_a_flake_of_keratin_on_glass_stays_and_a_crumb_goes():
    flake = drawn((K, 20, 20, 10, 40), base=B)
    assert (clean(flake) == flake).all()
    assert (clean(drawn((K, 20, 20, 5, 5), base=B)) == drawn(base=B)).all()


def test_gaps_between_lamellae_are_keratin_and_glass_is_not():
    lamellae = drawn((K, 50, 50, 60, 200), base=B)
    gap = drawn((K, 50, 50, 60, 200), (B, 70, 60, 15, 180), base=B)
    assert (clean(gap) == lamellae).all()
    large = drawn((K, 20, 20, 140, 260), (B, 40, 40, 60, 200), base=B)
    assert (clean(large) == large).all()
    beside_dermis = drawn((K, 50, 50, 60, 200), (B, 110, 50, 20, 200))
    assert (clean(beside_dermis) == beside_dermis).all()


def test_a_piece_cut_by_the_border_is_spurious_only_when_smaller_still():
    corner = drawn((E, 0, 0, 40, 40))  # 1600 px: under 4000, over a quarter of it
    assert (clean(corner) == corner).all()
    assert (clean(drawn((E, 0, 0, 20, 20))) == drawn()).all()


def test_a_speck_takes_the_class_that_most_of_its_border_touches():
    mask = drawn((B, 0, 0, 150, 300))
    mask[140:155, 100:110] = E
    cleaned = clean(mask)
    assert not (cleaned == E).any()
    assert cleaned[145, 105] == B


def test_a_mask_of_one_class_and_areas_at_another_scale():
    assert (clean(drawn(base=E)) == E).all()
    speck = drawn((E, 50, 50, 40, 40))  # 400 µm² at 0.5, 1600 µm² at 1
    cleaned = speck.copy()
    clean_labels(cleaned, 1.0, SETTINGS)
    assert (cleaned == speck).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_large_image_is_cleaned_in_blocks_as_if_it_were_whole(seed, monkeypatch):
    import cv2

    rng = np.random.default_rng(seed)
    noise = [cv2.GaussianBlur(rng.random((500, 700), np.float32), (0, 0), 2 + seed) for _ in TissueClass]
    mask = np.argmax(noise, axis=0).astype(np.uint8)
    mask[200:230] = E  # longer than any block, and large
    whole = clean(mask)
    monkeypatch.setattr(cleanup, "_BLOCK_PX", 53)
    monkeypatch.setattr(cleanup.CleanupSettings, "min_areas_um2", {B: 20, D: 35, K: 15, E: 60})
    settings = CleanupSettings(max_keratin_gap_um2=50)
    in_blocks, at_once = mask.copy(), mask.copy()
    clean_labels(in_blocks, 1.0, settings)
    monkeypatch.setattr(cleanup, "_BLOCK_PX", 4000)
    clean_labels(at_once, 1.0, settings)
    assert (in_blocks == at_once).all()
    assert (at_once != mask).any()
    assert (whole != mask).any()
