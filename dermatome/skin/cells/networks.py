"""Finds the network for cells: the champion, or the one that the settings name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.errors import BadWeights
from dermatome.registry.champion import Weights, find_champion
from dermatome.registry.model_kinds import CELLS
from dermatome.storage.files import sha256_file

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.inference.segmenter import Segmenter
    from dermatome.skin.cells.network import CellNetwork
    from dermatome.storage.layout import DataRoot


def find_cell_weights(root: DataRoot, named: str, segmenter: str = "cellpose") -> Weights:
    """The champion, or the network that `cell_weights` names if there is no champion or if it is ``settings``.

    Only Cellpose's networks have champions: with another ``segmenter``, `cell_weights` is used.

    Raises:
        BadSetting: the segmenter needs a network, but none is named.
        BadWeights: the settings name a file that does not exist.
        FetchFailed: ``cyto2`` is not in the data root's `models/` and could not be fetched.
    """
    if segmenter != "cellpose":
        return cell_weights_named(root, named, segmenter)
    return find_champion(root, CELLS, partial(cell_weights_named, root, named))


def cell_weights_named(root: DataRoot, named: str, segmenter: str = "cellpose", models: Path | None = None) -> Weights:
    """The network ``cyto2`` (fetched if missing), ``toy``, or the weights file at a path; see above.

    ``models`` is the folder of networks from elsewhere, by default the data root's.
    """
    from dermatome.skin.cells import cyto2
    from dermatome.skin.cells.network import TOY_WEIGHTS
    from dermatome.skin.cells.segmenters import WATERSHED_SHA256, segmenter_file

    models = models or root.models
    if segmenter == "watershed":
        return Weights(root, CELLS, segmenter, WATERSHED_SHA256, file=models)
    if segmenter != "cellpose":
        path = segmenter_file(models, named, segmenter)
        if not path.is_file():
            raise BadWeights(
                f"There is no network for the segmenter {segmenter} at {path}: take it over with 'dermatome models "
                "get', or name its file."
            )
        return Weights(root, CELLS, path.stem, sha256_file(path), file=path)
    if named == "cyto2":
        folder = cyto2.fetch_cyto2(models)
        return Weights(root, CELLS, named, sha256_file(folder / cyto2.NETWORK_FILE), file=folder)
    path = TOY_WEIGHTS if named == "toy" else Path(named)
    if not path.is_file():
        raise BadWeights(f"There are no cell network weights at {path}: check the path, or name 'cyto2' or 'toy'.")
    return Weights(root, CELLS, named, sha256_file(path), file=path)


def load_cells(
    weights: Weights, compute: Compute, segmenter: str = "cellpose", kept: Path | None = None
) -> CellNetwork | Segmenter:
    """Loads the network or method for cells on the device; see :func:`dermatome.skin.cells.network.load_cell_network`.

    Raises:
        BadWeights: the file is missing, damaged, not a Cellpose network, or not the one that was chosen.
    """
    from dermatome.skin.cells.network import load_cell_network
    from dermatome.skin.cells.segmenters import load_segmenter

    if segmenter != "cellpose":
        return weights.load(partial(load_segmenter, compute=compute, method=segmenter))
    return weights.load(partial(load_cell_network, compute=compute, kept=kept or weights.root.prepared))
