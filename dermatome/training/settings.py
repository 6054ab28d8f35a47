"""Settings of a training, each declared once with type, default, allowed range and description.

Run configs and command-line options are generated from these fields (:mod:`assets.training`,
:mod:`dermatome.cli.train`). A task adds its own settings in a subclass.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from dermatome.imaging.augmentation import AugmentSettings
from dermatome.storage.settings_model import SettingsModel
from dermatome.training.encoders import MEAN, STD, check_encoder

EPOCHS_WITHOUT_LIMIT = 40
Encoder = Annotated[str, AfterValidator(check_encoder)]
"""The name of an encoder that a network may have."""
EncoderWeights = Annotated[str | None, BeforeValidator(lambda name: None if name == "none" else name)]
"""The name of an encoder's pretrained weights; ``none``, as on the command line, is None."""


class TrainingSettings(SettingsModel):
    """Settings that every task has.

    If neither ``epochs`` nor ``max_minutes`` is set, a training runs for 40 epochs; if both are, until the first of
    them. If epochs end it, the same seed, data and machine give the same weights; the number of steps within a time
    limit varies.
    """

    epochs: int | None = Field(default=None, ge=1, description="Passes over the area of the data.")
    max_minutes: float | None = Field(
        default=None, gt=0, description="Time limit in minutes, final validation included."
    )
    epoch_steps: int = Field(default=25, ge=1, description="Smallest number of optimiser steps that count as an epoch.")
    batch: int = Field(default=8, ge=2, description="Crops in a micro-batch; batch normalisation needs at least 2.")
    accumulate: int = Field(
        default=1,
        ge=1,
        description="Micro-batches in an optimiser step. GPUs share them, so it must be a multiple of gpus.",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Epochs without a better validation score before an early end. The best epoch is kept.",
    )
    learning_rate: float = Field(
        default=1e-3, gt=0, description="Peak learning rate, after the warm-up; cosine decay to 0."
    )
    weight_decay: float = Field(default=1e-2, ge=0, description="Weight decay of AdamW (Loshchilov and Hutter, 2019).")
    warmup_share: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the run in which the learning rate rises."
    )
    ema_decay: float = Field(
        default=0.98,
        ge=0,
        lt=1,
        description="Decay of the EMA of the weights, which is validated and kept; 0 switches it off.",
    )
    seed: int = Field(default=0, ge=0, description="Seed for every random choice.")
    validation_share: float = Field(
        default=0.15, ge=0, lt=1, description="Share of the data held out for validation, whole groups only."
    )
    synthetic: bool = Field(
        default=False,
        description="Whether all training images are synthetic. Every result of the weights then says so.",
    )
    checkpoint_seconds: float = Field(default=60.0, ge=0, description="Least time between two checkpoints in seconds.")

    @property
    def warm_share(self) -> float:
        """Share of the run in which the learning rate rises."""
        return self.warmup_share

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of the best epoch are kept, instead of those of the last one."""
        return self.patience is not None


class UNetSettings(TrainingSettings):
    """Settings that tasks with a U-Net of segmentation-models-pytorch share."""

    encoder: Encoder = Field(default="resnet18", description="Encoder, as segmentation-models-pytorch names it.")
    decoder_channels: tuple[int, ...] = Field(
        default=(128, 64, 32, 24, 16), description="Channels of the five decoder blocks, coarsest first."
    )
    encoder_weights: EncoderWeights = Field(
        default=None,
        description="Pretrained encoder weights, such as imagenet; fetched once. none starts from random weights.",
    )
    mean: tuple[float, ...] = Field(
        default=MEAN,
        min_length=3,
        max_length=3,
        description="Mean of the input's RGB values, 0 to 1. Pretrained encoder weights bring their own.",
    )
    std: tuple[float, ...] = Field(
        default=STD,
        min_length=3,
        max_length=3,
        description="Standard deviation of the input's RGB values. Pretrained encoder weights bring their own.",
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the decoder's last channels dropped in a step (Tompson et al., 2015).",
    )
    crop_px: int = Field(default=128, ge=32, multiple_of=32, description="Side of a crop at the network's scale, px.")
    mpp: float = Field(default=0.5, gt=0, description="Microns per pixel of the training data.")
    augment: AugmentSettings = Field(default=AugmentSettings(), description="How crops differ from the data.")


S = TypeVar("S", bound=TrainingSettings)


def settings_from(kind: type[S], plain: Mapping[str, Any]) -> S:
    """Settings from plain values of a run config, the command line or a JSON file; the others keep their defaults.

    A nested group, such as ``augment``, may be given in part.

    Raises:
        BadSetting: a name is unknown or a value is out of its range.
    """
    groups: dict[str, Any] = {name: value for name, value in plain.items() if isinstance(value, Mapping)}
    values: dict[str, Any] = {name: value for name, value in plain.items() if name not in groups}
    for name, default in kind(**values):
        if isinstance(default, SettingsModel) and name in groups:
            groups[name] = default.changed(**groups[name])
    return kind(**values, **groups)
