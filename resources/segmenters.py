"""The networks that find tissue, cells and nuclei: champions, or the networks that settings.toml names."""

import dagster as dg

from dermatome.nuclei.maps.networks import find_nucleus_weights
from dermatome.registry.champion import Weights
from dermatome.skin.cells.networks import find_cell_weights
from dermatome.skin.tissue.networks import find_tissue_weights
from dermatome.storage.layout import DataRoot
from resources.settings import SettingsResource


class TissueSegmenterResource(dg.ConfigurableResource):
    """The U-Net of `tissue_champion` or, without a champion, the starter."""

    def weights(self, root: DataRoot) -> Weights:
        """See :func:`dermatome.skin.tissue.networks.find_tissue_weights`."""
        return find_tissue_weights(root)


class CellSegmenterResource(dg.ConfigurableResource):
    """The Cellpose network of `cell_champion` or, without a champion, of `cell_weights`; or another segmenter."""

    settings: SettingsResource

    def weights(self, root: DataRoot) -> Weights:
        """See :func:`dermatome.skin.cells.networks.find_cell_weights`."""
        settings = self.settings.value
        return find_cell_weights(root, settings.cell_weights, settings.cells.segmenter)


class NucleusSegmenterResource(dg.ConfigurableResource):
    """The U-Net of `nuclei_champion` or, without a champion, of the setting `nuclei_weights`."""

    settings: SettingsResource

    def weights(self, root: DataRoot) -> Weights:
        """See :func:`dermatome.nuclei.maps.networks.find_nucleus_weights`."""
        return find_nucleus_weights(root, self.settings.value.nuclei_weights)
