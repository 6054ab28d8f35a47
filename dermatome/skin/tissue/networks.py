"""Finds the network for tissue: the champion or, until there is one, the starter."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.errors import BadWeights
from dermatome.registry.champion import Weights, find_champion
from dermatome.registry.model_kinds import TISSUE
from dermatome.storage.files import sha256_file

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.skin.tissue.segment import TissueNetwork
    from dermatome.skin.tissue.settings import TissueSettings
    from dermatome.storage.layout import DataRoot

STARTER = "starter"
STARTER_WEIGHTS = Path(__file__).parents[2] / "synthetic" / "tissue_starter.safetensors"
"""Weights of the shipped network, which was trained on synthetic skin only (:mod:`dermatome.skin.tiles.varied`)."""


def weights_path(named: str | Path) -> Path:
    """The weights file for a name or path; ``starter`` is the shipped one."""
    return STARTER_WEIGHTS if str(named) == STARTER else Path(named)


def find_tissue_weights(root: DataRoot) -> Weights:
    """The champion or, if there is none, the starter."""
    return find_champion(root, TISSUE, partial(tissue_weights_named, root, STARTER))


def tissue_weights_named(root: DataRoot, named: str | Path) -> Weights:
    """The starter, or the weights file at a path.

    Raises:
        BadWeights: there is no such file.
    """
    path = weights_path(named)
    if not path.is_file():
        raise BadWeights(f"There are no tissue weights at {path}: check the path, or name 'starter'.")
    return Weights(root, TISSUE, path.name if path != STARTER_WEIGHTS else STARTER, sha256_file(path), file=path)


def load_tissue(
    weights: Weights, compute: Compute, settings: TissueSettings, kept: Path | None = None
) -> TissueNetwork:
    """Loads the network on the device; see :func:`dermatome.skin.tissue.segment.prepare_tissue`.

    Raises:
        BadWeights: the file is missing, damaged or not the one that was chosen.
    """
    from dermatome.skin.tissue.network import load_tissue_weights
    from dermatome.skin.tissue.segment import prepare_tissue

    loaded = weights.load(partial(load_tissue_weights, later=True))
    return prepare_tissue(loaded, compute, settings, kept or weights.root.prepared)
