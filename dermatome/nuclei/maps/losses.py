"""The loss of the two heads, class weights of the ternary map, and the sampling of patches with immune cells.

The numbers are those of the source system. Its ternary class weights are the inverse of the class frequency, within
limits, so that the thin boundary does not grow a halo. The Dice loss of the ternary map has the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from dermatome.classes import IGNORED, NucleusClass, TernaryClass
from dermatome.nuclei.maps.network import SEMANTIC, TERNARY
from dermatome.storage.settings_model import SettingsModel

if TYPE_CHECKING:
    import torch

_TINY = 1e-6


class NucleusLoss(SettingsModel):
    """Settings of the loss, the weighted sum of both heads' losses."""

    semantic_weight: float = Field(default=0.3, ge=0, description="Weight of the semantic Dice loss.")
    ternary_weight: float = Field(
        default=1.0, ge=0, description="Weight of the ternary loss: focal cross entropy plus weighted Dice."
    )
    ternary_dice_weight: float = Field(default=0.5, ge=0, description="Weight of Dice in the ternary loss.")
    focal_gamma: float = Field(
        default=2.0,
        ge=0,
        description="How much less confident pixels count (Lin et al., 2017); 0 is plain cross entropy.",
    )
    boundary_weighting: bool = Field(
        default=False, description="Whether ternary classes are weighted by the inverse of their frequency."
    )
    least_weight: float = Field(
        default=0.05,
        gt=0,
        description="Lower limit of a ternary class weight, before the weights are scaled to a mean of 1.",
    )
    most_weight: float = Field(default=10.0, description="Upper limit.")
    most_boundary_weight: float = Field(default=2.0, description="Upper limit of the boundary's weight.")

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.semantic_weight + self.ternary_weight == 0:
            raise ValueError("the weights of the two heads' losses must not both be 0")
        if self.least_weight > min(self.most_weight, self.most_boundary_weight):
            raise ValueError("the lower limit of the ternary weights must not be above the upper limits")
        return self


class ImmuneSampling(SettingsModel):
    """How much more often patches with immune cells are sampled; factors multiply."""

    enabled: bool = Field(default=True, description="Whether patches with immune cells are sampled more often.")
    lymphocyte: float = Field(default=2.0, gt=0, description="Factor for patches with lymphocytes.")
    neutrophil: float = Field(default=8.0, gt=0, description="Factor for patches with neutrophils.")
    macrophage: float = Field(default=8.0, gt=0, description="Factor for patches with macrophages.")
    both: float = Field(default=1.5, gt=0, description="Factor for patches with neutrophils and macrophages.")
    lymphocyte_px: int = Field(default=25, description="Smallest number of lymphocyte pixels that counts.")
    neutrophil_px: int = Field(default=10, description="Smallest number of neutrophil pixels that counts.")
    macrophage_px: int = Field(default=10, description="Smallest number of macrophage pixels that counts.")

    def weights(self, pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """(N,) relative sampling probability of each patch, from (N, 5) pixels of each :class:`NucleusClass` in it."""
        lymphocytes = pixels[:, NucleusClass.LYMPHOCYTE] >= self.lymphocyte_px
        neutrophils = pixels[:, NucleusClass.NEUTROPHIL] >= self.neutrophil_px
        macrophages = pixels[:, NucleusClass.MACROPHAGE] >= self.macrophage_px
        factors = (
            (lymphocytes, self.lymphocyte),
            (neutrophils, self.neutrophil),
            (macrophages, self.macrophage),
            (neutrophils & macrophages, self.both),
        )
        chances = np.ones(len(pixels))
        for there, factor in factors:
            chances[there] *= factor
        return chances


def ternary_weights(pixels: npt.NDArray[np.int64], how: NucleusLoss) -> tuple[float, ...] | None:
    """Class weights of the ternary map with a mean of 1; None if all classes have the same weight.

    Args:
        pixels: (3,) pixels of each :class:`TernaryClass` in the training patches.
        how: whether to weight classes, and the limits of weights.
    """
    if not how.boundary_weighting:
        return None
    inverse = pixels.sum() / np.maximum(pixels, 1)
    capped = (inverse / inverse.mean()).clip(how.least_weight, how.most_weight)
    capped[TernaryClass.BOUNDARY] = min(capped[TernaryClass.BOUNDARY], how.most_boundary_weight)
    return tuple(float(weight) for weight in capped / capped.mean())


def make_nucleus_loss(how: NucleusLoss, weights: Sequence[float] | None) -> torch.nn.Module:
    """The loss of (N, 8, H, W) logits and (N, H, W, 2) int64 labels, semantic and ternary.

    Pixels that are :data:`~dermatome.classes.IGNORED` in a map do not count in the loss of its head.
    """
    import torch

    class TwoHeadLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weights", torch.tensor(list(weights or (1.0,) * len(TernaryClass))))

        weights: torch.Tensor

        def forward(self, logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
            semantic = _dice_loss(logits[:, SEMANTIC], truth[..., 0], None)
            ternary = _focal_loss(logits[:, TERNARY], truth[..., 1], self.weights, how.focal_gamma)
            ternary = ternary + how.ternary_dice_weight * _dice_loss(logits[:, TERNARY], truth[..., 1], self.weights)
            total: torch.Tensor = how.semantic_weight * semantic + how.ternary_weight * ternary
            return total

    return TwoHeadLoss()


def _dice_loss(logits: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor | None) -> Any:
    """1 - soft Dice (Milletari et al., 2016) of each class over the whole batch, averaged by ``weights``."""
    import torch

    classes = logits.shape[1]
    known = (truth != IGNORED)[:, None]  # (N, 1, H, W)
    found = torch.softmax(logits, dim=1) * known
    wanted = torch.nn.functional.one_hot(truth.clamp(max=classes - 1), classes).permute(0, 3, 1, 2) * known
    both, either = (found * wanted).sum(dim=(0, 2, 3)), (found + wanted).sum(dim=(0, 2, 3))
    missed = 1 - (2 * both + _TINY) / (either + _TINY)  # (C,)
    return missed.mean() if weights is None else (missed * weights).sum() / weights.sum()


def _focal_loss(logits: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor, gamma: float) -> Any:
    """Cross entropy that counts a pixel by (1 - p)^gamma (Lin et al., 2017), averaged over the known pixels."""
    import torch

    known = truth != IGNORED
    target = truth.clamp(max=logits.shape[1] - 1)
    log_p = torch.log_softmax(logits, dim=1).gather(1, target[:, None])[:, 0]  # (N, H, W)
    loss = -weights[target] * (1 - log_p.exp()) ** gamma * log_p
    return (loss * known).sum() / known.sum().clamp(min=1)
