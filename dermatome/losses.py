"""Losses for semantic maps, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from dermatome.errors import BadSetting
from dermatome.torch_setup import import_smp

if TYPE_CHECKING:
    import torch

LossName = Literal["dice_focal", "dice", "focal", "cross_entropy"]


def make_loss(name: LossName, label_smoothing: float = 0.0) -> torch.nn.Module:
    """A loss of (N, C, H, W) logits and (N, H, W) int64 classes.

    ``dice_focal`` adds the Dice loss (Milletari et al., 2016: overlap by class, so rare classes count like common
    ones) and the focal loss (Lin et al., 2017: pixels that are already sure count little), both with equal weight.

    Args:
        name: which.
        label_smoothing: of the cross entropy only.

    Raises:
        BadSetting: there is no loss of that name.
    """
    import torch

    smp = import_smp()
    dice = smp.losses.DiceLoss(mode="multiclass", from_logits=True)
    focal = smp.losses.FocalLoss(mode="multiclass", gamma=2.0)

    class Sum(torch.nn.Module):
        def __init__(self, *parts: torch.nn.Module) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList(parts)

        def forward(self, logits: torch.Tensor, truth: torch.Tensor) -> Any:
            return sum(part(logits, truth) for part in self.parts)

    if name == "dice_focal":
        return Sum(dice, focal)
    if name == "dice":
        return Sum(dice)
    if name == "focal":
        return Sum(focal)
    if name == "cross_entropy":
        return torch.nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    raise BadSetting(f"There is no loss {name!r}: use one of {', '.join(get_args(LossName))}.")
