"""The networks that masks and cells are made with: which they are, so that every worker can load them for itself."""

import dagster as dg

from dermatome.errors import MissingInput
from dermatome.nuclei.maps.networks import NucleusWeights
from dermatome.skin.networks import CellWeights, Champion
from dermatome.storage.layout import DataRoot
from resources.settings import SettingsResource


class TissueSegmenterResource(dg.ConfigurableResource):
    """The champion's U-Net."""

    def champion(self, root: DataRoot) -> Champion:
        """The champion as it is now.

        Raises:
            MissingInput: there is none yet.
        """
        champion = Champion.of(root)
        if champion is None:
            raise MissingInput(
                "There is no champion yet to make masks with: materialize tissue_weights for a training version, then "
                "tissue_champion."
            )
        return champion


class CellSegmenterResource(dg.ConfigurableResource):
    """The Cellpose network of `cell_champion` or, until there is one, the network that the settings name."""

    settings: SettingsResource

    def weights(self, root: DataRoot) -> CellWeights:
        """Which network it is; ``cyto2`` is fetched first where it is wanted and missing.

        Raises:
            BadWeights: there is no such file.
            FetchFailed: ``cyto2`` is not in the data root's `models/` and could not be fetched.
        """
        return CellWeights.chosen(root, self.settings.value.cell_weights)

    def of_settings(self, root: DataRoot) -> CellWeights:
        """The network that the settings name: ``cyto2``, ``toy`` (the demo's) or the path of a weights file.

        Raises:
            BadWeights: there is no such file.
            FetchFailed: ``cyto2`` could not be fetched.
        """
        return CellWeights.of(self.settings.value.cell_weights, root.models)


class NucleusSegmenterResource(dg.ConfigurableResource):
    """The network of nuclei that the settings name: a training version, a weights file or ``toy``; else the newest."""

    settings: SettingsResource

    def weights(self, root: DataRoot) -> NucleusWeights:
        """Which network it is.

        Raises:
            MissingInput: none is named, and no version is trained yet.
            BadWeights: there is no such version or file.
        """
        return NucleusWeights.of(root, self.settings.value.nuclei_weights)
