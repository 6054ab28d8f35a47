"""Assets that every kind of network has: the hold-out set, the versions' scores on it, the champion, the comparison."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field, create_model

from assets.materialize import CODE_VERSION, code_reference, deciding, materialize_one, record_metadata
from assets.materialize import code_version as version_of
from assets.partitions import all_of, by_hand
from dermatome.registry.model_kinds import NUCLEI, ModelKind
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import read_record, require_record
from resources import ComputeResource, PathsResource, SettingsResource
from resources.settings import DECIDED_BY

if TYPE_CHECKING:
    from dermatome.registry.champion import Weights
    from dermatome.registry.manifest import ManifestRow
    from dermatome.registry.report import ReportLayout
    from dermatome.settings import Settings
    from dermatome.storage.record import Scalar


class ChampionChoice(dg.Config):
    """The version to promote, by score or by hand."""

    by: str | None = Field(
        default=None,
        description="The score that decides: mean_iou for tissue, ap_50 for cells, pq_classes for nuclei, or another "
        "score of the versions; with the prefix hold_out_, the score on the hold-out set.",
    )
    version: str | None = Field(
        default=None,
        description="A training version to promote by hand, such as v001; for cells and nuclei also `settings`, which "
        "stands for the network that settings.toml names.",
    )
    despite_drop: bool = Field(default=False, description="Promote it even if it scores worse than the champion.")


class HoldOutChoice(dg.Config):
    """The sources of the hold-out set; each kind of network adds a setting that names them."""

    replace: bool = Field(default=False, description="Replace the present hold-out set; scores on it become invalid.")


def run_config(asset: str, config: str) -> str:
    """A run config to copy, in Markdown, for an asset's description."""
    return f"\n\n```yaml\nops:\n  {asset}:\n    config:\n      {config}\n```"


def partitions_of(root: DataRoot, asset: str, names: Sequence[str]) -> dict[Path, str]:
    """Folder and data version of each named partition of an asset."""
    return {root.folder(asset, name): require_record(root, asset, name).data_version for name in names}


FindSources = Callable[[DataRoot, "Settings", Sequence[str]], dict[Path, str]]
HoldOut = tuple[Callable[[list[Path]], "list[ManifestRow]"], Callable[..., Mapping[str, "Scalar"]]]
"""Two functions: one returns the manifest rows of copied folders; the other scores a version, whose name, device and
precision are passed as keyword arguments."""


@dataclass(frozen=True)
class Versions:
    """How one kind of network is scored on its hold-out set and promoted.

    Attributes:
        kind: kind of network.
        weights: asset of the training versions.
        sources: asset of the samples. If Dagster materializes it, the sources are its partitions.
        setting: name, description and example value of the run config's setting that lists the hold-out sources.
        hold_out: returns the functions of :data:`HoldOut` for the settings.
        decided_by: settings that decide the scores, besides `promotion`; see `assets.slide_asset`.
        code_versions: of the hold-out set and of the scores; raise them when the code gives other samples or numbers.
        used_by: asset whose results are computed with the champion.
        find: finds the sources if they are not partitions.
        from_settings: finds the network that settings.toml names, if this kind has such a setting.
    """

    kind: ModelKind
    weights: dg.AssetsDefinition
    sources: dg.AssetsDefinition | dg.AssetSpec
    setting: tuple[str, str, str]
    hold_out: Callable[["Settings"], HoldOut]
    decided_by: Sequence[str]
    code_versions: tuple[str, str]
    used_by: str
    find: FindSources | None = None
    from_settings: Callable[[DataRoot, "Settings"], "Weights"] | None = None

    def assets(self) -> tuple[dg.AssetsDefinition, dg.AssetsDefinition, dg.AssetsDefinition]:
        """The assets of the hold-out set, of the scores on it, and of the champion."""
        (spec,) = self.weights.specs
        hold_out = _hold_out_asset(self, str(spec.group_name))
        scores = _scores_asset(self, hold_out, str(spec.group_name))
        return hold_out, scores, _champion_asset(self, scores, str(spec.group_name))


