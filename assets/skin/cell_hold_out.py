"""`cell_hold_out`: frozen images of annotated cells; `cell_hold_out_scores`: versions scored on them."""

import dagster as dg
from pydantic import Field

from assets.one import make_one
from assets.partitions import CELL_VERSIONS
from assets.skin.cell_weights import cell_weights
from dermatome.storage.layout import CHAMPION
from dermatome.storage.record import read_record, require_record
from resources import ComputeResource, PathsResource, SettingsResource
from resources.settings import as_plain


class CellHoldOutChoice(dg.Config):
    """The images of the hold-out set."""

    sets: list[str] = Field(
        description="Folders of `cell_annotations/` kept for the hold-out set; no training uses them."
    )
    replace: bool = Field(
        default=False, description="Give up the hold-out set there is: its scores do not count any more."
    )


@dg.asset(code_version="1", group_name="training", kinds={"file"})
def cell_hold_out(
    context: dg.AssetExecutionContext, config: CellHoldOutChoice, paths: PathsResource, settings: SettingsResource
) -> dg.MaterializeResult:
    """Copies of the named sets of annotated images, with a manifest. It stays as it is until it is replaced."""
    from dermatome.skin.cells.annotations import annotated_sha256, find_annotated
    from dermatome.skin.cells.hold_out import freeze_cell_hold_out

    root, mpp = paths.data_root, settings.value.images.declared_mpp
    sets = [root.cell_set(name) for name in config.sets]
    inputs = {files.name: annotated_sha256(find_annotated(files, declared_mpp=mpp))[:32] for files in sets}
    return make_one(
        context,
        root,
        CHAMPION,
        make=lambda folder: freeze_cell_hold_out(root, sets, folder, mpp, give_up=config.replace),
        inputs=inputs,
        settings=config.model_dump(),
    )


@dg.asset(
    partitions_def=CELL_VERSIONS,
    deps=[cell_weights, cell_hold_out],
    check_specs=[
        dg.AssetCheckSpec(
            "no_precision_drops",
            asset="cell_hold_out_scores",
            partitions_def=CELL_VERSIONS,
            blocking=True,
            description="Average precision on the hold-out set is at most the margin below the champion's.",
        )
    ],
    pool="gpu",
    code_version="1",
    group_name="training",
    kinds={"pytorch"},
)
def cell_hold_out_scores(
    context: dg.AssetExecutionContext, paths: PathsResource, settings: SettingsResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """Scores of a version on the hold-out set. Its check blocks promotion in the same run."""
    from dermatome.skin.cells.hold_out import score_cells_on_hold_out

    root, version = paths.data_root, context.partition_key
    hold_out = read_record(root.record("cell_hold_out", CHAMPION))
    inputs = {"cell_weights": require_record(root, "cell_weights", version).data_version}
    mpp, promotion, cells = settings.value.images.declared_mpp, settings.value.promotion, settings.value.cells
    return make_one(
        context,
        root,
        version,
        make=lambda folder: score_cells_on_hold_out(
            root, version, compute.choose(), folder, declared_mpp=mpp, cells=cells, settings=promotion
        ),
        inputs=inputs | ({"cell_hold_out": hold_out.data_version} if hold_out else {}),
        settings={"promotion": as_plain(promotion), "cells": as_plain(cells), "mpp": mpp},
    )
