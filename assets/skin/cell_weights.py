"""`cell_weights`: one training version of a network of Cellpose's architecture that finds cells."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
from pydantic import Field

from assets.partitions import CELL_VERSIONS
from assets.sources import CELL_ANNOTATIONS, CYTO2
from assets.training import TrainingConfig, make_version, not_held_out, training_config, weights_asset
from dermatome.errors import MissingInput
from dermatome.registry.model_kinds import CELLS
from dermatome.settings import Settings
from dermatome.skin.cells.task import CellTraining
from dermatome.storage.files import folders_in
from dermatome.storage.layout import DataRoot
from resources import ComputeResource, PathsResource, SettingsResource


class CellRun(TrainingConfig):
    """The run config of a cell training; unset settings take their defaults."""

    continue_from: str | None = Field(
        default=None,
        description="A version, cyto2, toy or a weights file to fine-tune; v001_cont1 is fine-tuned from v001.",
    )
    sets: list[str] | None = Field(
        default=None, description="Folders of cell_annotations/; None: all but those of the hold-out set."
    )


def find_sets(root: DataRoot, settings: Settings, names: Sequence[str]) -> dict[Path, str]:
    """Folder and data version of each named set of annotated images."""
    from dermatome.skin.cells.annotations import annotated_sha256, find_annotated

    folders, mpp = [root.cell_set(name) for name in names], settings.images.declared_mpp
    return {folder: annotated_sha256(find_annotated(folder, declared_mpp=mpp))[:32] for folder in folders}


CellConfig = training_config("CellConfig", CellRun, CellTraining, without=["mpp"])


@weights_asset(CELLS, CELL_VERSIONS, "skin_training", code_version="2", deps=[CELL_ANNOTATIONS, CYTO2])
def cell_weights(
    context: dg.AssetExecutionContext,
    config: CellConfig,
    paths: PathsResource,
    settings: SettingsResource,
    compute: ComputeResource,
) -> dg.MaterializeResult:
    """One partition is one training version: weights with a card, average precision before and after on held-out
    images, curves and samples.

    It is trained on the folders of `cell_annotations/`: images, each with its cells in a file beside it (Aperio XML,
    GeoJSON or a label image). With `continue_from` it is fine-tuned from `cyto2`, `toy`, a file or a version; a version
    named `v002_cont1` is fine-tuned from `v002`.

    ```yaml
    ops:
      cell_weights:
        config:
          continue_from: cyto2
          max_minutes: 30
          learning_rate: 0.0005
    ```
    """
    from dermatome.skin.cells.task import CellTask

    root, mpp, cells = paths.data_root, settings.value.images.declared_mpp, settings.value.cells
    sets = config.sets or not_held_out(root, CELLS, folders_in(root.cell_annotations))
    if not sets:
        raise MissingInput(
            f"There are no annotated cells yet: put a folder of images and their cells into {root.cell_annotations}."
        )
    return make_version(
        context,
        root,
        CellTask,
        find_sets(root, settings.value, sets),
        {"mpp": mpp, **config.given()},
        config,
        compute,
        prepare=lambda task: dataclasses.replace(task, cells=cells),
        recorded={"cells": cells.model_dump()},
    )
