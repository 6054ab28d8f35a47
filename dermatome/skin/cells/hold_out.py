"""The frozen hold-out set of annotated cells, which no cell network trains on, and the challengers' scores on it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.errors import BadSetting
from dermatome.registry.model_kinds import CELLS
from dermatome.registry.promotion import PromotionSettings, drop_check
from dermatome.reports.training import SAMPLES_FIGURE
from dermatome.skin.cells.annotations import cell_manifest_rows, find_annotated
from dermatome.skin.cells.figures import cell_samples_figure
from dermatome.skin.cells.network import open_cells
from dermatome.skin.cells.report import IMAGE_SCORES_FILE, image_scores
from dermatome.skin.cells.scores import mean_precision, score_cells
from dermatome.skin.cells.settings import CellSettings
from dermatome.skin.tissue.hold_out import check_trained, frozen, without_hold_out
from dermatome.slides.preview import preview
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import CHAMPION, PREVIEW_FILE, WEIGHTS_FILE, DataRoot
from dermatome.storage.record import Scalar, StageResult, read_record, require_record, write_table

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute

IMAGES_FOLDER = "images"


def freeze_cell_hold_out(
    root: DataRoot, sets: Sequence[Path], folder: Path, declared_mpp: float, *, give_up: bool = False
) -> StageResult:
    """Copies folders of annotated images into ``folder``, with a manifest.

    Args:
        root: the data root.
        sets: folders of images with their cells beside them.
        folder: for the copies.
        declared_mpp: microns per pixel of images for which no file states it.
        give_up: whether an existing hold-out set may be replaced; its scores do not compare with new ones.

    Raises:
        BadSetting: no folder is named, or there is another hold-out set.
        MissingInput, BadAnnotation: see :func:`dermatome.skin.cells.annotations.find_annotated`.
    """
    if not sets:
        raise BadSetting("Name the sets of annotated cells of the hold-out set: set `sets` in the run config.")
    find_annotated(*sets)
    copies = [shutil.copytree(files, folder / IMAGES_FOLDER / files.name) for files in sets]
    rows = list(cell_manifest_rows(find_annotated(*copies, declared_mpp=declared_mpp), "hold_out"))
    return frozen(root, CELLS, folder, rows, [files.name for files in sets], replace=give_up)


def score_cells_on_hold_out(
    root: DataRoot,
    version: str,
    compute: Compute,
    folder: Path,
    *,
    declared_mpp: float,
    cells: CellSettings,
    settings: PromotionSettings,
) -> StageResult:
    """Scores a version on the hold-out set as it would find cells on slides, and says whether it may become champion.

    Files: `image_scores.parquet`, `samples.png`.

    Args:
        root: the data root.
        version: the challenger.
        compute: device and precision.
        folder: for the files.
        declared_mpp: microns per pixel of images for which no file states it.
        cells: how cells are found.
        settings: the margin.

    Raises:
        MissingInput: the version is not trained.
        BadWeights: its file is not the one that was trained.
    """
    started = time.perf_counter()
    trained = require_record(root, CELLS.weights, version)
    hold_out = read_record(root.record(CELLS.hold_out, CHAMPION))
    if hold_out is None:
        write_table(folder / IMAGE_SCORES_FILE, image_scores(version, [], []))
        return without_hold_out(CELLS, trained)
    files = root.folder(CELLS.weights, version)
    loaded = open_cells(files / WEIGHTS_FILE)
    check_trained(trained, loaded.sha256)
    card = loaded.card
    cells = cells.changed(diameter_um=cells.diameter_um or card.diameter_um)
    files = root.folder(CELLS.hold_out, CHAMPION)
    images = find_annotated(*sorted((files / IMAGES_FOLDER).iterdir()), declared_mpp=declared_mpp)
    network = loaded.network.to(compute.torch_device)
    scores = score_cells(images, network, card.diameter_px, cells, compute)
    samples = cell_samples_figure(scores)
    write_atomic(folder / SAMPLES_FIGURE, samples)
    write_atomic(folder / PREVIEW_FILE, preview(samples))
    write_table(folder / IMAGE_SCORES_FILE, image_scores(version, [], scores))
    values: dict[str, Scalar] = {
        "weights_sha256": loaded.sha256,
        "hold_out_sha256": hold_out.values["hold_out_sha256"],
        "margin": settings.margin,
        **mean_precision(scores),
    }
    return StageResult(
        outcome="scored",
        data_version=f"{loaded.sha256[:16]}{str(hold_out.values['hold_out_sha256'])[:16]}",
        values=values,
        seconds={"score": time.perf_counter() - started},
        checks=(drop_check(root, version, values, settings.margin, CELLS),),
    )
