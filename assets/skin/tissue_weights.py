"""`tissue_weights`: one training version of the U-Net that separates background, dermis, epidermis and keratin."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
from pydantic import Field

from assets.partitions import ONLY_BY_HAND, TRAINING_VERSIONS
from assets.skin.training_tiles import training_tiles
from assets.training import TrainingConfig, make_version, training_config, weights_asset
from dermatome.errors import MissingInput
from dermatome.skin.tissue.task import TissueTraining
from dermatome.storage.record import require_record
from resources import ComputeResource, PathsResource, SettingsResource


class TissueRun(TrainingConfig):
    """The run config of a tissue training; settings that are not given take their defaults."""

    from_study: str | None = Field(default=None, description="A study of tissue_search: its best trial's settings.")
    annotated_slides: list[str] | None = Field(default=None, description="None: all that have tiles.")
    drawn: bool = Field(default=False, description="Draw synthetic tiles and train on them, not on annotated slides.")


TissueConfig = training_config("TissueConfig", TissueRun, TissueTraining, without=["mpp", "palette"])


@weights_asset(
    "tissue_weights",
    TRAINING_VERSIONS,
    deps=[dg.AssetDep(training_tiles, partition_mapping=ONLY_BY_HAND)],
    code_version="2",
    group_name="skin_training",
)
def tissue_weights(
    context: dg.AssetExecutionContext,
    config: TissueConfig,
    paths: PathsResource,
    settings: SettingsResource,
    compute: ComputeResource,
) -> dg.MaterializeResult:
    """One partition is one training version: weights with a card, scores by class, curves and a confusion matrix.

    Add a version (`v002`) in the materialize dialog, and set what differs from the defaults in its run config. A
    version named `v002_cont1` is fine-tuned from `v002`.

    ```yaml
    ops:
      tissue_weights:
        config:
          max_minutes: 30
          encoder: resnet34
          augment: {stain: 0.6}
    ```

    Without any annotated slide, `drawn: true` trains on synthetic tiles of any stain, thickness and cut.
    """
    from dermatome.registry.hold_out import hold_out_sources
    from dermatome.skin.tissue.task import TissueTask, confusion_markdown
    from dermatome.synthetic.varied_skin import draw_for_training
    from dermatome.training.settings import settings_from

    root = paths.data_root
    held_out = hold_out_sources(root, TissueTask.model_kind)
    slides = config.annotated_slides or [s for s in root.partitions("training_tiles") if s not in held_out]
    if not slides and not config.drawn:
        raise MissingInput("There are no training tiles yet: materialize training_tiles for annotated slides first.")
    given = {"mpp": settings.value.images.declared_mpp, **config.given()}
    if config.from_study is not None:
        study = require_record(root, "tissue_search", config.from_study)
        given = json.loads(str(study.values["best_settings"])) | given
    with TemporaryDirectory() as folder:
        folders = [root.folder("training_tiles", slide) for slide in slides]
        inputs = {slide: require_record(root, "training_tiles", slide).data_version for slide in slides}
        if config.drawn:
            drawn = draw_for_training(Path(folder), settings_from(TissueTraining, given))
            given |= drawn.model_dump(include={"mpp", "train_mpp", "synthetic"})
            folders, inputs = [Path(folder)], {}
        return make_version(
            context,
            root,
            TissueTask,
            folders,
            given,
            config,
            compute,
            inputs=inputs,
            more=lambda folder: {"confusion": dg.MetadataValue.md(confusion_markdown(folder))},
        )
