"""`tissue_hold_out`: frozen tiles; `tissue_hold_out_scores`: each version on them, held against the champion."""

import dagster as dg
from pydantic import Field

from assets.one import make_one
from assets.partitions import TRAINING_VERSIONS
from assets.skin.tissue_weights import tissue_weights
from assets.skin.training_tiles import training_tiles
from dermatome.storage.layout import CHAMPION
from dermatome.storage.record import read_record, require_record
from resources import ComputeResource, PathsResource, SettingsResource
from resources.settings import as_plain


class HoldOutChoice(dg.Config):
    """The tiles of the hold-out set."""

    annotated_slides: list[str] = Field(description="Slides that are kept for the hold-out set; no training uses them.")
    replace: bool = Field(
        default=False, description="Give up the hold-out set there is: its scores do not count any more."
    )


@dg.asset(
    deps=[dg.AssetDep(training_tiles, partition_mapping=dg.AllPartitionMapping())],
    code_version="1",
    group_name="training",
    kinds={"file"},
)
def tissue_hold_out(
    context: dg.AssetExecutionContext, config: HoldOutChoice, paths: PathsResource
) -> dg.MaterializeResult:
    """Copies of the tiles of the named annotated slides, with a manifest. It stays as it is until it is replaced."""
    from dermatome.skin.tissue.hold_out import freeze_hold_out

    root = paths.data_root
    return make_one(
        context,
        root,
        CHAMPION,
        make=lambda folder: freeze_hold_out(root, config.annotated_slides, folder, replace=config.replace),
        inputs={slide: require_record(root, "training_tiles", slide).data_version for slide in config.annotated_slides},
        settings=config.model_dump(),
    )


@dg.asset(
    partitions_def=TRAINING_VERSIONS,
    deps=[tissue_weights, tissue_hold_out],
    check_specs=[
        dg.AssetCheckSpec(
            "no_class_drops",
            asset="tissue_hold_out_scores",
            partitions_def=TRAINING_VERSIONS,
            blocking=True,
            description="No class is worse than the champion's on the hold-out set by more than the margin.",
        )
    ],
    pool="gpu",
    code_version="2",
    group_name="training",
    kinds={"pytorch"},
)
def tissue_hold_out_scores(
    context: dg.AssetExecutionContext, paths: PathsResource, settings: SettingsResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """Scores of a version on the hold-out set. Its check blocks promotion in the same run."""
    from dermatome.skin.tissue.hold_out import score_on_hold_out

    root, version = paths.data_root, context.partition_key
    hold_out = read_record(root.record("tissue_hold_out", CHAMPION))
    inputs = {"tissue_weights": require_record(root, "tissue_weights", version).data_version}
    mpp, promotion = settings.value.images.declared_mpp, settings.value.promotion
    return make_one(
        context,
        root,
        version,
        make=lambda folder: score_on_hold_out(root, version, compute.choose(), mpp, folder, promotion),
        inputs=inputs | ({"tissue_hold_out": hold_out.data_version} if hold_out else {}),
        settings=as_plain(promotion) | {"mpp": mpp},
    )
