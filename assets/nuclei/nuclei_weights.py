"""`nuclei_weights`: one training version of the U-Net with a semantic and a ternary head."""

import dagster as dg
from pydantic import Field

from assets.nuclei.nuclei_patches import nuclei_patches
from assets.partitions import NUCLEI_VERSIONS, by_hand
from assets.registry import partitions_of
from assets.training import TrainingConfig, make_version, not_held_out, training_config, weights_asset
from dermatome.errors import MissingInput
from dermatome.nuclei.maps.task import NucleusTraining
from dermatome.registry.model_kinds import NUCLEI
from resources import ComputeResource, PathsResource


class NucleusRun(TrainingConfig):
    """The run config of a nucleus training; unset settings are those of the source system."""

    cases: list[str] | None = Field(default=None, description="Patients to train on; None: all that have patches.")


NucleusConfig = training_config("NucleusConfig", NucleusRun, NucleusTraining)


@weights_asset(NUCLEI, NUCLEI_VERSIONS, "nuclei_training", code_version="2", deps=[by_hand(nuclei_patches)])
def nuclei_weights(
    context: dg.AssetExecutionContext, config: NucleusConfig, paths: PathsResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """One partition is one training version: weights with a card, their patches, curves, and scores of maps, instances
    and classes.

    Add a version (`n001`) in the materialize dialog, and set what differs from the defaults in its run config.

    ```yaml
    ops:
      nuclei_weights:
        config:
          epochs: 60
          sampling: {neutrophil: 4.0}
    ```
    """
    from dermatome.nuclei.maps.task import NucleusTask

    root = paths.data_root
    cases = config.cases or not_held_out(root, NUCLEI, root.partitions("nuclei_patches"))
    if not cases:
        raise MissingInput("There are no nuclei patches yet: materialize nuclei_patches for the cases first.")
    sources = partitions_of(root, "nuclei_patches", cases)
    return make_version(context, root, NucleusTask, sources, config.given(), config, compute)
