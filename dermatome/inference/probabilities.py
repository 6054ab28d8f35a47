"""A network with its normalisation and softmax as one module: images in, probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dermatome.errors import BadSetting

VIEWS = (1, 2, 4, 8)


class Probabilities(torch.nn.Module):
    """Maps (N, H, W, 3) uint8 images to (N, C, H, W) float32 probabilities, with a softmax over each head.

    H and W are multiples of 32; with more than two views they must be equal.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        views: int = 1,
        heads: Sequence[int] | None = None,
    ) -> None:
        """Wraps ``network``, which maps normalised (N, 3, H, W) images to logits.

        Args:
            network: a network in evaluation mode.
            mean: mean of the normalisation, on the scale 0 to 1.
            std: its standard deviation, on the same scale.
            views: 1, 2, 4 or 8 flips and quarter turns of each image, over which probabilities are averaged.
            heads: number of channels of each head, in order; None for a single head.

        Raises:
            BadSetting: ``views`` has another value.
        """
        super().__init__()
        if views not in VIEWS:
            raise BadSetting(f"The number of views is {views}: use 1, 2, 4 or 8.")
        self.network, self.views, self.heads = network, views, None if heads is None else list(heads)
        self.register_buffer("centre", torch.tensor(mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("spread", torch.tensor(std).view(1, 3, 1, 1) * 255)

    centre: torch.Tensor
    spread: torch.Tensor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        # (N, H, W, 3) permuted is already channels-last, so nothing is copied.
        batch = (images.permute(0, 3, 1, 2).float() - self.centre) / self.spread
        total: Any = None
        for view in range(self.views):
            flip, turns = view >= 4 or (self.views == 2 and view == 1), view % 4 if self.views > 2 else 0
            logits = self.network(_turned(batch.flip(-1) if flip else batch, turns))
            back = _turned(self._softmax(logits.float()), -turns % 4)
            back = back.flip(-1) if flip else back
            total = back if total is None else total + back
        averaged: torch.Tensor = total / self.views
        return averaged

    def _softmax(self, logits: torch.Tensor) -> torch.Tensor:
        if self.heads is None:
            return torch.softmax(logits, dim=1)
        return torch.cat([torch.softmax(head, dim=1) for head in torch.split(logits, self.heads, dim=1)], dim=1)


def _turned(batch: torch.Tensor, turns: int) -> torch.Tensor:
    """Rotates by quarter turns, composed of flips, which every backend supports."""
    if turns == 0:
        return batch
    if turns == 2:
        return batch.flip((-2, -1))
    return batch.transpose(-2, -1).flip(-2 if turns == 1 else -1)
