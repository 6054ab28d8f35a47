"""`tissue_weights`: one training version of the U-Net that tells background, dermis, epidermis and keratin apart."""

import traceback
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
from pydantic import Field

from assets.metadata import record_metadata
from assets.partitions import TRAINING_VERSIONS
from assets.skin.training_tiles import training_tiles
from dermatome.data_root import RECORD_FILE, DataRoot
from dermatome.errors import DermatomeError, MissingInput
from dermatome.stage_record import StageRecord, clear_failure, fingerprint, made_by, write_failure, write_record
from resources import ComputeResource, PathsResource, SettingsResource
from resources.settings import as_plain


class TissueTraining(dg.Config):
    """The run config of a training; what is not given takes `dermatome.training.TrainSettings`' default."""

    encoder: str | None = Field(default=None, description="Any of segmentation-models-pytorch's, such as resnet34.")
    decoder_channels: list[int] | None = Field(default=None, description="Five numbers, coarse to fine.")
    encoder_weights: str | None = Field(default=None, description="None: from scratch.")
    loss: str | None = Field(default=None, description="dice_focal, dice, focal, cross_entropy or tversky.")
    dice_weight: float | None = Field(default=None, description="Of the Dice part of dice_focal.")
    focal_weight: float | None = Field(default=None, description="Of its focal part.")
    class_weighting: str | None = Field(default=None, description="equal, inverse or inverse_root of the pixels.")
    dropout: float | None = None
    epochs: int | None = None
    epoch_steps: int | None = Field(default=None, description="Smallest number of steps that count as an epoch.")
    max_minutes: float | None = Field(default=None, description="Limit of the whole training.")
    batch: int | None = None
    accumulate: int | None = Field(default=None, description="Passes of a batch in one step; GPUs share them.")
    patience: int | None = Field(default=None, description="Epochs without a better mean IoU before an early end.")
    crop_px: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    seed: int | None = None
    train_mpp: float | None = Field(default=None, description="Microns per pixel that the network sees.")
    coarse_factor: float | None = None
    augment: dict[str, float] = Field(default={}, description="scale, elastic_px, stain, gamma, contrast, blur_px, …")
    gpus: int = Field(default=1, description="How many share the passes of a step.")
    annotated_slides: list[str] | None = Field(default=None, description="None: all that have tiles.")

    def given(self) -> dict[str, object]:
        """The training settings that differ from the defaults."""
        from dermatome.augment import augmentation

        given = {name: value for name, value in self.model_dump().items() if value is not None}
        for other in ("annotated_slides", "gpus"):
            given.pop(other, None)
        given["augment"] = augmentation(self.augment)
        if "decoder_channels" in given:
            given["decoder_channels"] = tuple(given["decoder_channels"])
        return given


@dg.asset(
    partitions_def=TRAINING_VERSIONS,
    deps=[dg.AssetDep(training_tiles, partition_mapping=dg.AllPartitionMapping())],
    pool="gpu",
    code_version="1",
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

    Add a version (`v002`) in the materialize dialog, and set what differs from the defaults in its run config.
    """
    from dermatome.skin.weights_stage import confusion_markdown, drop_checkpoints

    root = paths.data_root
    version = context.partition_key
    folder = root.folder("tissue_weights", version)
    failure = root.failure("tissue_weights", version)
    try:
        record = _train(context, config, root, folder, settings, compute)
        write_record(folder / RECORD_FILE, record)
    except Exception as error:
        # What is not ours is a defect: its traceback is what a person needs to report it.
        said = str(error) if isinstance(error, DermatomeError) else "".join(traceback.format_exception(error))[-4000:]
        write_failure(
            failure,
            asset="tissue_weights",
            partition=version,
            error=said,
            kind=type(error).__name__,
            run_id=context.run_id,
        )
        raise
    clear_failure(failure)
    drop_checkpoints(folder)
    confusion = dg.MetadataValue.md(confusion_markdown(folder))
    return dg.MaterializeResult(
        metadata={**record_metadata(record, folder, reused=False), "confusion": confusion},
        data_version=dg.DataVersion(record.data_version),
    )


def _train(
    context: dg.AssetExecutionContext,
    config: TissueTraining,
    root: DataRoot,
    folder: Path,
    settings: SettingsResource,
    compute: ComputeResource,
) -> StageRecord:
    from dermatome.skin.weights_stage import make_weights
    from dermatome.training import EpochReport, TrainSettings

    version = context.partition_key
    slides = config.annotated_slides or sorted(
        path.parent.name
        for path in root.folder("training_tiles").glob(f"*/{RECORD_FILE}")
        if not path.parent.name.startswith(".")
    )
    if not slides:
        raise MissingInput("There are no training tiles yet: materialize training_tiles for annotated slides first.")
    tiles = {slide: made_by(root, "training_tiles", slide).data_version for slide in slides}
    chosen = TrainSettings(**{"mpp": settings.value.images.declared_mpp, **config.given()})

    def tell(epoch: EpochReport) -> None:
        ious: Mapping[str, float | None] = epoch.iou
        shown = ", ".join(f"{name} {iou:.2f}" for name, iou in ious.items() if iou is not None)
        context.log.info(
            f"epoch {epoch.epoch}: {epoch.share_done:.0%} done, {epoch.seconds:.0f} s, loss {epoch.train_loss:.3f}"
            + (f", IoU {shown}" if shown else "")
        )

    result = make_weights(
        [root.folder("training_tiles", slide) for slide in slides],
        folder,
        version,
        chosen,
        compute.choose(),
        tell,
        processes=config.gpus,
    )
    code_version = context.assets_def.code_versions_by_key[context.asset_key] or "1"
    return StageRecord(
        asset="tissue_weights",
        partition=version,
        fingerprint=fingerprint(code_version, tiles, as_plain(chosen)),
        code_version=code_version,
        inputs=tiles,
        settings=as_plain(chosen),
        run_id=context.run_id,
        **vars(result),
    )
