"""Drawn masks: what is a speck, what is a hole, what stays."""

import numpy as np
import pytest

from dermatome.classes import TissueClass
from dermatome.errors import BadSetting
from dermatome.skin.cleanup import CleanupSettings, clean_mask

B, D, E, K = TissueClass
MPP = 0.5
SETTINGS = CleanupSettings(
    min_epidermis_um2=1000,
    min_keratin_um2=60,
    min_dermis_um2=150,
    min_background_um2=100,
    max_keratin_gap_um2=2000,
    border_share=0.25,
)  # 4000, 240, 600, 400 and 8000 px


def drawn(*patches, base=D, size=(300, 300)):
    mask = np.full(size, base, dtype=np.uint8)
    for tissue, top, left, height, width in patches:
        mask[top : top + height, left : left + width] = tissue
    return mask


def clean(mask):
    before = mask.copy()
    cleaned = clean_mask(mask, MPP, SETTINGS)
    assert (mask == before).all()  # a pure function
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
    assert (clean_mask(speck, 1.0, SETTINGS) == speck).all()


def test_negative_areas_are_refused():
    with pytest.raises(BadSetting, match="negative"):
        CleanupSettings(min_dermis_um2=-1)
