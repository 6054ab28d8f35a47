"""Training the tissue network: one loop that keeps to its time, can be killed and goes on as if it had not been."""

from __future__ import annotations

import copy
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dermatome.augment import AugmentSettings
from dermatome.classes import TISSUE_LABELS
from dermatome.errors import BadSetting, BadWeights
from dermatome.files import sha256_bytes, write_whole
from dermatome.geometry import Size
from dermatome.losses import LossName, make_loss
from dermatome.network import MEAN, STD, build_network, to_batch
from dermatome.predict import Predictor, resize_image
from dermatome.scores import ClassScore, Confusion, class_scores, confusion_matrix, mean_iou, score_values
from dermatome.skin.crops import TilePair, load_tiles, tiles_sha256
from dermatome.training_data import BatchSource, split_tiles
from dermatome.weights import WeightsCard, save_weights

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from dermatome.compute import Compute

EPOCHS_WITHOUT_LIMIT = 40


@dataclass(frozen=True)
class TrainSettings:
    """How a tissue network is trained.

    Without ``epochs`` and ``max_minutes`` it trains for 40 epochs; with both, until the first of them. Where epochs end
    it, the same seed, tiles and machine give the same weights; where the clock does, the number of steps depends on it.

    Attributes:
        encoder: of segmentation-models-pytorch.
        decoder_channels: of the U-Net.
        encoder_weights: ``None`` trains from scratch; ``imagenet`` is downloaded.
        loss: its name.
        epochs: passes over the tiles' area, of at least ``epoch_steps`` steps each.
        max_minutes: limit of the whole call, with reading and final validation.
        epoch_steps: smallest number of steps that count as an epoch.
        batch: views in a step.
        crop_px: their side, at the training scale.
        learning_rate: the highest, after warming up; it falls to 0 along a cosine.
        weight_decay: of AdamW (Loshchilov and Hutter, 2019).
        warmup_share: of the run.
        ema_decay: of the running mean of the weights, which is what is validated and kept.
        seed: of everything random.
        mpp: microns per pixel that the tiles are declared to have.
        train_mpp: microns per pixel that the network sees; ``None`` takes four times ``mpp``. Tissues differ in texture
            and place, not in detail of a pixel, and their borders are drawn no finer: at a quarter of the resolution a
            step sees sixteen times the tissue, and training from scratch needs a fraction of the time.
        coarse_factor: how much coarser the first look at a slide is than ``train_mpp``.
        validation_share: held out by :func:`train_file` where no validation tiles are given.
        augment: how views differ from tiles.
        checkpoint_seconds: at least this long between two checkpoints.
    """

    encoder: str = "resnet18"
    decoder_channels: tuple[int, ...] = (128, 64, 32, 24, 16)
    encoder_weights: str | None = None
    loss: LossName = "dice_focal"
    epochs: int | None = None
    max_minutes: float | None = None
    epoch_steps: int = 25
    batch: int = 8
    crop_px: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup_share: float = 0.05
    ema_decay: float = 0.98
    seed: int = 0
    mpp: float = 0.5
    train_mpp: float | None = None
    coarse_factor: float = 2.0
    validation_share: float = 0.15
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Checks the settings."""
        if self.epochs is not None and self.epochs < 1:
            raise BadSetting(f"The number of epochs is {self.epochs}: set it to 1 or more.")
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise BadSetting(f"The time limit is {self.max_minutes} minutes: set it above 0.")
        if self.crop_px < 32 or self.crop_px % 32:
            raise BadSetting(f"The crop is {self.crop_px} px: use a multiple of 32.")
        if self.batch < 2:
            raise BadSetting(f"The batch is {self.batch}: use 2 or more, batch normalisation needs them.")
        if not (self.learning_rate > 0 and self.mpp > 0 and (self.train_mpp is None or self.train_mpp > 0)):
            raise BadSetting("The learning rate, mpp and train_mpp must be above 0.")
        if self.coarse_factor < 1:
            raise BadSetting(f"The coarse factor is {self.coarse_factor}: set it to 1 or more.")

    @property
    def network_mpp(self) -> float:
        """Microns per pixel that the network sees."""
        return self.train_mpp or 4 * self.mpp


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
    run = _Run(settings, compute, data_sha256)
    resumed = checkpoint_dir is not None and run.restore(checkpoint_dir / "checkpoint.pt")
    epoch_steps = max(settings.epoch_steps, math.ceil(source.views_for_area / settings.batch))
    clock = _Clock(settings, start - run.seconds, epoch_steps)
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


class _Run:
    """What changes while training: networks, optimiser, step, history. All of it is in a checkpoint."""

    def __init__(self, settings: TrainSettings, compute: Compute, data_sha256: str) -> None:
        import torch

        self.settings, self.compute = settings, compute
        torch.manual_seed(settings.seed)
        network = build_network(
            settings.encoder, len(TISSUE_LABELS), settings.decoder_channels, settings.encoder_weights
        )
        self.network = network.to(compute.torch_device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean_network: torch.nn.Module = copy.deepcopy(self.network).eval().requires_grad_(False)
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.scaler = torch.amp.GradScaler(compute.device, enabled=compute.precision == "fp16")
        self.loss = make_loss(settings.loss)
        self.step, self.seconds, self.learning_rate = 0, 0.0, 0.0
        self.history: list[dict[str, Any]] = []
        told = json.dumps([asdict(settings), data_sha256, compute.device, compute.precision], sort_keys=True)
        self.fingerprint = sha256_bytes(told.encode())

    def train_step(self, images: Any, labels: Any, share: float) -> float:
        import torch

        warm = self.settings.warmup_share
        rise = share / warm if share < warm else 0.5 + 0.5 * math.cos(math.pi * (share - warm) / (1 - warm))
        self.learning_rate = self.settings.learning_rate * max(rise, 1e-3)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        self.network.train()
        batch = to_batch(images, MEAN, STD, self.compute)
        truth = torch.from_numpy(labels).to(batch.device)
        with self.compute.autocast():
            logits = self.network(batch)
        loss = self.loss(logits.float(), truth)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.step += 1
        self._average()
        return float(loss.detach())

    def _average(self) -> None:
        import torch

        # The mean follows closely at first, so that a short run does not keep its random start.
        keep = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            mean, now = self.mean_network.state_dict(), self.network.state_dict()
            for name, value in now.items():
                if value.dtype.is_floating_point:
                    mean[name].lerp_(value, 1 - keep)
                else:
                    mean[name].copy_(value)

    def save(self, path: Path) -> None:
        import torch

        buffer = io.BytesIO()
        content = {
            "fingerprint": self.fingerprint,
            "network": self.network.state_dict(),
            "mean_network": self.mean_network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "learning_rate": self.learning_rate,
            "history": self.history,
        }
        torch.save(content, buffer)
        write_whole(path, buffer.getvalue())

    def restore(self, path: Path) -> bool:
        import torch

        if not path.is_file():
            return False
        try:
            content = torch.load(path, map_location=self.compute.torch_device, weights_only=True)
            if content["fingerprint"] != self.fingerprint:
                return False
            self.network.load_state_dict(content["network"])
            self.mean_network.load_state_dict(content["mean_network"])
            self.optimiser.load_state_dict(content["optimiser"])
            self.scaler.load_state_dict(content["scaler"])
        except Exception as error:
            raise BadWeights(f"The checkpoint {path} is damaged ({error}): delete it to start over.") from error
        self.step, self.seconds = int(content["step"]), float(content["seconds"])
        self.learning_rate, self.history = float(content["learning_rate"]), list(content["history"])
        return True


class _Clock:
    """How much of the run is done, and when it is over: by steps, by time, or by the first of both."""

    def __init__(self, settings: TrainSettings, start: float, epoch_steps: int) -> None:
        epochs = settings.epochs
        if epochs is None and settings.max_minutes is None:
            epochs = EPOCHS_WITHOUT_LIMIT
        self._steps = None if epochs is None else epochs * epoch_steps
        self._limit = None if settings.max_minutes is None else settings.max_minutes * 60
        self._start = start
        self._step_s = self._validation_s = 0.0
        self._mark = start

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def share(self, step: int) -> float:
        shares = [0.0]
        if self._steps is not None:
            shares.append(step / self._steps)
        if self._limit is not None:
            shares.append(self.seconds / max(1e-9, self._limit - self._reserve))
        return min(1.0, max(shares))

    def over(self, step: int) -> bool:
        if self._steps is not None and step >= self._steps:
            return True
        # One step always runs, however short the limit: the result is then poor, but it is one.
        return self._limit is not None and step > 0 and self.seconds + self._reserve >= self._limit

    @property
    def _reserve(self) -> float:
        return 1.2 * self._step_s + 1.5 * self._validation_s

    def step_begins(self) -> None:
        self._mark = time.perf_counter()

    def step_ends(self) -> None:
        took = time.perf_counter() - self._mark
        self._step_s = took if self._step_s == 0 else 0.8 * self._step_s + 0.2 * took

    def validation_begins(self) -> None:
        self._mark = time.perf_counter()

    def validation_ends(self) -> None:
        self._validation_s = max(self._validation_s, time.perf_counter() - self._mark)


def _validate(run: _Run, tiles: Sequence[TilePair], scale: float) -> Confusion:
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
