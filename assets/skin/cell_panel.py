"""`cell_panel`: frozen images of annotated cells; `cell_panel_scores`: each version on them, held to the champion."""

import contextlib

import dagster as dg
from pydantic import Field

from assets.one import make_one
from assets.partitions import CELL_VERSIONS
from assets.skin.cell_weights import cell_weights
from dermatome.storage.files import local_copy
from dermatome.storage.layout import CHAMPION
from dermatome.storage.record import made_by, read_record
from resources import ComputeResource, PathsResource, SettingsResource
from resources.settings import as_plain


class CellPanelChoice(dg.Config):
    """The images of the panel."""

    sets: list[str] = Field(description="Folders of `cell_annotations/` kept for the panel; no training uses them.")
    replace: bool = Field(default=False, description="Give up the panel there is: its scores do not count any more.")


@dg.asset(code_version="1", group_name="training", kinds={"file"})
def cell_panel(
    context: dg.AssetExecutionContext, config: CellPanelChoice, paths: PathsResource, settings: SettingsResource
) -> dg.MaterializeResult:
    """Copies of the named sets of annotated images, with a manifest. It stays as it is until it is replaced."""
    from dermatome.skin.cells.annotations import annotated_sha256, find_annotated
    from dermatome.skin.cells.hold_out import freeze_cell_panel

    root, mpp = paths.data_root, settings.value.images.declared_mpp
    with contextlib.ExitStack() as stack:
        sets = [stack.enter_context(local_copy(root.cell_set(name))) for name in config.sets]
        inputs = {files.name: annotated_sha256(find_annotated(files, declared_mpp=mpp))[:32] for files in sets}
        return make_one(
            context,
            root,
            CHAMPION,
            make=lambda folder: freeze_cell_panel(root, sets, folder, mpp, give_up=config.replace),
            inputs=inputs,
            settings=config.model_dump(),
        )


@dg.asset(
    partitions_def=CELL_VERSIONS,
    deps=[cell_weights, cell_panel],
    check_specs=[
        dg.AssetCheckSpec(
            "no_precision_drops",
            asset="cell_panel_scores",
            partitions_def=CELL_VERSIONS,
            blocking=True,
            description="Average precision is nowhere below the champion's on the panel by more than the margin.",
        )
    ],
    pool="gpu",
    code_version="1",
    group_name="training",
    kinds={"pytorch"},
)
def cell_panel_scores(
    context: dg.AssetExecutionContext, paths: PathsResource, settings: SettingsResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """A version's scores on the panel. Its check blocks promotion in the same run; `cell_champion` asks as well."""
    from dermatome.skin.cells.hold_out import score_cells_on_panel

    root, version = paths.data_root, context.partition_key
    panel = read_record(root.record("cell_panel", CHAMPION))
    inputs = {"cell_weights": made_by(root, "cell_weights", version).data_version}
    mpp, promotion, cells = settings.value.images.declared_mpp, settings.value.promotion, settings.value.cells
    return make_one(
        context,
        root,
        version,
        make=lambda folder: score_cells_on_panel(
            root, version, compute.choose(), folder, declared_mpp=mpp, cells=cells, settings=promotion
        ),
        inputs=inputs | ({"cell_panel": panel.data_version} if panel else {}),
        settings={"promotion": as_plain(promotion), "cells": as_plain(cells), "mpp": mpp},
    )
