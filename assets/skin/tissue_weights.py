"""`tissue_weights`: one training version of the U-Net that tells background, dermis, epidermis and keratin apart."""

import json
from typing import Any

import dagster as dg

from assets.one import make_one
from assets.partitions import TRAINING_VERSIONS
from assets.skin.training_config import TissueTraining
from assets.skin.training_tiles import training_tiles
from dermatome.errors import MissingInput
from dermatome.storage.record import require_record
from resources import ComputeResource, PathsResource, SettingsResource
from resources.settings import as_plain


@dg.asset(
    partitions_def=TRAINING_VERSIONS,
    deps=[dg.AssetDep(training_tiles, partition_mapping=dg.AllPartitionMapping())],
    check_specs=[
        dg.AssetCheckSpec(
            "no_leakage",
            asset="tissue_weights",
            partitions_def=TRAINING_VERSIONS,
            description="No patient, slide or picture is both trained and tested on, by this version or its ancestors.",
        )
    ],
    pool="gpu",
    code_version="2",
    group_name="training",
    kinds={"pytorch"},
)
def tissue_weights(
    context: dg.AssetExecutionContext,
    config: TissueTraining,
    paths: PathsResource,
    settings: SettingsResource,
    compute: ComputeResource,
) -> dg.MaterializeResult:
    """Weights with a card, scores by class, curves and a confusion matrix.

    Add a version (`v002`) in the materialize dialog, and set what differs from the defaults in its run config. A
    version named `v002_cont1` goes on from `v002`.
    """
    from dermatome.registry.hold_out import hold_out_rows, hold_out_sources
    from dermatome.registry.lineage import find_lineage
    from dermatome.registry.model_kinds import TISSUE
    from dermatome.skin.tissue.weights_stage import confusion_markdown, make_weights
    from dermatome.training.loop import drop_checkpoints
    from dermatome.training.settings import TrainSettings, given_settings
    from dermatome.training.weights import load_weights

    root, version = paths.data_root, context.partition_key
    checkpoints = root.checkpoints("tissue_weights", version)
    held_out = hold_out_sources(root, TISSUE)
    slides = config.annotated_slides or [s for s in root.partitions("training_tiles") if s not in held_out]
    if not slides:
        raise MissingInput("There are no training tiles yet: materialize training_tiles for annotated slides first.")
    records = {slide: require_record(root, "training_tiles", slide) for slide in slides}
    lineage = find_lineage(root, TISSUE, version, config.continue_from, load_weights)
    given = config.given()
    if config.from_study is not None:
        study = require_record(root, "tissue_search", config.from_study)
        given = given_settings(json.loads(str(study.values["best_settings"]))) | given
    given = given if lineage is None else lineage.fill_in(given)
    chosen = TrainSettings(**{"mpp": settings.value.images.declared_mpp, **given})
    inputs = {slide: record.data_version for slide, record in records.items()}
    done = make_one(
        context,
        root,
        version,
        make=lambda folder: make_weights(
            [root.folder("training_tiles", slide) for slide in slides],
            folder,
            version,
            chosen,
            compute.choose(),
            lambda epoch: context.log.info(_said(epoch)),
            checkpoints=checkpoints,
            lineage=lineage,
            hold_out=hold_out_rows(root, TISSUE),
            processes=config.gpus,
            models_folder=root.models,
        ),
        inputs=inputs if lineage is None else {**inputs, "parent": lineage.weights.sha256[:32]},
        settings=as_plain(chosen),
        more=lambda folder: {"confusion": dg.MetadataValue.md(confusion_markdown(folder))},
        # Of one slide only, no split can hide it; that is a limit of the data, which whoever has no more must know.
        warn=lambda result: bool(result.values["one_slide_only"]),
    )
    drop_checkpoints(checkpoints)
    return done


def _said(epoch: Any) -> str:
    shown = ", ".join(f"{name} {iou:.2f}" for name, iou in epoch.iou.items() if iou is not None)
    text = f"epoch {epoch.epoch}: {epoch.share_done:.0%} done, {epoch.seconds:.0f} s, loss {epoch.train_loss:.3f}"
    return f"{text}, IoU {shown}" if shown else text
