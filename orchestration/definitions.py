"""The code location: assets, jobs, schedules, sensors and the resources of production."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets import nuclei, skin
from dermatome.settings import Settings, load_settings
from dermatome.storage.layout import DataRoot
from orchestration.jobs import JOBS
from orchestration.run_launcher import in_known_process
from orchestration.schedules import SCHEDULES
from orchestration.sensors import SENSORS
from orchestration.sensors_nuclei import NUCLEI_SENSORS
from resources import (
    CellSegmenterResource,
    ComputeResource,
    HpaResource,
    NucleusSegmenterResource,
    PathsResource,
    SettingsResource,
    TissueSegmenterResource,
)
from resources.settings import as_plain

DATA_ROOT_VARIABLE = "DERMATOME_DATA"
DEFAULT_DATA_ROOT = "dermatome_data"


def build_defs(
    root: Path,
    overrides: Mapping[str, Any] | None = None,
    loggers: Mapping[str, dg.LoggerDefinition] | None = None,
) -> dg.Definitions:
    """The whole code location over a data root.

    Args:
        root: the data root; its `settings.toml` is read here, so that settings count into code versions.
        overrides: resources to put in place of production's, by name.
        loggers: in place of Dagster's console logger.

    Raises:
        BadSetting: the settings file is wrong.
    """
    paths = PathsResource(root=str(root))
    settings_path = paths.data_root.settings
    settings = SettingsResource(path=str(settings_path))
    resources: dict[str, Any] = {
        "paths": paths,
        "settings": settings,
        "compute": ComputeResource(settings=settings),
        "hpa": HpaResource(settings=settings),
        "tissue_segmenter": TissueSegmenterResource(),
        "cell_segmenter": CellSegmenterResource(settings=settings),
        "nucleus_segmenter": NucleusSegmenterResource(settings=settings),
    }
    return dg.Definitions(
        assets=dg.map_asset_specs(_with_settings(load_settings(settings_path)), [*skin.ASSETS, *nuclei.ASSETS]),
        asset_checks=skin.CHECKS,
        jobs=JOBS,
        schedules=SCHEDULES,
        sensors=[*SENSORS, *NUCLEI_SENSORS],
        resources=resources | dict(overrides or {}),
        # One process a run: models and imports are paid once, and torch already uses every core.
        executor=in_known_process,
        loggers=loggers,
    )


def _with_settings(settings: Settings) -> Any:
    """Adds to each asset's code version a hash of the settings that decide its numbers."""
    deciding: dict[str, Any] = {
        "hpa_images": settings.images.tissue,
        "slide_images": as_plain(settings.images),
        "epidermis_masks": as_plain(settings.tissue),
        "cell_masks": [as_plain(settings.cells), settings.cell_weights],
        "epidermis_layers": as_plain(settings.layers),
        "nuclei_slides": as_plain(settings.nuclei_images),
        "nuclei_patches": as_plain(settings.nuclei_patches),
        "nucleus_maps": [as_plain(settings.nuclei), settings.nuclei_weights, settings.nuclei_opacity],
        "til_scores": as_plain(settings.til),
    }

    def versioned(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        if name not in deciding:
            return spec
        text = json.dumps(deciding[name], sort_keys=True, default=str)
        return spec.replace_attributes(
            code_version=f"{spec.code_version}+{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        )

    return versioned


defs = build_defs(DataRoot.at(os.environ.get(DATA_ROOT_VARIABLE, DEFAULT_DATA_ROOT)).path)
