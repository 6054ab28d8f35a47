"""`cell_weights`: one training version of a network of Cellpose's form that finds cells."""

from typing import Any

import dagster as dg

from assets.one import make_one
from assets.partitions import CELL_VERSIONS
from assets.skin.training_config import CellTraining
from dermatome.errors import MissingInput
from dermatome.storage.files import folders_in
from resources import ComputeResource, PathsResource, SettingsResource
from resources.settings import as_plain


@dg.asset(
    partitions_def=CELL_VERSIONS,
    check_specs=[
        dg.AssetCheckSpec(
            "no_leakage",
            asset="cell_weights",
            partitions_def=CELL_VERSIONS,
            description="No patient, slide or picture is both trained and tested on, by this version or its ancestors.",
        )
    ],
    pool="gpu",
    code_version="1",
    group_name="training",
    kinds={"pytorch"},
)
def cell_weights(
    context: dg.AssetExecutionContext,
    config: CellTraining,
    paths: PathsResource,
    settings: SettingsResource,
    compute: ComputeResource,
) -> dg.MaterializeResult:
    """Weights with a card, average precision before and after on images held out, curves and samples.

    It learns from the folders of `cell_annotations/`: images, each with its cells beside it (Aperio XML, GeoJSON or a
    label image). From scratch, or from `cyto2`, `toy`, a file or a version: `continue_from` in the run config; a
    version named `v002_cont1` goes on from `v002`.
    """
    from dermatome.registry.hold_out import hold_out_rows, hold_out_sources
    from dermatome.registry.model_kinds import CELLS
    from dermatome.skin.cells.annotations import annotated_sha256, find_annotated
    from dermatome.skin.cells.train import CellTrainSettings
    from dermatome.skin.cells.weights_stage import make_cell_weights, open_cell_lineage
    from dermatome.training.loop import drop_checkpoints

    root, version, mpp = paths.data_root, context.partition_key, settings.value.images.declared_mpp
    checkpoints, held_out = root.checkpoints("cell_weights", version), hold_out_sources(root, CELLS)
    sets = config.sets or [name for name in folders_in(root.cell_annotations) if name not in held_out]
    if not sets:
        raise MissingInput(
            f"There are no annotated cells yet: put a folder of images with their cells into {root.cell_annotations}."
        )
    folders = [root.cell_set(name) for name in sets]
    inputs = {files.name: annotated_sha256(find_annotated(files, declared_mpp=mpp))[:32] for files in folders}
    lineage = open_cell_lineage(root, version, config.continue_from)
    given = config.given()
    chosen = CellTrainSettings(**(given if lineage is None else lineage.fill_in(given)))
    cells = settings.value.cells
    done = make_one(
        context,
        root,
        version,
        make=lambda folder: make_cell_weights(
            folders,
            folder,
            version,
            chosen,
            compute.choose(),
            lambda row, share: context.log.info(_said(row, share)),
            declared_mpp=mpp,
            cells=cells,
            checkpoints=checkpoints,
            lineage=lineage,
            hold_out=hold_out_rows(root, CELLS),
            processes=config.gpus,
        ),
        inputs=inputs if lineage is None else {**inputs, "parent": lineage.weights.sha256[:32]},
        settings=as_plain(chosen) | {"cells": as_plain(cells), "declared_mpp": mpp},
        # Of one slide only, no split can hide it; that is a limit of the data, which whoever has no more must know.
        warn=lambda result: bool(result.values["one_slide_only"]),
    )
    drop_checkpoints(checkpoints)
    return done


def _said(row: Any, share: float) -> str:
    text = f"epoch {row['epoch']}: {share:.0%} done, {row['seconds']:.0f} s, loss {row['train_loss']:.3f}"
    scores = ", ".join(f"{name} {row[name]:.2f}" for name in ("ap_50", "ap_75", "ap_90") if row[name] is not None)
    return f"{text}, {scores}" if scores else text