def _hold_out_asset(of: Versions, group_name: str) -> dg.AssetsDefinition:
    kind, (setting, meaning, example) = of.kind, of.setting
    config_type = create_model("HoldOut", __base__=HoldOutChoice, **{setting: (list[str], Field(description=meaning))})  # type: ignore[call-overload]
    made = isinstance(of.sources, dg.AssetsDefinition)

    def partitions(root: DataRoot, settings: "Settings", names: Sequence[str]) -> dict[Path, str]:
        return partitions_of(root, of.sources.key.to_user_string(), names)

    find_sources = of.find or partitions

    @dg.asset(
        name=kind.hold_out,
        description=f"Copies of the samples that `{setting}` names, which no training uses. It stays unchanged until "
        f"it is replaced.{run_config(kind.hold_out, f'{setting}: [{example}]')}",
        deps=[by_hand(of.sources) if made else of.sources],
        metadata={CODE_VERSION: of.code_versions[0], **code_reference(of.hold_out)},
        group_name=group_name,
        kinds={"file"},
    )
    def hold_out(
        context: dg.AssetExecutionContext,
        config: config_type,  # type: ignore[valid-type]
        paths: PathsResource,
        settings: SettingsResource,
    ) -> dg.MaterializeResult:
        from dermatome.registry.hold_out import freeze_hold_out

        root, chosen, given = paths.data_root, settings.value, config.model_dump()  # type: ignore[attr-defined]
        sources = find_sources(root, chosen, given[setting])
        rows_of, _ = of.hold_out(chosen)
        return materialize_one(
            context,
            root,
            make=lambda folder: freeze_hold_out(
                root, kind, list(sources), folder, rows_of, setting=setting, replace=given["replace"]
            ),
            inputs={source.name: version for source, version in sources.items()},
            settings=given,
        )

    return hold_out


