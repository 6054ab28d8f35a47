"""Training a cell network as a stage: annotated images in; weights, scores before and after, figures out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.registry.leakage import check_leakage, one_slide_only
from dermatome.registry.lineage import Lineage, find_lineage, lineage_of_file
from dermatome.registry.manifest import (
    ManifestRow,
    licences,
    manifest_path,
    read_manifest,
    validation_sha256,
    write_manifest,
)
from dermatome.registry.model_kinds import CELLS
from dermatome.skin.cells.annotations import AnnotatedCells, cell_manifest_rows, find_annotated
from dermatome.skin.cells.card import save_cell_network
from dermatome.skin.cells.cyto2 import fetch_cyto2
from dermatome.skin.cells.network import LoadedCells, open_cells
from dermatome.skin.cells.report import precision_values, write_cell_report
from dermatome.skin.cells.settings import CellSettings
from dermatome.skin.cells.train import CellTrainResult, CellTrainSettings, train_cells
from dermatome.storage.layout import WEIGHTS_FILE, DataRoot
from dermatome.storage.record import Scalar, StageResult
from dermatome.training.data import Split, split_tiles

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute

NAMED = ("cyto2", "toy")
"""Networks that are no version and no file."""

OnEpoch = Callable[[Mapping[str, Any], float], None]


def train_cells_file(
    folders: Sequence[Path],
    out: Path,
    settings: CellTrainSettings,
    compute: Compute,
    *,
    name: str,
    validation_folders: Sequence[Path] = (),
    declared_mpp: float = 0.5,
    cells: CellSettings | None = None,
    lineage: Lineage[LoadedCells] | None = None,
    checkpoint_dir: Path | None = None,
    on_epoch: OnEpoch | None = None,
    processes: int = 1,
) -> tuple[CellTrainResult, str]:
    """Trains on the annotated images in ``folders``; writes the weights to ``out``, card and manifest beside them.

    Args:
        folders: of images with their cells beside them (:mod:`dermatome.skin.cells.annotations`).
        out: the weights file.
        settings: of the training.
        compute: device and precision.
        name: of the weights.
        validation_folders: images to validate on; where there are none, a share is held out, whole patients or slides.
        declared_mpp: microns per pixel of images for which no file states it.
        cells: how cells are found in images that are held out.
        lineage: the weights it goes on from; patients and slides stay on the side they were on.
        checkpoint_dir: where a run that was killed goes on from.
        on_epoch: see :func:`dermatome.skin.cells.train.train_cells`.
        processes: likewise.

    Returns:
        The result, its card as it was written, and the sha256 of the weights file.

    Raises:
        MissingInput, BadSetting, BadWeights, BadAnnotation, BadImage, StorageFailed: see
            :func:`dermatome.skin.cells.annotations.find_annotated` and :func:`train_cells`.
    """
    images = find_annotated(*folders, declared_mpp=declared_mpp)
    split: Split[AnnotatedCells]
    if validation_folders:
        held = find_annotated(*validation_folders, declared_mpp=declared_mpp)
        split = Split(tuple(images), tuple(held), "images were given for it")
    else:
        share = settings.validation_share if len(images) > 1 else 0.0
        split = split_tiles(images, share, settings.seed, lineage.sides() if lineage else None, what="images")
    result = train_cells(
        split.train,
        split.validation,
        settings,
        compute,
        name=name,
        cells=cells,
        checkpoint_dir=checkpoint_dir,
        on_epoch=on_epoch,
        validation=split.how,
        parent=lineage.weights if lineage else None,
        processes=processes,
    )
    rows = [*cell_manifest_rows(split.train, "train"), *cell_manifest_rows(split.validation, "validation")]
    manifest_sha256 = write_manifest(manifest_path(out), rows)
    card = replace(result.card, manifest_sha256=manifest_sha256, licence=licences(rows))
    return replace(result, card=card), save_cell_network(out, result.state, card)


def make_cell_weights(
    folders: Sequence[Path],
    folder: Path,
    version: str,
    settings: CellTrainSettings,
    compute: Compute,
    on_epoch: OnEpoch | None = None,
    *,
    declared_mpp: float,
    cells: CellSettings,
    checkpoints: Path | None = None,
    lineage: Lineage[LoadedCells] | None = None,
    hold_out: Sequence[ManifestRow] = (),
    processes: int = 1,
) -> StageResult:
    """Trains one version.

    Files: `weights.safetensors`, its card `weights.json`, the manifest of its images `weights.tiles.parquet`, and the
    report (see :func:`dermatome.skin.cells.report.write_cell_report`).

    Args:
        folders: of annotated images.
        folder: for the files.
        version: its name.
        settings: of the training.
        compute: device and precision.
        on_epoch: told each epoch's row of the history, and how much of the run is done.
        declared_mpp: microns per pixel of images for which no file states it.
        cells: how cells are found in images that are held out.
        checkpoints: where a run that was killed goes on from.
        lineage: the weights it goes on from.
        hold_out: images that no version may learn from.
        processes: how many GPUs share the passes of a step.

    Raises:
        MissingInput, BadSetting, BadWeights, BadAnnotation, BadImage: see :func:`train_cells_file`.
    """
    started = time.perf_counter()
    weights = folder / WEIGHTS_FILE
    result, sha256 = train_cells_file(
        folders,
        weights,
        settings,
        compute,
        name=version,
        declared_mpp=declared_mpp,
        cells=cells,
        lineage=lineage,
        checkpoint_dir=checkpoints,
        on_epoch=on_epoch,
        processes=processes,
    )
    trained = time.perf_counter()
    rows = read_manifest(manifest_path(weights))
    card = result.card
    values: dict[str, Scalar] = {
        "weights_sha256": sha256,
        "parent": lineage.name if lineage else None,
        "parent_sha256": card.parent,
        "seed": settings.seed,
        "epochs": len(result.history),
        "steps": card.steps,
        "diameter_um": card.diameter_um,
        "diameter_px": card.diameter_px,
        "images_train": sum(row.side == "train" for row in rows),
        "images_validation": sum(row.side == "validation" for row in rows),
        "images_sha256": card.data_sha256,
        "manifest_sha256": card.manifest_sha256,
        "validation_sha256": validation_sha256(rows),
        "one_slide_only": one_slide_only(rows),
        "validation": card.validation,
        "device": compute.device_name,
        "precision": compute.precision,
        "resumed": result.resumed,
        **precision_values(result.before, result.after),
    }
    checks = (check_leakage(rows, hold_out, lineage),)
    write_cell_report(
        folder, version, result.history, result.before, result.after, values=values, settings=card.settings,
        checks=checks,
    )  # fmt: skip
    return StageResult(
        outcome="trained",
        data_version=sha256[:32],
        values=values,
        seconds={"train": trained - started, "write": time.perf_counter() - trained},
        checks=checks,
    )


def open_cell_lineage(root: DataRoot, version: str, continue_from: str | None = None) -> Lineage[LoadedCells] | None:
    """The weights that a version is fine-tuned from: a version, ``cyto2``, ``toy`` or a file; None if from scratch.

    Raises:
        BadSetting, MissingInput, BadWeights: see :func:`dermatome.registry.lineage.find_lineage`.
        FetchFailed: ``cyto2`` is missing and could not be fetched.
    """

    def named(name: str) -> Lineage[LoadedCells] | None:
        models = fetch_cyto2(root.models) if name == "cyto2" else None
        return named_lineage(name, models) if name in NAMED else None

    return find_lineage(root, CELLS, version, continue_from, open_cells, named)


def named_lineage(name: str, models_folder: Path | None = None) -> Lineage[LoadedCells]:
    """``cyto2``, ``toy`` or the weights at a path; errors as for :func:`dermatome.skin.cells.network.open_cells`."""
    if name not in NAMED:
        return lineage_of_file(Path(name), open_cells)
    # The training data of toy is synthetic. That of cyto2 is unknown, and may be the images the version is scored on.
    return Lineage(name, open_cells(name, models_folder=models_folder, fetch_missing=True), {}, name == "toy")
