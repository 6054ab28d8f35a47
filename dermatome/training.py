"""Training the tissue network: one loop that keeps to its time, can be killed and goes on as if it had not been."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dermatome.classes import TISSUE_LABELS
from dermatome.errors import BadSetting, BadWeights
from dermatome.evaluation import Evaluation, Mask, ProbabilityRows, Rows, evaluate
from dermatome.network import MEAN, STD
from dermatome.scores import ClassScore, Confusion, class_scores, confusion_matrix, mean_iou, score_values
from dermatome.skin.crops import TilePair, tiles_sha256
from dermatome.tile_probabilities import tile_probabilities
from dermatome.training_clock import Clock
from dermatome.training_data import BatchSource
from dermatome.training_run import Parent, TrainingRun
from dermatome.training_settings import TrainSettings
from dermatome.training_team import Team, team_of
from dermatome.weights import LoadedWeights, WeightsCard

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from dermatome.compute import Compute
    from dermatome.files import AnyPath

__all__ = ["EpochReport", "TrainResult", "TrainSettings", "train"]

CHECKPOINT_FILE = "checkpoint.pt"


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
        evaluation: of the validation tiles; empty without any.
        scores: by class, of its confusion matrix.
        resumed: whether it went on from a checkpoint.
    """

    state: dict[str, torch.Tensor]
    card: WeightsCard
    history: pd.DataFrame
    evaluation: Evaluation
    scores: list[ClassScore]
    resumed: bool


