"""The settings of the data root (:mod:`dermatome.settings`) as runs are given them.

Settings that decide numbers go into the code version of the assets they act on, so Dagster shows what is stale when
one is changed and the code location is reloaded.
"""

import dataclasses
from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from dermatome.settings import Settings, load_settings
from dermatome.storage.files import local_path


def as_plain(settings: Any) -> dict[str, Any]:
    """A settings dataclass as plain values, for records and fingerprints."""
    return dataclasses.asdict(settings)


class SettingsResource(dg.ConfigurableResource):
    """The settings in force; the file is read once for each run, so that a run has the same ones throughout."""

    path: str

    _value: Settings | None = PrivateAttr(default=None)

    @property
    def value(self) -> Settings:
        """The settings."""
        if self._value is None:
            self._value = load_settings(local_path(self.path))
        return self._value
