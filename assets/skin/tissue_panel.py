"""`tissue_panel`: frozen tiles; `tissue_panel_scores`: each version on them, held against the champion."""

import dagster as dg
from pydantic import Field

from assets.one import make_one
from assets.partitions import TRAINING_VERSIONS
from assets.skin.tissue_weights import tissue_weights
from assets.skin.training_tiles import training_tiles
from dermatome.storage.layout import CHAMPION
from dermatome.storage.record import made_by, read_record
from resources import ComputeResource, PathsResource, SettingsResource
from resources.settings import as_plain


class PanelChoice(dg.Config):
    """The tiles of the panel."""

    annotated_slides: list[str] = Field(description="Slides that are kept for the panel; no training uses them.")
    replace: bool = Field(default=False, description="Give up the panel there is: its scores do not count any more.")


@dg.asset(
    deps=[dg.AssetDep(training_tiles, partition_mapping=dg.AllPartitionMapping())],
    code_version="1",
    group_name="training",
    kinds={"file"},
)
def tissue_panel(context: dg.AssetExecutionContext, config: PanelChoice, paths: PathsResource) -> dg.MaterializeResult:
    """Copies of the tiles of the named annotated slides, with a manifest. It stays as it is until it is replaced."""
    from dermatome.skin.tissue.hold_out import freeze_panel

    root = paths.data_root
    return make_one(
        context,
        root,
        CHAMPION,
        make=lambda folder: freeze_panel(root, config.annotated_slides, folder, replace=config.replace),
        inputs={slide: made_by(root, "training_tiles", slide).data_version for slide in config.annotated_slides},
        settings=config.model_dump(),
    )


@dg.asset(
    partitions_def=TRAINING_VERSIONS,
    deps=[tissue_weights, tissue_panel],
    check_specs=[
        dg.AssetCheckSpec(
            "no_class_drops",
            asset="tissue_panel_scores",
            partitions_def=TRAINING_VERSIONS,
            blocking=True,
            description="No class is worse than the champion's on the panel by more than the margin.",
        )
    ],
    pool="gpu",
    code_version="2",
    group_name="training",
    kinds={"pytorch"},
)
def tissue_panel_scores(
    context: dg.AssetExecutionContext, paths: PathsResource, settings: SettingsResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """A version's scores on the panel. Its check blocks promotion in the same run; `tissue_champion` asks as well."""
    from dermatome.skin.tissue.hold_out import score_on_panel

    root, version = paths.data_root, context.partition_key
    panel = read_record(root.record("tissue_panel", CHAMPION))
    inputs = {"tissue_weights": made_by(root, "tissue_weights", version).data_version}
    mpp, promotion = settings.value.images.declared_mpp, settings.value.promotion
    return make_one(
        context,
        root,
        version,
        make=lambda folder: score_on_panel(root, version, compute.choose(), mpp, folder, promotion),
        inputs=inputs | ({"tissue_panel": panel.data_version} if panel else {}),
        settings=as_plain(promotion) | {"mpp": mpp},
    )
