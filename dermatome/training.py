"""Training the tissue network: one loop that keeps to its time, can be killed and goes on as if it had not been."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dermatome.classes import TISSUE_LABELS
from dermatome.errors import BadSetting
from dermatome.geometry import Size
from dermatome.network import MEAN, STD
from dermatome.predict import Predictor, resize_image
from dermatome.scores import ClassScore, Confusion, class_scores, confusion_matrix, mean_iou, score_values
from dermatome.skin.crops import TilePair, load_tiles, tiles_sha256
from dermatome.training_data import BatchSource, split_tiles
from dermatome.training_run import Clock, TrainingRun
from dermatome.training_settings import TrainSettings
from dermatome.weights import WeightsCard, save_weights

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from dermatome.compute import Compute

__all__ = ["EpochReport", "TrainResult", "TrainSettings", "train", "train_file"]


@dataclass(frozen=True)
class EpochReport:
    """What is said after each epoch; validation values are ``None`` without validation tiles."""

    epoch: int
    epochs: int | None
    step: int
    seconds: float
    share_done: float
    train_loss: float
    learning_rate: float
    mean_iou: float | None
    iou: dict[str, float | None]


@dataclass(frozen=True)
class TrainResult:
    """A trained network.

    Attributes:
        state: its state dict on the CPU: the running mean of the weights.
        card: what :func:`dermatome.weights.save_weights` stores with it.
        history: a row for each epoch: epoch, step, seconds, learning_rate, train_loss, mean_iou and iou_<class>.
        confusion: (C, C) int64 of the validation tiles at their full resolution, truth in rows; zeros without any.
        scores: by class, of that matrix.
        resumed: whether it went on from a checkpoint.
    """

    state: dict[str, torch.Tensor]
    card: WeightsCard
    history: pd.DataFrame
    confusion: Confusion
    scores: list[ClassScore]
    resumed: bool


def train(
    tiles_train: Sequence[TilePair],
    tiles_val: Sequence[TilePair],
    settings: TrainSettings,
    compute: Compute,
    checkpoint_dir: Path | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    *,
    validation: str = "tiles were given for it",
) -> TrainResult:
    """Trains a U-Net on tiles, validates it after each epoch, and returns the running mean of its weights.

    Args:
        tiles_train: tiles to train on.
        tiles_val: tiles to validate on; may be empty.
        settings: see :class:`TrainSettings`.
        compute: device and precision.
        checkpoint_dir: where ``checkpoint.pt`` is kept while it runs. One of the same settings and tiles is gone on
            from, and a run that was killed ends like one that was not; one of other settings is replaced.
        on_epoch: called after each epoch.
        validation: how ``tiles_val`` were chosen, for the card.

    Raises:
        BadSetting: there are no training tiles, or a setting does not fit.
        BadImage: a tile cannot be read.
        BadAnnotation: a tile's mask does not fit.
        StorageFailed: a checkpoint cannot be written.
    """
    import pandas as pd
    import torch

    start = time.perf_counter()
    if not tiles_train:
        raise BadSetting("There are no tiles to train on: give at least one.")
    scale = settings.mpp / settings.network_mpp
    source = BatchSource(
        tiles_train,
        scale=scale,
        crop_px=settings.crop_px,
        batch=settings.batch,
        augment=settings.augment,
        coarse_factor=settings.coarse_factor,
        seed=settings.seed,
    )
    data_sha256 = tiles_sha256([*tiles_train, *tiles_val])
    run = TrainingRun(settings, compute, data_sha256)
    resumed = checkpoint_dir is not None and run.restore(checkpoint_dir / "checkpoint.pt")
    epoch_steps = max(settings.epoch_steps, math.ceil(source.views_for_area / settings.batch))
    clock = Clock(settings, start - run.seconds, epoch_steps)
    confusion: Confusion = np.zeros((len(TISSUE_LABELS),) * 2, dtype=np.int64)
    if resumed:
        confusion = _validate(run, tiles_val, scale)
    losses: list[float] = []
    last_checkpoint = time.perf_counter()
    batches = source.batches(run.step)
    while not clock.over(run.step):
        clock.step_begins()
        losses.append(run.train_step(*next(batches), clock.share(run.step)))
        clock.step_ends()
        if run.step % epoch_steps and not clock.over(run.step):
            continue
        clock.validation_begins()
        confusion = _validate(run, tiles_val, scale)
        clock.validation_ends()
        scores = class_scores(confusion, TISSUE_LABELS)
        run.seconds = clock.seconds
        row = {
            "epoch": len(run.history) + 1,
            "step": run.step,
            "seconds": round(run.seconds, 2),
            "learning_rate": run.learning_rate,
            "train_loss": float(np.mean(losses)),
            "mean_iou": mean_iou(scores),
            **{f"iou_{score.label}": score.iou for score in scores},
        }
        run.history.append(row)
        losses = []
        if checkpoint_dir is not None and time.perf_counter() - last_checkpoint >= settings.checkpoint_seconds:
            run.save(checkpoint_dir / "checkpoint.pt")
            last_checkpoint = time.perf_counter()
        if on_epoch:
            on_epoch(_report(row, scores, settings, clock.share(run.step)))
    batches.close()
    scores = class_scores(confusion, TISSUE_LABELS)
    card = WeightsCard(
        encoder=settings.encoder,
        decoder_channels=tuple(settings.decoder_channels),
        mpp=settings.network_mpp,
        mpp_range=(
            settings.network_mpp / settings.augment.scale,
            settings.network_mpp * settings.coarse_factor * settings.augment.scale,
        ),
        coarse_mpp=settings.network_mpp * settings.coarse_factor,
        tile_mpp=settings.mpp,
        tile_px=2 * settings.crop_px,
        scores=score_values(scores) if tiles_val else {},
        validation=validation if tiles_val else "nothing was held out",
        settings=json.loads(json.dumps(asdict(settings))),
        steps=run.step,
        data_sha256=data_sha256,
        created_from=tuple(sorted({tile.group for tile in tiles_train})),
    )
    state = {name: tensor.detach().to("cpu", copy=True) for name, tensor in run.mean_network.state_dict().items()}
    torch.manual_seed(settings.seed)
    return TrainResult(state, card, pd.DataFrame(run.history), confusion, scores, resumed)


def train_file(
    folders: Sequence[Path],
    out: Path,
    settings: TrainSettings,
    compute: Compute,
    *,
    validation_folders: Sequence[Path] = (),
    checkpoint_dir: Path | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> tuple[TrainResult, str]:
    """Trains on the tiles in ``folders`` and writes the weights to ``out``, with their card beside them.

    Where no ``validation_folders`` are given, a share of the tiles is held out (see
    :func:`dermatome.training_data.split_tiles`).

    Returns:
        The result and the sha256 of the weights file.

    Raises:
        MissingInput: a folder or file of the tiles is missing.
        BadSetting: see :func:`train`.
        BadAnnotation: a palette or mask does not fit.
        BadImage: a tile cannot be read.
        StorageFailed: ``out`` or a checkpoint cannot be written.
    """
    tiles = load_tiles(*folders)
    if validation_folders:
        result = train(tiles, load_tiles(*validation_folders), settings, compute, checkpoint_dir, on_epoch)
    else:
        share = settings.validation_share if len(tiles) > 1 else 0.0
        split = split_tiles(tiles, share, settings.seed)
        result = train(split.train, split.validation, settings, compute, checkpoint_dir, on_epoch, validation=split.how)
    return result, save_weights(out, result.state, result.card)


def _validate(run: TrainingRun, tiles: Sequence[TilePair], scale: float) -> Confusion:
    settings = run.settings
    predictor = Predictor(
        network=run.mean_network,
        classes=len(TISSUE_LABELS),
        mean=MEAN,
        std=STD,
        compute=run.compute,
        tile_px=2 * settings.crop_px,
        overlap_px=settings.crop_px // 2,
        batch=settings.batch,
    )
    total: Confusion = np.zeros((len(TISSUE_LABELS),) * 2, dtype=np.int64)
    for tile in tiles:
        image, truth = tile.read()
        size = Size(*truth.shape)
        found = predictor.labels(resize_image(image, size.scaled(scale)), size)
        total += confusion_matrix(truth, found.mask, len(TISSUE_LABELS))
    return total


def _report(row: dict[str, Any], scores: list[ClassScore], settings: TrainSettings, share: float) -> EpochReport:
    return EpochReport(
        epoch=row["epoch"],
        epochs=settings.epochs,
        step=row["step"],
        seconds=row["seconds"],
        share_done=share,
        train_loss=row["train_loss"],
        learning_rate=row["learning_rate"],
        mean_iou=row["mean_iou"],
        iou={score.label: score.iou for score in scores},
    )
