"""`tissue_weights`: one training version of the U-Net that separates background, dermis, epidermis and keratin."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
from pydantic import Field

from assets.partitions import TRAINING_VERSIONS, by_hand
from assets.registry import partitions_of
from assets.skin.training_tiles import training_tiles
from assets.training import TrainingConfig, make_version, not_held_out, training_config, weights_asset
from dermatome.errors import MissingInput
from dermatome.registry.model_kinds import TISSUE
from dermatome.skin.tissue.task import TissueTraining
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import require_record
from resources import ComputeResource, PathsResource, SettingsResource


class TissueRun(TrainingConfig):
    """The run config of a tissue training; unset settings take their defaults."""

    from_study: str | None = Field(default=None, description="A study of tissue_search whose best trial to train.")
    annotated_slides: list[str] | None = Field(default=None, description="Slides to train on; None: all with tiles.")
    drawn: bool = Field(default=False, description="Draw synthetic tiles and train on these, not on annotated slides.")


def find_tiles(root: DataRoot, slides: Sequence[str] | None) -> dict[Path, str]:
    """Folder and data version of each annotated slide's tiles; by default of all slides outside the hold-out set."""
    slides = slides or not_held_out(root, TISSUE, root.partitions("training_tiles"))
    if not slides:
        raise MissingInput("There are no training tiles yet: materialize training_tiles for annotated slides first.")
    return partitions_of(root, "training_tiles", slides)


TissueConfig = training_config("TissueConfig", TissueRun, TissueTraining, without=["mpp", "palette"])


@weights_asset(TISSUE, TRAINING_VERSIONS, "skin_training", code_version="2", deps=[by_hand(training_tiles)])
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
          crop_px: 192
          augment: {stain: 0.6}
    ```

    Without any annotated slide, `drawn: true` trains on synthetic tiles of many stains, thicknesses and cuts.
    """
    from dermatome.skin.tissue.task import TissueTask, confusion_markdown, draw_for_training
    from dermatome.training.settings import settings_from

    root = paths.data_root
    sources = {} if config.drawn else find_tiles(root, config.annotated_slides)
    given = {"mpp": settings.value.images.declared_mpp, **config.given()}
    if config.from_study is not None:
        study = require_record(root, "tissue_search", config.from_study)
        given = json.loads(str(study.values["best_settings"])) | given
    with TemporaryDirectory() as folder:
        if config.drawn:
            drawn = draw_for_training(Path(folder), settings_from(TissueTraining, given))
            given |= drawn.model_dump(include={"mpp", "train_mpp", "synthetic"})
            sources = {Path(folder): ""}
        return make_version(
            context,
            root,
            TissueTask,
            sources,
            given,
            config,
            compute,
            more=lambda folder: {"confusion": dg.MetadataValue.md(confusion_markdown(folder))},
        )
