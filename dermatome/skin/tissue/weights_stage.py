"""Training as a stage: tiles in, a version's weights, scores, curves and figures out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from dermatome.classes import TISSUE_LABELS
from dermatome.registry.leakage import check_leakage, one_slide_only
from dermatome.registry.manifest import ManifestRow, manifest_path, read_manifest, validation_sha256
from dermatome.skin.tissue.report import CONFUSION_FILE, report_values, write_tissue_report
from dermatome.skin.tissue.train import EpochReport, TrainSettings
from dermatome.skin.tissue.training_files import train_file
from dermatome.storage.layout import WEIGHTS_FILE
from dermatome.storage.record import Scalar, StageResult

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.registry.lineage import Lineage
    from dermatome.training.weights import LoadedWeights


def make_weights(
    tiles: Sequence[Path],
    folder: Path,
    version: str,
    settings: TrainSettings,
    compute: Compute,
    on_epoch: Callable[[EpochReport], None] | None = None,
    *,
    checkpoints: Path | None = None,
    lineage: Lineage[LoadedWeights] | None = None,
    hold_out: Sequence[ManifestRow] = (),
    processes: int = 1,
    models_folder: Path | None = None,
) -> StageResult:
    """Trains one version on the tiles of annotated slides: the H&E ones and, where there are any, the IHC ones beside.

    Files: `weights.safetensors`, its card `weights.json` and the manifest of its tiles `weights.tiles.parquet`,
    and the report (see `dermatome.skin.tissue.report.write_tissue_report`).

    Args:
        tiles: a folder for each annotated slide.
        folder: for the files.
        version: its name.
        settings: of the training.
        compute: device and precision.
        on_epoch: called after each epoch.
        checkpoints: where a run that was killed goes on from; see :func:`drop_checkpoints`.
        lineage: the weights it goes on from.
        hold_out: tiles that no version may learn from.
        processes: how many GPUs share the passes of a step.
        models_folder: where the encoder's ready weights are kept, if the settings ask for some.

    Raises:
        MissingInput: there are no tiles.
        BadSetting, BadWeights, BadAnnotation, BadImage: see `dermatome.skin.tissue.train.train`.
    """
    started = time.perf_counter()
    weights = folder / WEIGHTS_FILE
    result, sha256 = train_file(
        tiles,
        weights,
        settings,
        compute,
        checkpoint_dir=checkpoints,
        on_epoch=on_epoch,
        parent=lineage.weights if lineage else None,
        known_sides=lineage.sides() if lineage else None,
        processes=processes,
        models_folder=models_folder,
    )
    trained = time.perf_counter()
    rows = read_manifest(manifest_path(weights))
    values: dict[str, Scalar] = {
        "weights_sha256": sha256,
        "parent": lineage.name if lineage else None,
        "parent_sha256": lineage.weights.sha256 if lineage else None,
        "encoder": settings.encoder,
        "initial_weights": result.card.initial_weights or None,
        "loss": settings.loss,
        "seed": settings.seed,
        "epochs": len(result.history),
        "steps": result.card.steps,
        "mpp": result.card.mpp,
        "coarse_mpp": result.card.coarse_mpp,
        "tiles_sha256": result.card.data_sha256,
        "manifest_sha256": result.card.manifest_sha256,
        "validation_sha256": validation_sha256(rows),
        "one_slide_only": one_slide_only(rows),
        "validation": result.card.validation,
        "device": compute.device_name,
        "precision": compute.precision,
        "resumed": result.resumed,
        **report_values(result.evaluation),
    }
    checks = (check_leakage(rows, hold_out, lineage),)
    write_tissue_report(
        folder, version, result.history, result.evaluation, values=values, settings=result.card.settings, checks=checks
    )
    return StageResult(
        outcome="trained",
        data_version=sha256[:32],
        values=values,
        seconds={"train": trained - started, "write": time.perf_counter() - trained},
        checks=checks,
    )


def confusion_markdown(folder: Path) -> str:
    """The confusion matrix of a version as a Markdown table, ground truth in rows: pixels and share of the row."""
    pairs = pq.ParquetFile(folder / CONFUSION_FILE).read().to_pylist()
    pixels = {(pair["truth"], pair["predicted"]): pair["pixels"] for pair in pairs}
    if not any(pixels.values()):
        return "Nothing was held out to validate on."
    lines = [["ground truth \\ predicted", *TISSUE_LABELS], ["---", *["---:"] * len(TISSUE_LABELS)]]
    for truth in TISSUE_LABELS:
        counts = [pixels[truth, predicted] for predicted in TISSUE_LABELS]
        total = sum(counts)
        lines.append([truth, *(f"{count:,} ({count / total:.1%})" if total else "0" for count in counts)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
