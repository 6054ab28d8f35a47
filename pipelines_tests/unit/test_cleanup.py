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


LAMELLAE = (K, 50, 50, 60, 200)
STAYS = {
    "a mixed piece of epidermis and keratin": drawn((E, 50, 50, 40, 40), (K, 45, 50, 8, 40)),
    "a papilla": drawn((D, 100, 100, 40, 40), base=E),
    "a flake of keratin on background": drawn((K, 20, 20, 10, 40), base=B),
    "background within keratin": drawn((K, 20, 20, 140, 260), (B, 40, 40, 60, 200), base=B),
    "background beside dermis": drawn(LAMELLAE, (B, 110, 50, 20, 200)),
    "a piece cut by the border over a quarter of the limit": drawn((E, 0, 0, 40, 40)),
    "one class": drawn(base=E),
}
CHANGES = {
    "a small piece beside a large island": (
        drawn((E, 50, 50, 40, 40), (E, 150, 150, 80, 80)),
        drawn((E, 150, 150, 80, 80)),
    ),
    "a speck of both": (drawn((E, 50, 50, 5, 5), (K, 45, 50, 5, 5)), drawn()),
    "holes": (drawn((B, 60, 60, 10, 10), (D, 100, 100, 20, 20), base=E), drawn(base=E)),
    "a crumb of keratin": (drawn((K, 20, 20, 5, 5), base=B), drawn(base=B)),
    "a gap between lamellae": (drawn(LAMELLAE, (B, 70, 60, 15, 180), base=B), drawn(LAMELLAE, base=B)),
    "a small piece cut by the border": (drawn((E, 0, 0, 20, 20)), drawn()),
}


@pytest.mark.parametrize("case", [*STAYS, *CHANGES])
def test_what_stays_and_what_is_cleaned(case):
    mask, expected = CHANGES.get(case) or (STAYS[case], STAYS[case])
    assert (clean(mask) == expected).all()


def test_a_speck_takes_the_class_that_most_of_its_border_touches():
    mask = drawn((B, 0, 0, 150, 300))
    mask[140:155, 100:110] = E
    cleaned = clean(mask)
    assert not (cleaned == E).any()
    assert cleaned[145, 105] == B


def test_areas_are_those_of_the_scale():
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
