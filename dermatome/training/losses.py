"""Losses for semantic maps, and class weights from the number of pixels of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from dermatome.classes import IGNORED
from dermatome.errors import BadSetting
from dermatome.inference.torch_setup import import_smp

if TYPE_CHECKING:
    import torch

LossName = Literal["dice_focal", "dice", "focal", "cross_entropy", "tversky"]
ClassWeighting = Literal["equal", "inverse", "inverse_root"]


def make_loss(
    name: LossName, *, dice_weight: float = 1.0, focal_weight: float = 1.0, class_weights: Sequence[float] | None = None
) -> torch.nn.Module:
    """A loss of (N, C, H, W) logits and (N, H, W) int64 classes that ignores the pixels :data:`IGNORED`.

    ``dice`` (Milletari et al., 2016) measures the overlap of each class, so rare classes count as much as common ones.
    ``focal`` (Lin et al., 2017) gives confident pixels little weight. ``dice_focal`` is their weighted sum. ``tversky``
    (Salehi et al., 2017) is ``dice`` in which a missed pixel counts more (0.7) than a false one (0.3).

    Raises:
        BadSetting: there is no loss of that name.
    """
    import torch

    if name not in get_args(LossName):
        raise BadSetting(f"There is no loss {name!r}: use one of {', '.join(get_args(LossName))}.")
    losses = import_smp().losses
    weights = None if class_weights is None else list(class_weights)
    options: dict[str, Any] = {"mode": "multiclass", "class_weights": weights, "ignore_index": IGNORED}
    dice = losses.DiceLoss(**options)
    focal = losses.FocalLoss(**options, gamma=2.0)
    balance = None if weights is None else torch.tensor(weights, dtype=torch.float32)
    parts = {
        "cross_entropy": [(1.0, torch.nn.CrossEntropyLoss(balance, ignore_index=IGNORED))],
        "dice": [(1.0, dice)],
        "focal": [(1.0, focal)],
        "dice_focal": [(dice_weight, dice), (focal_weight, focal)],
        "tversky": [(1.0, losses.TverskyLoss(**options, alpha=0.3, beta=0.7))],
    }[name]

    class WeightedSum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList([part for _, part in parts])

        def forward(self, logits: torch.Tensor, truth: torch.Tensor) -> Any:
            if not bool((truth != IGNORED).any()):  # the mean over no pixels would be NaN
                return 0 * logits.sum()
            return sum(weight * part(logits, truth) for (weight, _), part in zip(parts, self.parts, strict=True))

    return WeightedSum()


def class_weights(pixels: npt.NDArray[np.int64], how: ClassWeighting) -> tuple[float, ...] | None:
    """Class weights from numbers of pixels, with a mean of 1.

    Args:
        pixels: (C,) pixels of each class in the training tiles.
        how: ``equal`` returns None; ``inverse`` is one over the share of pixels; ``inverse_root`` is its square root,
            which is gentler if a class is very rare.

    Returns:
        C numbers. A class without pixels gets the mean of the others.
    """
    if how == "equal":
        return None
    there = pixels > 0
    weights = np.ones(len(pixels))
    weights[there] = (pixels.sum() / pixels[there]) ** (1.0 if how == "inverse" else 0.5)
    weights[there] /= weights[there].mean()
    return tuple(float(weight) for weight in weights)
