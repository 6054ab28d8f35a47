"""Small images of round, purple cells with their truth beside them, as people would put them into a folder."""

from pathlib import Path

import numpy as np
from PIL import Image

SIDE_PX = 112


def labels_of(seed: int) -> np.ndarray:
    """(H, W) int32: discs of 7 to 9 px radius that do not touch."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    labels = np.zeros((SIDE_PX, SIDE_PX), np.int32)
    for number, (row, column) in enumerate(((r, c) for r in range(14, 112, 28) for c in range(14, 112, 28)), 1):
        y, x = row + rng.uniform(-4, 4), column + rng.uniform(-4, 4)
        labels[(rows - y) ** 2 + (columns - x) ** 2 < rng.uniform(7, 9) ** 2] = number
    return labels


def image_of(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Cells as hematoxylin shows them, on pale tissue, with noise."""
    colours = np.where(labels[..., None] > 0, (95, 75, 150), (225, 205, 220))
    noise = np.random.default_rng(seed).normal(0, 6, labels.shape)[..., None]
    return np.clip(colours + noise, 0, 255).astype(np.uint8)


def write_set(folder: Path, seeds: range) -> Path:
    """Images `i<seed>.png` and label images beside them."""
    folder.mkdir(parents=True)
    for seed in seeds:
        labels = labels_of(seed)
        Image.fromarray(image_of(labels, seed)).save(folder / f"i{seed}.png")
        Image.fromarray(labels.astype(np.uint16)).save(folder / f"i{seed}_labels.png")
    return folder
