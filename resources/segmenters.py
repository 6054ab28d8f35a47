"""The networks that masks and cells are made with: loaded once in a process, their sha256 known."""

from dataclasses import dataclass

import dagster as dg
from pydantic import PrivateAttr

from dermatome.compute import Compute
from dermatome.data_root import CHAMPION, WEIGHTS_FILE, DataRoot
from dermatome.errors import BadWeights, MissingInput
from dermatome.files import local_copy
from dermatome.skin import cyto2
from dermatome.skin.cell_network import CellNetwork, load_cell_network
from dermatome.stage_record import StageRecord, read_record
from dermatome.weights import LoadedWeights, load_weights
from resources.settings import SettingsResource


def champion_record(root: DataRoot) -> StageRecord:
    """The record of the champion.

    Raises:
        MissingInput: there is none yet.
    """
    record = read_record(root.record("tissue_champion", CHAMPION))
    if record is None:
        raise MissingInput(
            "There is no champion yet to make masks with: materialize tissue_weights for a training version, then "
            "tissue_champion."
        )
    return record


@dataclass(frozen=True)
class Champion:
    """The champion as it was at one moment: its record and the weights that the record names."""

    record: StageRecord
    weights: LoadedWeights


class TissueSegmenterResource(dg.ConfigurableResource):
    """The champion's U-Net."""

    _loaded: LoadedWeights | None = PrivateAttr(default=None)

    def load(self, root: DataRoot, compute: Compute) -> Champion:
        """The champion, its weights on the device; they are loaded again only when it has changed.

        Raises:
            MissingInput: no champion.
            BadWeights: its file is gone, damaged or not the one that was promoted.
        """
        record = champion_record(root)
        promoted = record.values["weights_sha256"]
        if self._loaded is None or self._loaded.sha256 != promoted:
            version = str(record.values["version"])
            with root.local("tissue_weights", version, WEIGHTS_FILE) as folder:
                loaded = load_weights(folder / WEIGHTS_FILE)
            if loaded.sha256 != promoted:
                raise BadWeights(
                    f"The weights {version} are not those that were promoted (sha256 {loaded.sha256[:12]}… instead of "
                    f"{str(promoted)[:12]}…): materialize tissue_champion to promote it as it is now."
                )
            loaded.network.to(compute.torch_device)
            self._loaded = loaded
        return Champion(record, self._loaded)


class CellSegmenterResource(dg.ConfigurableResource):
    """The Cellpose network that the settings name: ``cyto2``, ``toy`` (the demo's) or the path of a weights file."""

    settings: SettingsResource

    _loaded: CellNetwork | None = PrivateAttr(default=None)

    def load(self, root: DataRoot, compute: Compute) -> CellNetwork:
        """The network on the device.

        Raises:
            BadWeights: the file is missing, damaged or not a Cellpose network.
            FetchFailed: ``cyto2`` is not in the data root's `models/` and could not be fetched.
        """
        if self._loaded is None:
            weights = self.settings.value.cell_weights
            if weights != "cyto2":
                self._loaded = load_cell_network(weights, compute)
            else:
                with local_copy(cyto2.fetch_cyto2(root.path / "models")) as folder:
                    self._loaded = load_cell_network(weights, compute, models_folder=folder)
        return self._loaded
