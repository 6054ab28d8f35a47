"""Training of the network of nuclei as a stage: patches in, a version's weights, scores and curves out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from dermatome.metrics.panoptic import ImageScores, nucleus_values
from dermatome.nuclei.maps.evaluate import KnownPatch, evaluate_patches
from dermatome.nuclei.maps.figures import samples_figure
from dermatome.nuclei.maps.report import CLASSES_FILE, INSTANCE_SCORES, NUCLEUS_REPORT
from dermatome.nuclei.maps.segment import NucleusNetwork, prepare_nuclei
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.nuclei.maps.train import TrainedNuclei, TrainingPatch, train_nuclei
from dermatome.nuclei.patches.files import patch_manifest_rows
from dermatome.registry.leakage import check_leakage
from dermatome.registry.manifest import ManifestRow, manifest_path, validation_sha256, write_manifest
from dermatome.reports.training import SAMPLES_FIGURE, write_training_report
from dermatome.storage.layout import WEIGHTS_FILE
from dermatome.storage.record import Scalar, StageResult
from dermatome.training.weights import LoadedWeights, save_weights

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.nuclei.maps.training_settings import NucleusTraining
    from dermatome.registry.lineage import Lineage


class Patch(TrainingPatch, KnownPatch, Protocol):
    """A patch to train on, or to validate on with its nuclei."""


def make_nuclei_weights(
    patches: Sequence[Patch],
    patches_val: Sequence[Patch],
    folder: Path,
    version: str,
    settings: NucleusTraining,
    compute: Compute,
    on_epoch: Callable[[dict[str, Any], float], None] | None = None,
    *,
    validation: str = "patches were given for it",
    licence: str = "",
    checkpoints: Path | None = None,
    lineage: Lineage[LoadedWeights] | None = None,
    hold_out: Sequence[ManifestRow] = (),
    processes: int = 1,
    models_folder: Path | None = None,
) -> StageResult:
    """Trains one version and scores it: its maps on the validation patches, its nuclei on the images they are of.

    Files: `weights.safetensors`, its card `weights.json`, the manifest of its patches `weights.tiles.parquet`,
    `classes.parquet`, the training report (:func:`dermatome.reports.training.write_training_report`) and, where patches
    are validated on, `samples.png`.

    Args:
        patches: to train on.
        patches_val: to validate on, of other patients.
        folder: for the files.
        version: its name.
        settings: of the training.
        compute: device and precision.
        on_epoch: told each epoch's row of the history, and how much of the run is done.
        validation: how ``patches_val`` were chosen, in words.
        licence: of the patches.
        checkpoints: where a run that was killed goes on from.
        lineage: the weights it is fine-tuned from.
        hold_out: patches that no version may be trained on.
        processes: how many GPUs share the passes of a step.
        models_folder: where the encoder's ready weights are kept, if the settings ask for some.

    Raises:
        BadSetting, BadWeights, StorageFailed: see :func:`dermatome.nuclei.maps.train.train_nuclei`.
    """
    started = time.perf_counter()
    result = train_nuclei(
        patches,
        patches_val,
        settings,
        compute,
        checkpoints,
        on_epoch,
        validation=validation,
        parent=lineage.weights if lineage else None,
        processes=processes,
        models_folder=models_folder,
    )
    trained = time.perf_counter()
    rows = [*patch_manifest_rows(patches, "train"), *patch_manifest_rows(patches_val, "validation")]
    manifest_sha256 = write_manifest(manifest_path(folder / WEIGHTS_FILE), rows)
    images: list[ImageScores] = []
    samples = None
    if patches_val:
        segmentation = NucleusSettings(tile_px=max(result.card.tile_px, 64))
        network = _prepared(result, compute, segmentation)
        images = evaluate_patches(patches_val, network, result.card.mpp, segmentation)
        samples = samples_figure(patches_val, network, result.card.mpp, segmentation)
    found = nucleus_values(images) if images else {}
    card = replace(
        result.card,
        scores={**result.card.scores, **found},
        manifest_sha256=manifest_sha256,
        licence=licence or result.card.licence,
    )
    sha256 = save_weights(folder / WEIGHTS_FILE, result.state, card)
    values: dict[str, Scalar] = {
        "weights_sha256": sha256,
        "parent": lineage.name if lineage else None,
        "parent_sha256": lineage.weights.sha256 if lineage else None,
        "encoder": settings.encoder,
        "boundary_weighting": settings.loss.boundary_weighting,
        "immune_sampling": settings.sampling.enabled,
        "seed": settings.seed,
        "epochs": len(result.history),
        "steps": card.steps,
        "mpp": card.mpp,
        "patches": len(patches),
        "patches_validated": len(patches_val),
        "images_validated": len(images),
        "nuclei_validated": sum(image.nuclei for image in images),
        "patches_sha256": card.data_sha256,
        "manifest_sha256": card.manifest_sha256,
        "validation_sha256": validation_sha256(rows),
        "validation": card.validation,
        "device": compute.device_name,
        "precision": compute.precision,
        "resumed": result.resumed,
        "score": result.scores.selection(settings),
        **{f"ternary_dice_{part.label}": part.f1 for part in result.scores.parts},
        **{name: found.get(name) for name in INSTANCE_SCORES},
    }
    checks = (check_leakage(rows, hold_out, lineage),)
    write_training_report(
        folder,
        NUCLEUS_REPORT,
        version,
        result.history,
        values=values,
        settings=card.settings,
        checks=checks,
        tables={CLASSES_FILE: pa.Table.from_pylist(_class_rows(version, result))},
        figures={SAMPLES_FIGURE: samples},
    )
    return StageResult(
        outcome="trained",
        data_version=sha256[:32],
        values=values,
        seconds={"train": trained - started, "write": time.perf_counter() - trained},
        checks=checks,
    )


def _prepared(result: TrainedNuclei, compute: Compute, settings: NucleusSettings) -> NucleusNetwork:
    network = result.card.build()
    network.load_state_dict(result.state)
    loaded = LoadedWeights(network.eval().requires_grad_(False), result.card, "", Path())
    return prepare_nuclei(loaded, replace(compute, backend="torch"), settings)


def _class_rows(version: str, result: TrainedNuclei) -> list[dict[str, Any]]:
    both = (("semantic", result.scores.classes), ("ternary", result.scores.parts))
    return [{"version": version, "map": name, **score.to_json()} for name, scores in both for score in scores]
