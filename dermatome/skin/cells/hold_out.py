"""The hold-out set of cell networks: sets of annotated images, and the scores of a version on them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.errors import BadSetting
from dermatome.registry.hold_out import SAMPLES_FOLDER, freeze_hold_out
from dermatome.registry.model_kinds import CELLS
from dermatome.reports.training import SAMPLES_FIGURE
from dermatome.skin.cells.annotations import cell_manifest_rows, find_annotated
from dermatome.skin.cells.figures import cell_samples_figure
from dermatome.skin.cells.network import open_cells
from dermatome.skin.cells.report import IMAGE_SCORES_FILE, image_scores
from dermatome.skin.cells.scores import mean_precision, score_cells
from dermatome.skin.cells.settings import CellSettings
from dermatome.slides.preview import preview
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import PREVIEW_FILE, DataRoot
from dermatome.storage.record import Scalar, StageResult, write_table

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute


def freeze_cells(
    root: DataRoot, sets: Sequence[Path], folder: Path, declared_mpp: float, *, replace: bool = False
) -> StageResult:
    """Copies folders of annotated images into ``folder``, with a manifest.

    Args:
        root: the data root.
        sets: folders of images, each image with its cells beside it.
        folder: for the copies.
        declared_mpp: microns per pixel of images whose files do not state it.
        replace: whether another hold-out set may be replaced.

    Raises:
        BadSetting: no folder is named, or there is another hold-out set.
        MissingInput, BadAnnotation: see :func:`dermatome.skin.cells.annotations.find_annotated`.
    """
    if not sets:
        raise BadSetting("Name the sets of annotated cells of the hold-out set: set `sets` in the run config.")
    find_annotated(*sets)
    copies = [shutil.copytree(files, folder / SAMPLES_FOLDER / files.name) for files in sets]
    rows = list(cell_manifest_rows(find_annotated(*copies, declared_mpp=declared_mpp), "hold_out"))
    return freeze_hold_out(root, CELLS, rows, [files.name for files in sets], folder, replace=replace)


def score_cell_version(
    weights: Path,
    samples: Sequence[Path],
    folder: Path,
    *,
    version: str,
    compute: Compute,
    declared_mpp: float,
    cells: CellSettings,
) -> dict[str, Scalar]:
    """Average precision of a version on the hold-out set, with cells found as on slides.

    Files: `image_scores.parquet`, `samples.png`.

    Args:
        weights: the weights file.
        samples: folders of annotated images.
        folder: for the files.
        version: its name.
        compute: device and precision.
        declared_mpp: microns per pixel of images whose files do not state it.
        cells: settings of the segmentation.
    """
    loaded = open_cells(weights)
    cells = cells.changed(diameter_um=cells.diameter_um or loaded.card.diameter_um)
    images = find_annotated(*samples, declared_mpp=declared_mpp)
    network = loaded.network.to(compute.torch_device)
    scores = score_cells(images, network, loaded.card.diameter_px, cells, compute)
    figure = cell_samples_figure(scores)
    write_atomic(folder / SAMPLES_FIGURE, figure)
    write_atomic(folder / PREVIEW_FILE, preview(figure))
    write_table(folder / IMAGE_SCORES_FILE, image_scores(version, [], scores))
    return dict(mean_precision(scores))
