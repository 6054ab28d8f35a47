"""Declares the assets that are computed from all gene profiles."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets.materialize import code_reference, deciding, materialize_one
from assets.partitions import all_of
from assets.skin.gene_profiles import gene_profiles
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import StageResult
from resources import PathsResource, SettingsResource
from resources.settings import DECIDED_BY


def profiles_summary(
    code_version: str, settings_table: str, checks: Mapping[str, str] | None = None
) -> Callable[[Callable[[DataRoot, Path, Any], StageResult]], dg.AssetsDefinition]:
    """Declares an asset computed from all profiles, from the function that writes its files.

    That function takes the section ``settings_table`` of the settings, which decides its results. Failed checks are
    warnings.
    """

    def declare(make: Callable[[DataRoot, Path, Any], StageResult]) -> dg.AssetsDefinition:
        @dg.asset(
            name=make.__name__,
            description=inspect.getdoc(make),
            deps=[all_of(gene_profiles)],
            check_specs=[
                dg.AssetCheckSpec(name, asset=make.__name__, description=description)
                for name, description in (checks or {}).items()
            ],
            code_version=code_version,
            group_name="skin_metrics",
            kinds={"html"},
            metadata={DECIDED_BY: settings_table, **code_reference(make)},
        )
        def summary(
            context: dg.AssetExecutionContext, paths: PathsResource, settings: SettingsResource
        ) -> dg.MaterializeResult:
            from dermatome.skin.profiles.stage import profiles_version

            root, chosen = paths.data_root, settings.value
            return materialize_one(
                context,
                root,
                make=lambda folder: make(root, folder, getattr(chosen, settings_table)),
                inputs=profiles_version(root),
                settings=deciding(context, chosen, root),
                warn=lambda result: True,
            )

        return summary

    return declare
