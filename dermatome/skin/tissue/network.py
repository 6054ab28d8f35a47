"""The tissue network: a U-Net with four output channels, and the card of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from dermatome.classes import TISSUE_LABELS, TissueClass
from dermatome.training.weights import LoadedWeights, UNetCard, load_weights


@dataclass(frozen=True)
class TissueCard(UNetCard):
    """Describes a tissue weights file and how to use it."""

    classes: tuple[str, ...] = TISSUE_LABELS
    palette: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {c.label: c.colour for c in TissueClass})
    _: KW_ONLY
    licence: str = "that of the training tiles"
    format: str = "dermatome-tissue-1"

    heads = {"segmentation_head.0": TISSUE_LABELS}

    def inherited_settings(self) -> dict[str, Any]:
        """Encoder, decoder and scale, which a fine-tuned network inherits; its weights are the parent's."""
        return {**super().inherited_settings(), "encoder_weights": None, "train_mpp": self.mpp}


TissueWeights = LoadedWeights[TissueCard]


def load_tissue_weights(path: Path, *, later: bool = False) -> TissueWeights:
    """Loads the tissue network at ``path``, in evaluation mode on the CPU; see :func:`load_weights`."""
    return load_weights(path, TissueCard, later=later)
