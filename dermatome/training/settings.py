"""How networks are trained: every setting of the loop and of the tissue network, its default and what it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from dermatome.errors import BadSetting
from dermatome.imaging.augmentation import AugmentSettings, augmentation
from dermatome.training.losses import ClassWeighting, LossName

EPOCHS_WITHOUT_LIMIT = 40


@dataclass(frozen=True)
class LoopSettings:
    """What the training loop itself goes by, whatever is trained.

    Without ``epochs`` and ``max_minutes`` it trains for 40 epochs; with both, until the first of them. Where epochs end
    it, the same seed, data and machine give the same weights; where the clock does, the number of steps depends on it.

    Attributes:
        epochs: passes over the data's area, of at least ``epoch_steps`` steps each.
        max_minutes: limit of the whole call, with reading and final validation.
        epoch_steps: smallest number of steps that count as an epoch.
        batch: views that pass through the network together.
        accumulate: such passes in a step, whose gradients and batch statistics are averaged. Several GPUs share them,
            so their number does not change what is learnt.
        patience: epochs without a better validation score after which it ends early; the weights of the best epoch are
            kept then. ``None`` trains to the end and keeps the last.
        learning_rate: the highest, after warming up; it falls to 0 along a cosine.
        weight_decay: of AdamW (Loshchilov and Hutter, 2019).
        warmup_share: of the run.
        ema_decay: of the running mean of the weights, which is what is validated and kept; 0 keeps just the weights.
        seed: of everything random.
        checkpoint_seconds: at least this long between two checkpoints.
    """

    epochs: int | None = None
    max_minutes: float | None = None
    epoch_steps: int = 25
    batch: int = 8
    accumulate: int = 1
    patience: int | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup_share: float = 0.05
    ema_decay: float = 0.98
    seed: int = 0
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Checks the settings."""
        if self.epochs is not None and self.epochs < 1:
            raise BadSetting(f"The number of epochs is {self.epochs}: set it to 1 or more.")
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise BadSetting(f"The time limit is {self.max_minutes} minutes: set it above 0.")
        if self.batch < 2:
            raise BadSetting(f"The batch is {self.batch}: use 2 or more, batch normalisation needs them.")
        if self.accumulate < 1:
            raise BadSetting(f"The number of passes in a step is {self.accumulate}: set it to 1 or more.")
        if self.patience is not None and self.patience < 1:
            raise BadSetting(f"The patience is {self.patience} epochs: set it to 1 or more, or leave it out.")
        if not self.learning_rate > 0:
            raise BadSetting(f"The learning rate is {self.learning_rate}: set it above 0.")

    @property
    def warm_share(self) -> float:
        """The share of the run in which the learning rate rises."""
        return self.warmup_share

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of the best epoch are kept, and not those of the last."""
        return self.patience is not None


@dataclass(frozen=True)
class TrainSettings(LoopSettings):
    """How a tissue network is trained; what the loop goes by is :class:`LoopSettings`'.

    Attributes:
        encoder: of segmentation-models-pytorch.
        decoder_channels: of the U-Net.
        encoder_weights: ``None`` trains from scratch; ``imagenet`` begins with an encoder that was trained on ImageNet,
            see :mod:`dermatome.training.encoder_weights`. Not used where other weights are fine-tuned.
        loss: its name, see :func:`dermatome.training.losses.make_loss`.
        dice_weight: of the Dice part of the loss ``dice_focal``.
        focal_weight: of its focal part.
        class_weighting: how much a class counts by its pixels in the training tiles, see
            :func:`dermatome.training.losses.class_weights`.
        dropout: share of the decoder's last channels that a step leaves out (Tompson et al., 2015).
        crop_px: side of a view, at the training scale.
        mpp: microns per pixel that the tiles are declared to have.
        train_mpp: microns per pixel that the network sees; ``None`` takes four times ``mpp``. Tissues differ in texture
            and place, not in detail of a pixel, and their borders are drawn no finer: at a quarter of the resolution a
            step sees sixteen times the tissue, and training from scratch needs a fraction of the time.
        coarse_factor: how much coarser the first look at a slide is than ``train_mpp``.
        validation_share: held out by :func:`train_file` where no validation tiles are given.
        augment: how views differ from tiles.
    """

    encoder: str = "resnet18"
    decoder_channels: tuple[int, ...] = (128, 64, 32, 24, 16)
    encoder_weights: str | None = None
    loss: LossName = "dice_focal"
    dice_weight: float = 1.0
    focal_weight: float = 1.0
    class_weighting: ClassWeighting = "equal"
    dropout: float = 0.0
    crop_px: int = 128
    mpp: float = 0.5
    train_mpp: float | None = None
    coarse_factor: float = 2.0
    validation_share: float = 0.15
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        if self.crop_px < 32 or self.crop_px % 32:
            raise BadSetting(f"The crop is {self.crop_px} px: use a multiple of 32.")
        if not 0 <= self.dropout < 1:
            raise BadSetting(f"The dropout is {self.dropout}: set it from 0 to below 1.")
        if min(self.dice_weight, self.focal_weight) < 0 or self.dice_weight + self.focal_weight == 0:
            raise BadSetting("The weights of Dice and focal loss must not be below 0, nor both 0.")
        if not (self.mpp > 0 and (self.train_mpp is None or self.train_mpp > 0)):
            raise BadSetting("The mpp and train_mpp must be above 0.")
        if self.coarse_factor < 1:
            raise BadSetting(f"The coarse factor is {self.coarse_factor}: set it to 1 or more.")

    @property
    def network_mpp(self) -> float:
        """Microns per pixel that the network sees."""
        return self.train_mpp or 4 * self.mpp


def given_settings(plain: Mapping[str, Any], kind: type[LoopSettings] = TrainSettings) -> dict[str, Any]:
    """What ``kind`` takes, from plain values of a run config or a JSON file; other names are left out.

    Raises:
        BadSetting: an augmentation does not exist or is out of its range.
    """
    known = {each.name for each in fields(kind)}
    given = {name: value for name, value in plain.items() if name in known}
    if "augment" in given:
        given["augment"] = augmentation(given["augment"])
    if "decoder_channels" in given:
        given["decoder_channels"] = tuple(given["decoder_channels"])
    return given
