"""The client of the Human Protein Atlas."""

import threading

import dagster as dg
from pydantic import PrivateAttr

from dermatome.hpa.client import HpaClient
from resources.settings import SettingsResource


class HpaResource(dg.ConfigurableResource):
    """Provides one client for each run, so that its limit on parallel requests holds over all threads of the run."""

    settings: SettingsResource

    _client: HpaClient | None = PrivateAttr(default=None)
    _making: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @property
    def client(self) -> HpaClient:
        """The run's client; the first thread that needs it creates it."""
        with self._making:
            if self._client is None:
                self._client = HpaClient(self.settings.value.hpa)
            return self._client
