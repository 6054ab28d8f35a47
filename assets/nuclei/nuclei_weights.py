"""`nuclei_weights`: one training version of the U-Net with a semantic and a ternary head."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.nuclei.nuclei_patches import nuclei_patches
from assets.nuclei.training_config import NucleusTrainingConfig
from assets.one import make_one
from assets.partitions import NUCLEI_VERSIONS
from dermatome.errors import MissingInput
from dermatome.storage.record import StageResult, require_record
from resources import ComputeResource, PathsResource
from resources.settings import as_plain


@dg.asset(
    partitions_def=NUCLEI_VERSIONS,
    deps=[dg.AssetDep(nuclei_patches, partition_mapping=dg.AllPartitionMapping())],
    check_specs=[
        dg.AssetCheckSpec(
            "no_leakage",
            asset="nuclei_weights",
            partitions_def=NUCLEI_VERSIONS,
            description="No patient, image or picture is both trained and tested on, by this version or its ancestors.",
        )
    ],
    pool="gpu",
    code_version="2",
    group_name="nuclei_training",
    kinds={"pytorch"},
)
def nuclei_weights(
    context: dg.AssetExecutionContext, config: NucleusTrainingConfig, paths: PathsResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """Weights with a card, their patches, curves, and scores of maps, instances and classes.

    Add a version (`n001`) in the materialize dialog, and set what differs from the source system's in its run config.
    """
    from dermatome.nuclei.maps.networks import open_nucleus_lineage
    from dermatome.nuclei.maps.training_files import choose_patches
    from dermatome.nuclei.maps.training_settings import nucleus_settings
    from dermatome.nuclei.maps.weights_stage import make_nuclei_weights
    from dermatome.registry.hold_out import hold_out_rows, hold_out_sources
    from dermatome.registry.model_kinds import NUCLEI
    from dermatome.training.loop import drop_checkpoints

    root, version = paths.data_root, context.partition_key
    checkpoints = root.checkpoints("nuclei_weights", version)
    settings = nucleus_settings(config.given())
    held_out = hold_out_sources(root, NUCLEI)
    cases = config.cases or [case for case in root.partitions("nuclei_patches") if case not in held_out]
    if not cases:
        raise MissingInput("There are no patches of nuclei yet: materialize nuclei_patches for cases first.")
    records = {case: require_record(root, "nuclei_patches", case) for case in cases}
    lineage = open_nucleus_lineage(root, version, config.continue_from)
    device, parent = compute.choose(), lineage.weights if lineage else None
    split = choose_patches([root.folder("nuclei_patches", case) for case in cases], (), settings, parent)
    inputs = {case: record.data_version for case, record in records.items()}

    def make(folder: Path) -> StageResult:
        return make_nuclei_weights(
            split.train,
            split.validation,
            folder,
            version,
            settings,
            device,
            lambda row, share: context.log.info(said(row, share)),
            validation=split.how,
            checkpoints=checkpoints,
            lineage=lineage,
            hold_out=hold_out_rows(root, NUCLEI),
            processes=config.gpus,
            models_folder=root.models,
        )

    done = make_one(
        context,
        root,
        version,
        make=make,
        inputs=inputs if lineage is None else {**inputs, "parent": lineage.weights.sha256[:32]},
        settings=as_plain(settings),
    )
    drop_checkpoints(checkpoints)
    return done


def said(row: dict[str, Any], share: float) -> str:
    """An epoch in a sentence of the run's log."""
    names = {"score": "score", "inside": "ternary_dice_inside", "boundary": "ternary_dice_boundary"}
    shown = ", ".join(f"{name} {row[column]:.3f}" for name, column in names.items() if row[column] is not None)
    return f"epoch {row['epoch']}: {share:.0%} done, {row['seconds']:.0f} s, loss {row['train_loss']:.3f}, {shown}"