def _scores_asset(of: Versions, hold_out: dg.AssetsDefinition, group_name: str) -> dg.AssetsDefinition:
    kind, partitions_def = of.kind, of.weights.partitions_def
    drops = dg.AssetCheckSpec(
        kind.check,
        asset=kind.hold_out_scores,
        partitions_def=partitions_def,
        blocking=True,
        description=f"{', '.join(kind.decisive.values())} are below the champion's by no more than the margin.",
    )

    @dg.asset(
        name=kind.hold_out_scores,
        description="One partition is one training version: its scores on the hold-out set. A failed check blocks the "
        f"promotion in the same run; `{kind.champion}` evaluates the check again.",
        partitions_def=partitions_def,
        deps=[of.weights, hold_out],
        check_specs=[drops],
        pool="gpu",
        code_version=of.code_versions[1],
        metadata={DECIDED_BY: ", ".join([*of.decided_by, "promotion"]), **code_reference(of.hold_out)},
        group_name=group_name,
        kinds={"pytorch"},
    )
    def scores(
        context: dg.AssetExecutionContext, paths: PathsResource, settings: SettingsResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        from dermatome.registry.hold_out import score_on_hold_out

        root, version, chosen = paths.data_root, context.partition_key, settings.value
        margin, frozen = chosen.promotion.margin, read_record(root.record(kind.hold_out, CHAMPION))
        _, score = of.hold_out(chosen)
        inputs = {kind.weights: require_record(root, kind.weights, version).data_version}
        return materialize_one(
            context,
            root,
            make=lambda folder: score_on_hold_out(
                root, kind, version, folder, margin, partial(score, version=version, compute=compute.choose())
            ),
            inputs=inputs | ({kind.hold_out: frozen.data_version} if frozen else {}),
            settings=deciding(context, chosen, root),
        )

    return scores


def _champion_asset(of: Versions, scores: dg.AssetsDefinition, group_name: str) -> dg.AssetsDefinition:
    kind, from_settings = of.kind, of.from_settings
    until_then = ""
    if from_settings:
        until_then = f"Until it is materialized, the {kind.name} that settings.toml names (`{kind.weights}`) is used. "

    @dg.asset(
        name=kind.champion,
        description="The version with the best score, or the one named in the run config. If there is a hold-out set, "
        "a version that scores worse than the champion by more than the margin is refused. "
        f"{until_then}Promoting another version makes exactly those {of.used_by.replace('_', ' ')} stale that were "
        f"computed with other weights.{run_config(kind.champion, f'by: hold_out_{kind.best_by}')}",
        deps=[by_hand(asset) for asset in (of.weights, scores)],
        metadata={CODE_VERSION: "1", DECIDED_BY: "promotion", **code_reference(of.hold_out)},
        # Stains, scanners and annotations change, so a champion should be compared with newer versions every year.
        freshness_policy=dg.FreshnessPolicy.time_window(
            fail_window=timedelta(days=365), warn_window=timedelta(days=180)
        ),
        group_name=group_name,
        kinds={"pytorch"},
    )
    def champion(
        context: dg.AssetExecutionContext, config: ChampionChoice, paths: PathsResource, settings: SettingsResource
    ) -> dg.MaterializeResult:
        from dermatome.registry.champion import candidates_markdown, choose_champion, not_made_with, promote

        root, chosen = paths.data_root, settings.value
        before = read_record(root.record(kind.champion, CHAMPION))
        choice = choose_champion(
            root,
            kind,
            config.by,
            config.version,
            margin=chosen.promotion.margin,
            despite_drop=config.despite_drop,
            from_settings=None if from_settings is None else lambda: from_settings(root, chosen),
        )
        recorded = config.model_dump() | deciding(context, chosen, root)
        record = promote(root, kind, choice, recorded, code_version=version_of(context), run_id=context.run.run_id)
        stale = not_made_with(root, kind, of.used_by, record.data_version)
        metadata = {
            "version": record.values["version"],
            "replaced": before.values["version"] if before else "nothing",
            f"stale_{of.used_by}": stale,
            "candidates": dg.MetadataValue.md(candidates_markdown(root, kind)),
            **record_metadata(record, root.folder(kind.champion, CHAMPION), reused=False),
        }
        if stale:
            op = "request_missing_nuclei" if kind is NUCLEI else "request_missing"
            metadata["to_remake_them"] = dg.MetadataValue.md(
                f"Launch the job `infer{'_nuclei' * (kind is NUCLEI)}` with{run_config(op, 'stale: true')}"
            )
        return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(record.data_version))

    return champion


def comparison_asset(weights: dg.AssetsDefinition) -> Callable[[Callable[[], "ReportLayout"]], dg.AssetsDefinition]:
    """Declares an asset that compares all versions, from the function that returns the layout of its report.

    It is requested after every training, which is cheap, as versions are few (docs/decisions/0025-automation.md).
    """
    (spec,) = weights.specs

    def declare(layout_of: Callable[[], "ReportLayout"]) -> dg.AssetsDefinition:
        @dg.asset(
            name=layout_of.__name__,
            description=inspect.getdoc(layout_of),
            deps=[all_of(weights)],
            code_version="1",
            group_name=spec.group_name,
            kinds={"html"},
            metadata=code_reference(layout_of),
            automation_condition=dg.AutomationCondition.any_deps_updated().since_last_handled()
            & ~dg.AutomationCondition.any_deps_in_progress()
            & ~dg.AutomationCondition.in_progress(),
        )
        def comparison(context: dg.AssetExecutionContext, paths: PathsResource) -> dg.MaterializeResult:
            from dermatome.registry.report import compare_versions

            root, layout = paths.data_root, layout_of()
            inputs = partitions_of(root, layout.kind.weights, root.partitions(layout.kind.weights))
            versions = {folder.name: version for folder, version in inputs.items()}
            return materialize_one(
                context,
                root,
                make=lambda folder: compare_versions(root, layout, list(versions), folder),
                inputs=versions,
                settings={},
            )

        return comparison

    return declare
