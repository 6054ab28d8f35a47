"""What the three kinds of networks share: the assets of the hold-out set, of the scores on it, and of the champion."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from assets.materialize import CODE_VERSION, deciding, materialize_one, record_metadata
from assets.materialize import code_version as version_of
from assets.partitions import ONLY_BY_HAND
from dermatome.registry.model_kinds import NUCLEI, ModelKind
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import read_record, require_record
from resources import ComputeResource, PathsResource, SettingsResource
from resources.settings import DECIDED_BY

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.registry.champion import Weights
    from dermatome.registry.hold_out import Score
    from dermatome.registry.manifest import ManifestRow
    from dermatome.settings import Settings


class ChampionChoice(dg.Config):
    """The version to promote, by score or by hand."""

    by: str | None = Field(
        default=None,
        description="The score that decides: mean_iou for tissue, ap_50 for cells, pq_classes for nuclei, or another "
        "column of the versions; with hold_out_ before it, the score on the hold-out set.",
    )
    version: str | None = Field(
        default=None,
        description="A training version chosen by hand, such as v001; for cells and nuclei also `settings`, the "
        "network that settings.toml names.",
    )
    despite_drop: bool = Field(default=False, description="Promote it without comparing it with the champion.")


class HoldOutChoice(dg.Config):
    """The samples of the hold-out set; each kind of network adds a setting that names them."""

    replace: bool = Field(default=False, description="Replace the present hold-out set; its scores do not count then.")


def run_config(asset: str, config: str) -> str:
    """A run config to paste, in Markdown, for an asset's description."""
    return f"\n\n```yaml\nops:\n  {asset}:\n    config:\n      {config}\n```"


def partitions_of(asset: str) -> Callable[[DataRoot, "Settings", list[str]], dict[Path, str]]:
    """Finds partitions of an asset: their folders and data versions, by name."""
    return lambda root, settings, names: {
        root.folder(asset, name): require_record(root, asset, name).data_version for name in names
    }


def hold_out_asset(
    kind: ModelKind,
    config_type: type[HoldOutChoice],
    *,
    setting: str,
    example: str,
    find: Callable[[DataRoot, "Settings", list[str]], dict[Path, str]],
    rows: Callable[["Settings", list[Path]], "list[ManifestRow]"],
    group_name: str,
    code_version: str,
    deps: Sequence[dg.AssetDep | dg.AssetSpec] = (),
) -> dg.AssetsDefinition:
    """Declares the asset of the hold-out set: copies of named sources, with a manifest.

    Args:
        kind: of network.
        config_type: of the run config.
        setting: of the run config that names the sources.
        example: name of a source, for the description.
        find: folders and data versions of named sources.
        rows: manifest rows of the samples in copied folders.
        group_name: in the UI's graph.
        code_version: to be raised when the code gives other samples.
        deps: assets that make the sources.
    """

    @dg.asset(
        name=kind.hold_out,
        description=f"Copies of the samples that `{setting}` names, which no training uses. It stays as it is until it "
        f"is replaced.{run_config(kind.hold_out, f'{setting}: [{example}]')}",
        deps=deps,
        metadata={CODE_VERSION: code_version},
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
        sources = find(root, chosen, given[setting])
        return materialize_one(
            context,
            root,
            CHAMPION,
            make=lambda folder: freeze_hold_out(
                root, kind, list(sources), folder, partial(rows, chosen), setting=setting, replace=given["replace"]
            ),
            inputs={source.name: version for source, version in sources.items()},
            settings=given,
        )

    return hold_out


def hold_out_scores_asset(
    kind: ModelKind,
    *,
    weights: dg.AssetsDefinition,
    hold_out: dg.AssetsDefinition,
    partitions_def: dg.PartitionsDefinition,
    group_name: str,
    code_version: str,
    score: Callable[["Settings", "Compute", str], "Score"],
    decided_by: Sequence[str],
) -> dg.AssetsDefinition:
    """Declares the asset of each version's scores on the hold-out set, with the check that blocks its promotion.

    Args:
        kind: of network.
        weights: asset of the versions.
        hold_out: asset of the hold-out set.
        partitions_def: of the versions.
        group_name: in the UI's graph.
        code_version: to be raised when the code gives other numbers.
        score: from settings, device and version to the function that scores its weights.
        decided_by: the settings that decide the scores, besides `promotion`; see `assets.slide_asset`.
    """
    drops = dg.AssetCheckSpec(
        kind.check,
        asset=kind.hold_out_scores,
        partitions_def=partitions_def,
        blocking=True,
        description=f"{', '.join(kind.decisive.values())} are at most the margin below the champion's.",
    )

    @dg.asset(
        name=kind.hold_out_scores,
        description="One partition is one training version: its scores on the hold-out set. Its check blocks the "
        f"promotion in the same run; `{kind.champion}` repeats it.",
        partitions_def=partitions_def,
        deps=[weights, hold_out],
        check_specs=[drops],
        pool="gpu",
        code_version=code_version,
        metadata={DECIDED_BY: ", ".join([*decided_by, "promotion"])},
        group_name=group_name,
        kinds={"pytorch"},
    )
    def scores(
        context: dg.AssetExecutionContext, paths: PathsResource, settings: SettingsResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        from dermatome.registry.hold_out import score_on_hold_out

        root, version, chosen = paths.data_root, context.partition_key, settings.value
        margin, frozen = chosen.promotion.margin, read_record(root.record(kind.hold_out, CHAMPION))
        inputs = {kind.weights: require_record(root, kind.weights, version).data_version}
        return materialize_one(
            context,
            root,
            version,
            make=lambda folder: score_on_hold_out(
                root, kind, version, folder, margin, score(chosen, compute.choose(), version)
            ),
            inputs=inputs | ({kind.hold_out: frozen.data_version} if frozen else {}),
            settings=deciding(context, chosen, root),
        )

    return scores


def champion_asset(
    kind: ModelKind,
    *,
    weights: dg.AssetsDefinition,
    scores: dg.AssetsDefinition,
    used_by: str,
    group_name: str,
    description: str,
    from_settings: Callable[[DataRoot, "Settings"], "Weights"] | None = None,
) -> dg.AssetsDefinition:
    """Declares the asset of the version in use. Its data version is the sha256 of the weights.

    Args:
        kind: of network.
        weights: asset of the versions.
        scores: asset of their scores on the hold-out set.
        used_by: asset whose results are computed with the champion.
        group_name: in the UI's graph.
        description: for the UI.
        from_settings: finds the network that the settings name, if this kind has such a setting.
    """

    @dg.asset(
        name=kind.champion,
        description=f"{description}{run_config(kind.champion, f'by: hold_out_{kind.best_by}')}",
        deps=[dg.AssetDep(asset, partition_mapping=ONLY_BY_HAND) for asset in (weights, scores)],
        metadata={CODE_VERSION: "1", DECIDED_BY: "promotion"},
        # Stains, scanners and annotations change: a champion should meet other versions every year.
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
        stale = not_made_with(root, kind, used_by, record.data_version)
        metadata = {
            "version": record.values["version"],
            "replaced": before.values["version"] if before else "nothing",
            f"stale_{used_by}": stale,
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
