"""Device, precision and threads."""

import dagster as dg

from dermatome.inference.compute import Compute, choose_compute
from resources.settings import SettingsResource


class ComputeResource(dg.ConfigurableResource):
    """Where networks run. A device that is asked for and absent is an error, never a silent CPU run."""

    settings: SettingsResource

    def choose(self) -> Compute:
        """The settled device, precision and threads; imports torch."""
        asked = self.settings.value.compute
        return choose_compute(asked.device, asked.precision, asked.threads)
