"""The code location: assets, jobs, schedules, sensors and the resources of production."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets import nuclei, skin, skin_metrics
from assets.slide_asset import up_to_date_checks
from assets.sources import FOLDERS, SOURCES
from dermatome.settings import PlatformSettings, Settings, deciding_settings, load_settings
from dermatome.storage.layout import DataRoot
from orchestration.jobs import JOBS
from orchestration.schedules import schedules
from orchestration.sensors import SENSORS
from resources import ComputeResource, HpaResource, PathsResource, SettingsResource
from resources.dagster_private import in_process_with_lock
from resources.settings import decided_names, versioned_by_settings

DATA_ROOT_VARIABLE = "DERMATOME_DATA"
DEFAULT_DATA_ROOT = "dermatome_data"


def build_defs(root: Path, loggers: Mapping[str, dg.LoggerDefinition] | None = None) -> dg.Definitions:
    """Builds the code location for a data root.

    Raises:
        BadSetting: the settings file is wrong.
    """
    paths = PathsResource(root=str(root))
    settings_path = paths.data_root.settings
    settings, read = SettingsResource(path=str(settings_path)), load_settings(settings_path)
    resources: dict[str, Any] = {
        "paths": _fixed(paths, root=str(root)),
        "settings": _fixed(settings, path=str(settings_path)),
        "compute": ComputeResource(settings=settings),
        "hpa": HpaResource(settings=settings),
    }
    return dg.Definitions(
        # With these, the UI links each asset to its source file.
        assets=dg.with_source_code_references(
            dg.map_asset_specs(
                lambda spec: labelled(with_settings(spec, read, paths.data_root), read.platform, paths.data_root),
                [*SOURCES, *skin.ASSETS, *nuclei.ASSETS, skin_metrics.skin_metrics],
            )
        ),
        asset_checks=[
            *skin_metrics.CHECKS,
            up_to_date_checks([*skin.OF_SLIDES, *skin.OF_GENES, *nuclei.OF_SLIDES]),
        ],
        jobs=JOBS,
        schedules=schedules(read.platform.time_zone),
        sensors=SENSORS,
        resources=resources,
        # One process for each run: models and imports are loaded once, and torch uses every core already.
        executor=in_process_with_lock,
        loggers=loggers,
    )


def _fixed(resource: dg.ConfigurableResource, **values: str) -> dg.ResourceDefinition:
    """Removes the resource's fields from the launchpad: the deployment, not a run, decides where the data root is."""
    return dg.configured(resource.get_resource_definition(), config_schema={})(lambda _: values)


def with_settings(spec: dg.AssetSpec, settings: Settings, root: DataRoot) -> dg.AssetSpec:
    """Adds to an asset's code version a hash of the settings that decide its results."""
    if spec.code_version is None:
        return spec
    decided = deciding_settings(settings, decided_names(spec.metadata), root)
    return spec.replace_attributes(code_version=versioned_by_settings(spec.code_version, decided))


def labelled(spec: dg.AssetSpec, platform: PlatformSettings, root: DataRoot) -> dg.AssetSpec:
    """Adds owners, the tags ``pipeline`` and ``part`` to select assets by, and the path of a folder that users fill."""
    pipeline, _, part = str(spec.group_name).partition("_")
    name = spec.key.to_user_string()
    folder = {"folder": dg.MetadataValue.path(str(root.folder(name)))} if name in FOLDERS else {}
    return spec.merge_attributes(
        owners=list(platform.owners), tags={"pipeline": pipeline, "part": part}, metadata=folder
    )


defs = build_defs(DataRoot.at(os.environ.get(DATA_ROOT_VARIABLE, DEFAULT_DATA_ROOT)).path)
