"""Finds the network for nuclei: the champion, or the one that the settings name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.errors import BadWeights, MissingInput
from dermatome.registry.champion import Weights, find_champion
from dermatome.registry.model_kinds import NUCLEI
from dermatome.storage.files import sha256_file
from dermatome.storage.record import require_record

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.nuclei.maps.segment import NucleusNetwork
    from dermatome.nuclei.maps.settings import NucleusSettings
    from dermatome.storage.layout import DataRoot

TOY_WEIGHTS = Path(__file__).parents[2] / "synthetic" / "nuclei_toy.safetensors"
"""Weights of the shipped network, trained on synthetic nuclei (:mod:`dermatome.synthetic.train_networks`)."""


def weights_path(named: str) -> Path:
    """The weights file for a name or path; ``toy`` is the shipped one."""
    return TOY_WEIGHTS if named == "toy" else Path(named)


def find_nucleus_weights(root: DataRoot, named: str) -> Weights:
    """The champion, or the network that the settings name if there is no champion or if it is ``settings``.

    Raises:
        MissingInput: there is no champion, and ``named`` is empty.
        BadWeights: the settings name a version or file that does not exist.
    """
    return find_champion(root, NUCLEI, partial(nucleus_weights_named, root, named))


def nucleus_weights_named(root: DataRoot, named: str) -> Weights:
    """The named training version, ``toy``, or the weights file at a path; errors as for find_nucleus_weights."""
    if not named:
        raise MissingInput(
            "There is no champion yet, the network that finds nuclei: materialize nuclei_weights for a training "
            "version, then nuclei_champion; or set nuclei_weights in settings.toml to a version, a weights file, or "
            "'toy', the network for toy slides."
        )
    versions = root.partitions(NUCLEI.weights)
    if named in versions:
        return Weights(root, NUCLEI, named, str(require_record(root, NUCLEI.weights, named).values["weights_sha256"]))
    path = weights_path(named)
    if not path.is_file():
        raise BadWeights(
            f"There are no weights of nuclei named {named!r}: name a training version "
            f"({', '.join(versions) or 'none so far'}), a weights file, or 'toy'."
        )
    return Weights(root, NUCLEI, named, sha256_file(path), file=path)


def load_nuclei(
    weights: Weights, compute: Compute, settings: NucleusSettings, kept: Path | None = None
) -> NucleusNetwork:
    """Loads the network on the device; see :func:`dermatome.nuclei.maps.segment.prepare_nuclei`.

    Raises:
        BadWeights: the file is missing, damaged or not the one that was chosen.
    """
    from dermatome.nuclei.maps.network import load_nucleus_weights
    from dermatome.nuclei.maps.segment import prepare_nuclei

    loaded = weights.load(partial(load_nucleus_weights, later=True))
    return prepare_nuclei(loaded, compute, settings, kept or weights.root.prepared)
