"""`tissue_search`: training settings searched with Optuna; the best trial becomes a version by its run config."""

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from assets.materialize import CODE_VERSION, materialize_one
from assets.partitions import STUDIES, by_hand
from assets.registry import run_config
from assets.skin.tissue_weights import TissueConfig, find_tiles
from assets.skin.training_tiles import training_tiles
from assets.training import config_of
from dermatome.storage.record import StageResult
from dermatome.training.search import SearchSpace
from resources import ComputeResource, PathsResource, SettingsResource

SpaceConfig: Any = config_of(SearchSpace)


class TissueSearch(TissueConfig):
    """A study: its number of trials and ranges; all other settings apply to each trial's training."""

    trials: int = Field(default=20, ge=1, description="Total number of trials, including those of earlier runs.")
    parallel: int = Field(default=1, ge=1, description="Trials at the same time, each in a process of this machine.")
    space: SpaceConfig = Field(default=SpaceConfig(), description="Ranges and choices that trials draw from.")


@dg.asset(
    partitions_def=STUDIES,
    deps=[by_hand(training_tiles)],
    pool="gpu",
    metadata={CODE_VERSION: "1"},
    group_name="skin_training",
    kinds={"optuna"},
)
def tissue_search(
    context: dg.AssetExecutionContext,
    config: TissueSearch,
    paths: PathsResource,
    settings: SettingsResource,
    compute: ComputeResource,
) -> dg.MaterializeResult:
    """One partition is one study of training settings. It is kept between runs: materialize it again with more `trials`
    to continue it; a study whose run was killed continues too.

    To train its best trial as a version, set `from_study` in the run config of `tissue_weights`.

    ```yaml
    ops:
      tissue_search:
        config:
          trials: 40
          epochs: 10
          space: {learning_rate: [0.0005, 0.005], crop_px: [96, 128, 192]}
    ```
    """
    from dermatome.reports.search import write_search
    from dermatome.skin.tissue.task import TissueTask, TissueTraining
    from dermatome.training.search import SearchSettings, run_search
    from dermatome.training.settings import settings_from

    root, study = paths.data_root, context.partition_key
    sources = find_tiles(root, config.annotated_slides)
    base = settings_from(TissueTraining, {"mpp": settings.value.images.declared_mpp, **config.given()})
    space = SearchSpace(**config.space.model_dump())
    search = SearchSettings(config.trials, config.parallel, base.seed, base, space)

    def make(folder: Path) -> StageResult:
        task = TissueTask.choose(list(sources), (), base)
        journal = root.checkpoints("tissue_search", study)
        found = run_search(journal, task, search, compute.choose(), context.log.info, models_folder=root.models)
        return write_search(folder, study, found, search)

    return materialize_one(
        context,
        root,
        make=make,
        inputs={folder.name: version for folder, version in sources.items()},
        settings=vars(search) | {"base": base.model_dump(), "space": space.model_dump()},
        more=lambda folder: {"to_train_it": dg.MetadataValue.md(run_config("tissue_weights", f"from_study: {study}"))},
    )
