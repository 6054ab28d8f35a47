"""The hold-out set of cell networks: sets of annotated images, and the scores of a version on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.registry.manifest import ManifestRow
from dermatome.reports.training import SAMPLES_FIGURE
from dermatome.skin.cells.annotations import cell_manifest_rows, find_annotated
from dermatome.skin.cells.figures import cell_samples_figure
from dermatome.skin.cells.network import open_cells
from dermatome.skin.cells.report import IMAGE_SCORES_FILE, image_scores
from dermatome.skin.cells.scores import mean_precision, score_cells
from dermatome.skin.cells.settings import CellSettings
from dermatome.slides.preview import preview
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import PREVIEW_FILE
from dermatome.storage.record import Scalar, write_table

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute


def cell_rows(folders: Sequence[Path], declared_mpp: float) -> list[ManifestRow]:
    """Manifest rows of the annotated images in folders of the hold-out set.

    Args:
        folders: of images, each image with its cells beside it.
        declared_mpp: microns per pixel of images whose files do not state it.

    Raises:
        MissingInput, BadAnnotation: see :func:`dermatome.skin.cells.annotations.find_annotated`.
    """
    return list(cell_manifest_rows(find_annotated(*folders, declared_mpp=declared_mpp), "hold_out"))


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
