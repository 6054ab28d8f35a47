"""The settings of the data root (:mod:`dermatome.settings`) as a resource of a run."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from dermatome.settings import Settings, load_settings
from dermatome.storage.files import local_path

DECIDED_BY = "decided_by"
"""Metadata key for the names of the settings that decide an asset's results. Their values are part of its code version,
so Dagster shows what is stale when one is changed and the code location is reloaded.
"""


def decided_names(metadata: Mapping[str, Any]) -> list[str]:
    """The setting names in an asset's metadata :data:`DECIDED_BY`."""
    return [name for name in str(metadata.get(DECIDED_BY, "")).split(", ") if name]


def versioned_by_settings(code_version: str, decided: Mapping[str, Any]) -> str:
    """A code version with a hash of the deciding settings appended, if there are any."""
    if not decided:
        return code_version
    return f"{code_version}+{hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:8]}"


class SettingsResource(dg.ConfigurableResource):
    """The settings in force; the file is read once for each run, so they do not change during the run."""

    path: str

    _value: Settings | None = PrivateAttr(default=None)

    @property
    def value(self) -> Settings:
        """The settings."""
        if self._value is None:
            self._value = load_settings(local_path(self.path))
        return self._value
