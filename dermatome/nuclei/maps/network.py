"""The nucleus network: a U-Net with a semantic and a ternary head on its decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.classes import NUCLEUS_LABELS, TERNARY_LABELS, NucleusClass
from dermatome.training.unet import build_network
from dermatome.training.weights import LoadedWeights, UNetCard, load_weights

if TYPE_CHECKING:
    import torch

    from dermatome.training.encoder_weights import EncoderFile

DECODER_CHANNELS = (256, 128, 64, 32, 16)
SEMANTIC = slice(0, len(NUCLEUS_LABELS))
"""Semantic channels of the output."""
TERNARY = slice(len(NUCLEUS_LABELS), len(NUCLEUS_LABELS) + len(TERNARY_LABELS))
"""Ternary channels of the output."""
HEADS = (len(NUCLEUS_LABELS), len(TERNARY_LABELS))
"""Number of channels of each head."""
CHANNELS = TERNARY.stop
BACKGROUND_CHANNELS = (SEMANTIC.start, TERNARY.start)
"""Background channel of each head."""
BEFORE_HEADS = "base.segmentation_head"
"""Name of the empty layer whose input both heads share; in training, spatial dropout precedes it."""


def build_two_heads(
    encoder: str,
    decoder_channels: Sequence[int] = DECODER_CHANNELS,
    *,
    head_kernel_px: int = 3,
    encoder_file: EncoderFile | None = None,
) -> torch.nn.Module:
    """A U-Net (Ronneberger et al., 2015) of segmentation-models-pytorch with two convolutions on its decoder as heads.

    Its output is (N, 8, H, W) logits: five of :class:`~dermatome.classes.NucleusClass`, then three of
    :class:`~dermatome.classes.TernaryClass`. The names in its state dict are ``base.encoder.*``, ``base.decoder.*``,
    ``sem_head.*`` and ``ter_head.*``.

    Args:
        encoder: name of an encoder in segmentation-models-pytorch, for example ``resnet34``.
        decoder_channels: channels of the five decoder stages, coarsest first.
        head_kernel_px: side of the heads' kernels, px, odd.
        encoder_file: pretrained weights of the encoder; None starts from random weights.

    Raises:
        BadSetting: there is no such encoder, or it does not fit a U-Net of this depth.
        BadWeights: the pretrained weights do not fit the encoder.
    """
    import torch

    class TwoHeads(torch.nn.Module):
        def __init__(self, base: torch.nn.Module) -> None:
            super().__init__()
            base.segmentation_head = torch.nn.Identity()
            self.base = base
            options: dict[str, Any] = {"kernel_size": head_kernel_px, "padding": head_kernel_px // 2}
            self.sem_head = torch.nn.Conv2d(decoder_channels[-1], len(NUCLEUS_LABELS), **options)
            self.ter_head = torch.nn.Conv2d(decoder_channels[-1], len(TERNARY_LABELS), **options)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = self.base(images)  # (N, 16, H, W)
            return torch.cat([self.sem_head(features), self.ter_head(features)], dim=1)

    return TwoHeads(build_network(encoder, 1, decoder_channels, encoder_file))


@dataclass(frozen=True)
class NucleusCard(UNetCard):
    """Describes a nucleus weights file and how to use it.

    There is a single pass over a slide, at ``mpp``, so ``coarse_mpp`` is the same.

    Attributes:
        ternary: labels of the ternary channels, in order.
        created_from: the patients it was trained on, including those of its parent weights.
        normalised_stain: whether the stain of its training patches was normalised; that of slides is then too.
        has_classes: whether any training nucleus had a class; otherwise its nuclei are unclassified.
    """

    classes: tuple[str, ...] = NUCLEUS_LABELS
    palette: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {c.label: c.colour for c in NucleusClass})
    ternary: tuple[str, ...] = TERNARY_LABELS
    normalised_stain: bool = False
    has_classes: bool = True
    _: KW_ONLY
    licence: str = "that of the training patches"
    architecture: str = "unet_two_heads"
    format: str = "dermatome-nuclei-1"

    architectures = ("unet_two_heads",)
    import_prefix = "base."
    ignored_tensors = ("base.segmentation_head.",)
    heads = {"sem_head": NUCLEUS_LABELS, "ter_head": TERNARY_LABELS}

    def build(self) -> torch.nn.Module:
        """Builds the untrained network that the weights fit."""
        return build_two_heads(self.encoder, self.decoder_channels, head_kernel_px=self.head_kernel_px)


def load_nucleus_weights(path: Path, *, later: bool = False) -> LoadedWeights[NucleusCard]:
    """Loads the nucleus network at ``path``, in evaluation mode on the CPU; see :func:`load_weights`."""
    return load_weights(path, NucleusCard, later=later)
