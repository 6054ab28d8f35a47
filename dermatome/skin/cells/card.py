"""The card of a cell network: a network of Cellpose's form, and how its input is prepared."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from dermatome.training.weights import WeightsCard

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CellCard(WeightsCard):
    """What a cell weights file holds and how to use it.

    Attributes:
        nbase: channels of the input and of each level, finest first.
        diameter_px: mean diameter of the objects it was trained on, and at which it works best.
        diameter_um: the same in microns, assumed for objects if no diameter is given. ``None`` if it is estimated.
        preparation: how its input is prepared (:data:`dermatome.skin.cells.image.PREPARATION`).
        trained_on: in words.
    """

    nbase: tuple[int, ...]
    diameter_px: float
    diameter_um: float | None
    preparation: str
    trained_on: str
    _: KW_ONLY
    licence: str = "MIT"
    format: str = "dermatome-cellpose-1"

    same_network = ("nbase", "diameter_px")
    # Two numbers that the network carries along, which Cellpose's older files lack; and batch counters it never reads.
    optional_tensors = ("diam_mean", "diam_labels", "num_batches_tracked")

    def build(self) -> torch.nn.Module:
        """The untrained network that the weights belong to."""
        return build_cpnet(self.nbase, self.diameter_px)

    def check(self) -> None:
        """Checks channels and diameter."""
        usable = len(self.nbase) == 5 and all(1 <= n <= 1024 for n in self.nbase) and 1 <= self.diameter_px <= 1000
        if not usable:
            raise ValueError("its channels or diameter are impossible")


def build_cpnet(nbase: tuple[int, ...], diameter_px: float) -> torch.nn.Module:
    """An untrained Cellpose network with three outputs: flow down, flow right, cell logit.

    Its MKL-DNN flag stays off: it converts the layers one way for good, and is slower than channels-last.
    """
    import torch
    from cellpose.resnet_torch import CPnet

    class MeanStyle(torch.nn.Module):
        """The same as Cellpose's, without a pooling window that OpenVINO cannot take from the image's size."""

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            style = features.mean(dim=(2, 3))
            return style / torch.sum(style**2, dim=1, keepdim=True) ** 0.5

    network: torch.nn.Module = CPnet(
        nbase=list(nbase), nout=3, sz=3, mkldnn=False, conv_3D=False, max_pool=True, diam_mean=diameter_px
    )
    network.make_style = MeanStyle()
    return network
