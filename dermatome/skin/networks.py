"""Which networks masks and cells are made with, as it is sent to workers, which load them for themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.errors import BadWeights
from dermatome.registry.model_kinds import CELLS
from dermatome.storage.files import sha256_file
from dermatome.storage.layout import CHAMPION, WEIGHTS_FILE, DataRoot
from dermatome.storage.record import read_record

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.skin.cells.network import CellNetwork
    from dermatome.training.weights import LoadedWeights


@dataclass(frozen=True)
class Champion:
    """The weights that masks are made with, as they were promoted.

    Attributes:
        root: the data root.
        version: the training version they are of.
        sha256: that they must have.
        data_version: of `tissue_champion`.
    """

    root: DataRoot
    version: str
    sha256: str
    data_version: str

    @classmethod
    def of(cls, root: DataRoot) -> Champion | None:
        """The champion as it is now; ``None`` where none was promoted yet."""
        record = read_record(root.record("tissue_champion", CHAMPION))
        if record is None:
            return None
        return cls(root, str(record.values["version"]), str(record.values["weights_sha256"]), record.data_version)

    def load(self, compute: Compute) -> LoadedWeights:
        """The network on the device.

        Raises:
            BadWeights: the file is gone, damaged or not the one that was promoted.
        """
        from dermatome.training.weights import load_weights

        loaded = load_weights(self.root.folder("tissue_weights", self.version) / WEIGHTS_FILE)
        if loaded.sha256 != self.sha256:
            raise BadWeights(
                f"The weights {self.version} are not those that were promoted (sha256 {loaded.sha256[:12]}… instead of "
                f"{self.sha256[:12]}…): materialize tissue_champion to promote it as it is now."
            )
        loaded.network.to(compute.torch_device)
        return loaded


NO_CHAMPION = "NULL"
"""What Dagster takes for the data version of an asset that was never made."""


@dataclass(frozen=True)
class CellWeights:
    """The network that finds cells.

    Attributes:
        weights: ``cyto2``, ``toy``, the path of a weights file, or the champion's version.
        models_folder: where the files of ``cyto2`` lie.
        sha256: of the weights file.
        data_version: of `cell_champion`.
        root: the data root of a champion; ``None`` for the network that the settings name.
    """

    weights: str
    models_folder: Path
    sha256: str
    data_version: str = NO_CHAMPION
    root: DataRoot | None = None

    @classmethod
    def of(cls, weights: str, models_folder: Path) -> CellWeights:
        """The network of that name or path; ``cyto2`` is fetched into ``models_folder`` where it is not there.

        Raises:
            BadWeights: there is no such file.
            FetchFailed: ``cyto2`` could not be fetched.
        """
        from dermatome.skin.cells import cyto2
        from dermatome.skin.cells.network import TOY_WEIGHTS

        if weights == "cyto2":
            return cls(weights, models_folder, sha256_file(cyto2.fetch_cyto2(models_folder) / cyto2.NETWORK_FILE))
        path = TOY_WEIGHTS if weights == "toy" else Path(weights)
        if not path.is_file():
            raise BadWeights(f"There are no cell network weights at {path}: check the path, or name 'cyto2' or 'toy'.")
        return cls(weights, models_folder, sha256_file(path))

    @classmethod
    def chosen(cls, root: DataRoot, named: str) -> CellWeights:
        """The champion of the data root; until there is one, or where it is the settings', the network they name.

        Args:
            root: the data root.
            named: by the settings: ``cyto2``, ``toy`` or the path of a weights file.

        Raises:
            BadWeights: there is no such file.
            FetchFailed: ``cyto2`` is not in the data root's `models/` and could not be fetched.
        """
        record = read_record(root.record("cell_champion", CHAMPION))
        if record is None:
            return cls.of(named, root.models)
        if record.values["version"] == "settings":
            return replace(cls.of(named, root.models), data_version=record.data_version)
        values = record.values
        return cls(str(values["version"]), root.models, str(values["weights_sha256"]), record.data_version, root)

    def load(self, compute: Compute) -> CellNetwork:
        """The network on the device, ready to run; see :func:`dermatome.inference.backends.prepare_runner`.

        Raises:
            BadWeights: the file is missing, damaged, not a Cellpose network, or not the one of :attr:`sha256`.
        """
        from dermatome.skin.cells.network import load_cell_network

        if self.root is not None:
            folder = self.root.folder(CELLS.weights, self.weights)
            network = load_cell_network(folder / WEIGHTS_FILE, compute)
        elif self.weights == "cyto2":
            network = load_cell_network(self.weights, compute, models_folder=self.models_folder)
        else:
            network = load_cell_network(self.weights, compute)
        if network.sha256 != self.sha256:
            mend = "cell_champion to promote it as it is now" if self.root else "cell_masks again"
            raise BadWeights(
                f"The cell network {self.weights!r} is not the one that was chosen (sha256 {network.sha256[:12]}… "
                f"instead of {self.sha256[:12]}…): materialize {mend}."
            )
        return network