def train(
    tiles_train: Sequence[TilePair],
    tiles_val: Sequence[TilePair],
    settings: TrainSettings,
    compute: Compute,
    checkpoint_dir: AnyPath | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    *,
    validation: str = "tiles were given for it",
    parent: LoadedWeights | None = None,
    processes: int = 1,
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
        parent: weights to go on from instead of random ones, of the same encoder and decoder.
        processes: how many share the passes of each step, on a GPU each; the number of passes is a multiple of it.

    Raises:
        BadSetting: there are no training tiles, or a setting does not fit.
        BadWeights: the parent's network is another than the settings', or a checkpoint is damaged.
        BadImage: a tile cannot be read.
        BadAnnotation: a tile's mask does not fit.
        StorageFailed: a checkpoint cannot be written.
    """
    import pandas as pd

    started = time.perf_counter()
    if not tiles_train:
        raise BadSetting("There are no tiles to train on: give at least one.")
    if settings.accumulate % max(1, processes):
        raise BadSetting(
            f"The {settings.accumulate} passes of a step cannot be shared by {processes} GPUs: set accumulate to "
            f"{processes} or a multiple of it."
        )
    if parent is not None:
        _check_parent(parent, settings)
    scale = settings.mpp / settings.network_mpp
    data_sha256 = tiles_sha256([*tiles_train, *tiles_val])
    checkpoint = None if checkpoint_dir is None else checkpoint_dir / CHECKPOINT_FILE
    last_checkpoint = started

    def epoch_ends(run: TrainingRun, clock: Clock, loss: float) -> bool:
        nonlocal last_checkpoint
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
            "train_loss": loss,
            "mean_iou": mean_iou(scores),
            **{f"iou_{score.label}": score.iou for score in scores},
        }
        run.history.append(row)
        enough = run.note_best(mean_iou(scores))
        if checkpoint is not None and time.perf_counter() - last_checkpoint >= settings.checkpoint_seconds:
            run.save(checkpoint)
            last_checkpoint = time.perf_counter()
        if on_epoch:
            on_epoch(_report(row, scores, settings, clock.share(run.step)))
        return enough

    plan = _Plan(tuple(tiles_train), settings, compute, checkpoint, data_sha256)
    given = Parent(parent.sha256, parent.network.state_dict()) if parent else None
    others = (plan, Parent(parent.sha256, None) if parent else None)
    with team_of(processes, compute, _help, others) as team:
        run, resumed = _run(team, plan, given, started, epoch_ends)
    if run.best is not None:
        run.mean_network.load_state_dict(run.best.state)
    found = evaluate(tiles_val, _probabilities(run, scale), settings.mpp)
    scores = class_scores(found.confusion, TISSUE_LABELS)
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
        parent=parent.sha256 if parent else None,
        created_from=tuple(sorted({tile.group for tile in tiles_train})),
    )
    state = {name: tensor.detach().to("cpu", copy=True) for name, tensor in run.mean_network.state_dict().items()}
    return TrainResult(state, card, pd.DataFrame(run.history), found, scores, resumed)


@dataclass(frozen=True)
class _Plan:
    """What every member of a team needs to know."""

    tiles: tuple[TilePair, ...]
    settings: TrainSettings
    compute: Compute
    checkpoint: AnyPath | None
    data_sha256: str


def _help(team: Team, plan: _Plan, parent: Parent | None) -> None:
    _run(team, plan, parent, time.perf_counter(), lambda run, clock, loss: False)


def _run(
    team: Team,
    plan: _Plan,
    parent: Parent | None,
    started: float,
    epoch_ends: Callable[[TrainingRun, Clock, float], bool],
) -> tuple[TrainingRun, bool]:
    """The loop itself; returns the run at its end, and whether it went on from a checkpoint."""
    settings = plan.settings
    source = BatchSource(
        plan.tiles,
        scale=settings.mpp / settings.network_mpp,
        crop_px=settings.crop_px,
        batch=settings.batch,
        augment=settings.augment,
        coarse_factor=settings.coarse_factor,
        seed=settings.seed,
    )
    run = TrainingRun(settings, plan.compute, plan.data_sha256, source.pixels, team, parent)
    resumed = plan.checkpoint is not None and run.restore(plan.checkpoint)
    views = settings.batch * settings.accumulate
    epoch_steps = max(settings.epoch_steps, math.ceil(source.views_for_area / views))
    clock = Clock(settings, started - run.seconds, epoch_steps)
    device = plan.compute.torch_device
    ended = run.patience_is_over or clock.over(run.step)
    share, over = team.agreed(clock.share(run.step), ended, device)
    losses: list[float] = []
    # A GPU outruns one thread that bends and stains views; on the CPU the network needs the cores.
    batches = source.batches(run.passes(), threads=1 if plan.compute.device == "cpu" else 8)
    while not over:
        clock.step_begins()
        losses.append(run.train_step(batches, share))
        clock.step_ends()
        share, over = team.agreed(clock.share(run.step), clock.over(run.step), device)
        if run.step % epoch_steps == 0 or over:
            enough = epoch_ends(run, clock, float(np.mean(losses)))
            share, over = team.agreed(clock.share(run.step), over or enough, device)
            losses = []
    batches.close()
    return run, resumed


def _check_parent(parent: LoadedWeights, settings: TrainSettings) -> None:
    here = (settings.encoder, tuple(settings.decoder_channels))
    there = (parent.card.encoder, tuple(parent.card.decoder_channels))
    if here != there:
        raise BadWeights(
            f"{parent.path} is a network of {there[0]} with decoder channels {there[1]}, not of {here[0]} with "
            f"{here[1]}: leave encoder and decoder_channels out, or start from scratch."
        )


def _validate(run: TrainingRun, tiles: Sequence[TilePair], scale: float) -> Confusion:
    probabilities = _probabilities(run, scale)
    total: Confusion = np.zeros((len(TISSUE_LABELS),) * 2, dtype=np.int64)
    for tile in tiles:
        truth = tile.read()[1]

        def count(top: int, rows: Rows, truth: Mask = truth) -> None:
            nonlocal total
            here = truth[top : top + rows.shape[1]]
            total = total + confusion_matrix(here, rows.argmax(axis=0), len(TISSUE_LABELS))

        probabilities(tile, count)
    return total


def _probabilities(run: TrainingRun, scale: float) -> ProbabilityRows:
    settings = run.settings
    return tile_probabilities(
        run.mean_network, run.compute, MEAN, STD, scale, tile_px=2 * settings.crop_px, batch=settings.batch
    )


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
