"""Device, precision and threads."""

import dagster as dg

from dermatome.inference.compute import Compute, choose_compute
from resources.settings import SettingsResource


class ComputeResource(dg.ConfigurableResource):
    """Device, precision and threads of networks. A requested device that is missing is an error, not a CPU run."""

    settings: SettingsResource

    def choose(self) -> Compute:
        """Chooses device, precision and threads; imports torch."""
        asked = self.settings.value.compute
        return choose_compute(asked.device, asked.precision, asked.threads)
