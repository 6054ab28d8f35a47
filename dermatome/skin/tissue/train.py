"""Training the tissue network on tiles, by the one loop (:mod:`dermatome.training.loop`)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dermatome.classes import TISSUE_LABELS
from dermatome.errors import BadSetting, BadWeights
from dermatome.metrics.semantic import ClassScore, Confusion, class_scores, confusion_matrix, mean_iou, score_values
from dermatome.skin.tiles.crops import TilePair, tiles_sha256
from dermatome.skin.tissue.evaluate import Evaluation, Mask, ProbabilityRows, Rows, evaluate
from dermatome.skin.tissue.tile_probabilities import tile_probabilities
from dermatome.training.data import BatchSource, split_sha256
from dermatome.training.encoder_weights import EncoderFile, encoder_file
from dermatome.training.loop import CHECKPOINT_FILE, Validated, learn
from dermatome.training.losses import class_weights, make_loss
from dermatome.training.settings import TrainSettings
from dermatome.training.state import Parent, Parts, TrainingRun
from dermatome.training.unet import MEAN, STD, build_network, drop_channels, to_batch
from dermatome.training.weights import LoadedWeights, WeightsCard

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from dermatome.inference.compute import Compute

__all__ = ["CHECKPOINT_FILE", "EpochReport", "TrainResult", "TrainSettings", "train"]


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
        card: what :func:`dermatome.training.weights.save_weights` stores with it.
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
    checkpoint_dir: Path | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    *,
    validation: str = "tiles were given for it",
    parent: LoadedWeights | None = None,
    processes: int = 1,
    models_folder: Path | None = None,
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
        models_folder: where the encoder's ready weights are kept, if the settings ask for some.

    Raises:
        BadSetting: there are no training tiles, or a setting does not fit.
        FetchFailed: the encoder's ready weights are not there and could not be fetched.
        BadWeights: the parent's network is another than the settings', or a checkpoint is damaged.
        BadImage: a tile cannot be read.
        BadAnnotation: a tile's mask does not fit.
        StorageFailed: a checkpoint cannot be written.
    """
    import pandas as pd

    started = time.perf_counter()
    if not tiles_train:
        raise BadSetting("There are no tiles to train on: give at least one.")
    if parent is not None:
        check_parent(parent, settings.encoder, settings.decoder_channels)
    data_sha256 = split_sha256(tiles_sha256(tiles_train), tiles_sha256(tiles_val))
    begun_with = (
        None if parent is not None else ready_encoder(settings.encoder, settings.encoder_weights, models_folder)
    )

    def validate(run: TrainingRun) -> Validated:
        scores = class_scores(_validate(run, tiles_val, settings), TISSUE_LABELS)
        mean = mean_iou(scores)
        return Validated(mean, {"mean_iou": mean, **{f"iou_{score.label}": score.iou for score in scores}})

    learnt = learn(
        TissueTask(tuple(tiles_train), settings, data_sha256, begun_with),
        compute,
        validate,
        parent=Parent(parent.sha256, parent.network.state_dict()) if parent else None,
        checkpoint_dir=checkpoint_dir,
        on_epoch=None if on_epoch is None else lambda row, share: on_epoch(_report(row, settings, share)),
        processes=processes,
        started=started,
    )
    run = learnt.run
    found = evaluate(tiles_val, _probabilities(run, settings), settings.mpp)
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
        initial_weights=begun_with.source if begun_with else "",
        initial_sha256=begun_with.sha256 if begun_with else "",
        created_from=tuple(sorted({tile.group for tile in tiles_train})),
    )
    return TrainResult(learnt.state(), card, pd.DataFrame(run.history), found, scores, learnt.resumed)


@dataclass(frozen=True)
class TissueTask:
    """A U-Net for tissues and the tiles it learns from; see :class:`dermatome.training.state.TrainingTask`."""

    tiles: tuple[TilePair, ...]
    settings: TrainSettings
    data_sha256: str
    encoder_file: EncoderFile | None = None

    def build(self, compute: Compute) -> Parts:
        """The U-Net, its tiles read, and its loss."""
        settings = self.settings
        network = build_network(settings.encoder, len(TISSUE_LABELS), settings.decoder_channels, self.encoder_file)
        drop_channels(network.get_submodule("segmentation_head"), settings.dropout)
        source = BatchSource(
            self.tiles,
            scale=settings.mpp / settings.network_mpp,
            crop_px=settings.crop_px,
            batch=settings.batch,
            augment=settings.augment,
            coarse_factor=settings.coarse_factor,
            seed=settings.seed,
        )
        criterion = make_loss(
            settings.loss,
            dice_weight=settings.dice_weight,
            focal_weight=settings.focal_weight,
            class_weights=class_weights(source.pixels(len(TISSUE_LABELS)), settings.class_weighting),
        ).to(compute.torch_device)
        return Parts(
            network,
            source,
            lambda images: to_batch(images, MEAN, STD, compute),
            lambda logits, truth: criterion(logits.float(), truth),
        )


def ready_encoder(encoder: str, weights: str | None, models_folder: Path | None) -> EncoderFile | None:
    """The ready weights of that name that an encoder begins with; ``None`` where it begins at random.

    Raises:
        BadSetting: there is no folder to keep them in.
        FetchFailed: they are not there and could not be fetched.
    """
    if weights is None:
        return None
    if models_folder is None:
        raise BadSetting(
            f"The encoder's weights {weights!r} need a folder to be kept in: name the models folder, "
            "or set encoder_weights to none."
        )
    return encoder_file(encoder, weights, models_folder)


def check_parent(parent: LoadedWeights, encoder: str, decoder_channels: Sequence[int]) -> None:
    """Checks that a network of this encoder and decoder can go on from ``parent``.

    Raises:
        BadWeights: the parent's network is another.
    """
    here, there = (encoder, tuple(decoder_channels)), (parent.card.encoder, tuple(parent.card.decoder_channels))
    if here != there:
        raise BadWeights(
            f"{parent.path} is a network of {there[0]} with decoder channels {there[1]}, not of {here[0]} with "
            f"{here[1]}: leave encoder and decoder_channels out, or start from scratch."
        )


def _validate(run: TrainingRun, tiles: Sequence[TilePair], settings: TrainSettings) -> Confusion:
    probabilities = _probabilities(run, settings)
    total: Confusion = np.zeros((len(TISSUE_LABELS),) * 2, dtype=np.int64)
    for tile in tiles:
        truth = tile.read()[1]

        def count(top: int, rows: Rows, truth: Mask = truth) -> None:
            nonlocal total
            here = truth[top : top + rows.shape[1]]
            total = total + confusion_matrix(here, rows.argmax(axis=0), len(TISSUE_LABELS))

        probabilities(tile, count)
    return total


def _probabilities(run: TrainingRun, settings: TrainSettings) -> ProbabilityRows:
    scale = settings.mpp / settings.network_mpp
    return tile_probabilities(
        run.mean_network, run.compute, MEAN, STD, scale, tile_px=2 * settings.crop_px, batch=settings.batch
    )


def _report(row: dict[str, Any], settings: TrainSettings, share: float) -> EpochReport:
    return EpochReport(
        epoch=row["epoch"],
        epochs=settings.epochs,
        step=row["step"],
        seconds=row["seconds"],
        share_done=share,
        train_loss=row["train_loss"],
        learning_rate=row["learning_rate"],
        mean_iou=row["mean_iou"],
        iou={label: row[f"iou_{label}"] for label in TISSUE_LABELS},
    )
