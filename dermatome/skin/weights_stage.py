"""Training as a stage: tiles in, a version's weights, scores, curves and figures out; and choosing the champion."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from dermatome import figures
from dermatome.classes import TISSUE_LABELS
from dermatome.data_root import PREVIEW_FILE, RECORD_FILE, WEIGHTS_FILE, DataRoot
from dermatome.errors import BadSetting, BadWeights, MissingInput
from dermatome.files import sha256_file, write_whole
from dermatome.scores import Confusion, mean_iou
from dermatome.stage_record import StageRecord, StageResult, read_record, write_table
from dermatome.training import EpochReport, TrainSettings
from dermatome.training_files import train_file
from dermatome.weights import card_path

if TYPE_CHECKING:
    from dermatome.compute import Compute

CHECKPOINTS = "checkpoints"
CONFUSION_FILE = "confusion_matrix.parquet"


def make_weights(
    tiles: Sequence[Path],
    folder: Path,
    version: str,
    settings: TrainSettings,
    compute: Compute,
    on_epoch: Callable[[EpochReport], None] | None = None,
    *,
    processes: int = 1,
) -> StageResult:
    """Trains one version on the tiles of annotated slides: the H&E ones and, where there are any, the IHC ones beside.

    Files: `weights.safetensors` and its card `weights.json`, `history.parquet`, `scores.parquet`,
    `confusion_matrix.parquet`, `curves.png`, `confusion.png`. A run that was killed goes on from its last checkpoint;
    call :func:`drop_checkpoints` once the record is written. What an earlier training of this version left stays whole,
    its record too, until this one is trained; then the record goes first.

    Raises:
        MissingInput: there are no tiles.
        BadSetting, BadAnnotation, BadImage: see `dermatome.training.train`.
    """
    started = time.perf_counter()
    checkpoints = folder / CHECKPOINTS
    fresh = checkpoints / WEIGHTS_FILE
    result, sha256 = train_file(
        tiles, fresh, settings, compute, checkpoint_dir=checkpoints, on_epoch=on_epoch, processes=processes
    )
    trained = time.perf_counter()
    # Weights that replace others must not be vouched for by the record of those.
    (folder / RECORD_FILE).unlink(missing_ok=True)
    for made in (fresh, card_path(fresh)):
        made.replace(folder / made.name)
    history = result.history.assign(version=version)
    write_table(folder / "history.parquet", pa.Table.from_pandas(history, preserve_index=False))
    by_class = [{"version": version} | score.to_json() for score in result.scores]
    write_table(folder / "scores.parquet", pa.Table.from_pylist(by_class))
    write_table(folder / CONFUSION_FILE, _pairs(result.confusion, version))
    write_whole(folder / "confusion.png", figures.confusion_figure(result.confusion, TISSUE_LABELS))
    curves = figures.curves_figure(result.history)
    write_whole(folder / "curves.png", curves)
    write_whole(folder / PREVIEW_FILE, figures.preview(curves))
    total = int(result.confusion.sum())
    f1 = [score.f1 for score in result.scores if score.f1 is not None]
    return StageResult(
        outcome="trained",
        data_version=sha256[:32],
        values={
            "weights_sha256": sha256,
            "encoder": settings.encoder,
            "loss": settings.loss,
            "seed": settings.seed,
            "epochs": len(result.history),
            "steps": result.card.steps,
            "mpp": result.card.mpp,
            "coarse_mpp": result.card.coarse_mpp,
            "tiles_sha256": result.card.data_sha256,
            "validation": result.card.validation,
            "device": compute.device_name,
            "precision": compute.precision,
            "resumed": result.resumed,
            "mean_iou": mean_iou(result.scores),
            "mean_f1": sum(f1) / len(f1) if f1 else None,
            "accuracy": float(result.confusion.trace() / total) if total else None,
            **{
                f"{name}_{score.label}": getattr(score, name)
                for name in ("iou", "f1", "precision", "recall", "mcc")
                for score in result.scores
            },
        },
        seconds={"train": trained - started, "write": time.perf_counter() - trained},
    )


def drop_checkpoints(folder: Path) -> None:
    """Forgets how a version was trained, once its record is written: nothing is left to go on from."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def confusion_markdown(folder: Path) -> str:
    """A version's confusion matrix as a markdown table: truth in rows, pixels and their share of the row."""
    pairs = pq.ParquetFile(folder / CONFUSION_FILE).read().to_pylist()
    pixels = {(pair["truth"], pair["predicted"]): pair["pixels"] for pair in pairs}
    if not any(pixels.values()):
        return "Nothing was held out to validate on."
    lines = [["truth \\ predicted", *TISSUE_LABELS], ["---", *["---:"] * len(TISSUE_LABELS)]]
    for truth in TISSUE_LABELS:
        counts = [pixels[truth, predicted] for predicted in TISSUE_LABELS]
        total = sum(counts)
        lines.append([truth, *(f"{count:,} ({count / total:.1%})" if total else "0" for count in counts)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _pairs(confusion: Confusion, version: str) -> pa.Table:
    rows = [
        {"version": version, "truth": truth, "predicted": predicted, "pixels": int(confusion[i, j])}
        for i, truth in enumerate(TISSUE_LABELS)
        for j, predicted in enumerate(TISSUE_LABELS)
    ]
    return pa.Table.from_pylist(rows)


@dataclass(frozen=True)
class Choice:
    """The version that masks are made with, and why."""

    version: str
    weights_sha256: str
    chosen_by: str
    score: float | None


def choose_champion(root: DataRoot, by: str = "mean_iou", version: str | None = None) -> Choice:
    """The version named by hand, or the one with the highest validation score ``by``; the earlier one where equal.

    Args:
        root: the data root.
        by: a column of the versions' records: ``mean_iou``, ``mean_f1``, ``iou_epidermis``, …
        version: chosen by hand.

    Raises:
        MissingInput: no version is trained, or not the one named, or its file is gone.
        BadSetting: no version has that score.
        BadWeights: its file is not the one that was trained.
    """
    versions = _versions(root)
    if not versions:
        raise MissingInput("No weights are trained yet: materialize tissue_weights for a training version first.")
    if version is not None:
        if version not in versions:
            raise MissingInput(f"The training version {version!r} is not trained: use one of {', '.join(versions)}.")
        chosen, score = version, _score(versions[version], by)
    else:
        scored = {name: found for name, record in versions.items() if (found := _score(record, by)) is not None}
        if not scored:
            raise BadSetting(
                f"No training version has the validation score {by!r}: use another score (mean_iou, iou_epidermis, …), "
                "train with tiles to validate on, or name a version."
            )
        chosen = max(scored, key=lambda name: scored[name])
        score = scored[chosen]
    path = root.folder("tissue_weights", chosen) / WEIGHTS_FILE
    sha256 = sha256_file(path)
    if sha256 != versions[chosen].values.get("weights_sha256"):
        raise BadWeights(
            f"{path} is not the file that training {chosen} wrote (its sha256 is not the record's): materialize "
            f"tissue_weights for {chosen} again, or choose another version."
        )
    return Choice(chosen, sha256, "hand" if version is not None else by, score)


def _versions(root: DataRoot) -> dict[str, StageRecord]:
    folder = root.folder("tissue_weights")
    names = sorted(path.parent.name for path in folder.glob(f"[!.]*/{RECORD_FILE}"))
    records = {name: read_record(root.record("tissue_weights", name)) for name in names}
    return {name: record for name, record in records.items() if record is not None}


def _score(record: StageRecord, by: str) -> float | None:
    value = record.values.get(by)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
