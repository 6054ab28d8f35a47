"""How the network of nuclei is trained: every setting, its default and what it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from dermatome.errors import BadSetting
from dermatome.imaging.augmentation import AugmentSettings, augmentation
from dermatome.nuclei.maps.losses import ImmuneSampling, NucleusLoss
from dermatome.nuclei.maps.network import DECODER_CHANNELS
from dermatome.training.settings import EPOCHS_WITHOUT_LIMIT, LoopSettings, given_settings

AUGMENT = AugmentSettings(scale=1.15, coarse_share=0.0, elastic_px=3.0)
"""Gentler in shape than for tissue, or the boundary, three pixels wide, would be bent away."""

Part = TypeVar("Part", NucleusLoss, ImmuneSampling)


@dataclass(frozen=True)
class NucleusTraining(LoopSettings):
    """How the network of nuclei is trained; the defaults are the source system's.

    It began with an encoder trained on ImageNet: set ``encoder_weights`` to ``imagenet``, and it is fetched.

    Attributes:
        encoder: of segmentation-models-pytorch.
        decoder_channels: of the U-Net.
        encoder_weights: ``None`` trains from scratch; ``imagenet`` begins with an encoder that was trained on ImageNet.
        dropout: share of the decoder's last channels that a step leaves out (Tompson et al., 2015).
        crop_px: side of a view of a patch.
        mpp: microns per pixel of the patches.
        validation_share: of the patients, held out where no validation patches are given.
        augment: how views differ from patches.
        warmup_epochs: in which the learning rate rises; of 40 where only time ends the run.
        loss: of the two heads.
        sampling: of patches with immune cells.
        inside_share: of Dice of the inside in the score by which the best epoch is kept.
        boundary_share: of Dice of the boundary in it.
    """

    encoder: str = "resnet34"
    decoder_channels: tuple[int, ...] = DECODER_CHANNELS
    encoder_weights: str | None = None
    dropout: float = 0.2
    crop_px: int = 256
    learning_rate: float = 3e-4
    weight_decay: float = 3e-4
    mpp: float = 0.25
    validation_share: float = 0.2
    augment: AugmentSettings = AUGMENT
    warmup_epochs: float = 5.0
    loss: NucleusLoss = field(default_factory=NucleusLoss)
    sampling: ImmuneSampling = field(default_factory=ImmuneSampling)
    inside_share: float = 0.7
    boundary_share: float = 0.3

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        if self.crop_px < 32 or self.crop_px % 32:
            raise BadSetting(f"The crop is {self.crop_px} px: use a multiple of 32.")
        if not 0 <= self.dropout < 1:
            raise BadSetting(f"The dropout is {self.dropout}: set it from 0 to below 1.")
        if not self.mpp > 0:
            raise BadSetting(f"The patches' scale is {self.mpp} microns per pixel: set it above 0.")
        if not self.warmup_epochs >= 0:
            raise BadSetting(f"The epochs of warming up are {self.warmup_epochs}: set them to 0 or more.")
        if min(self.inside_share, self.boundary_share) < 0 or self.inside_share + self.boundary_share == 0:
            raise BadSetting("The shares of inside and boundary in the score must not be below 0, nor both 0.")

    @property
    def warm_share(self) -> float:
        """The share of the run in which the learning rate rises; half of it at most."""
        return min(0.5, self.warmup_epochs / (self.epochs or EPOCHS_WITHOUT_LIMIT))

    @property
    def keeps_best(self) -> bool:
        """The weights of the best epoch are kept, however the run ends."""
        return True


def nucleus_settings(plain: Mapping[str, Any]) -> NucleusTraining:
    """The settings from plain values of a run config or a JSON file; those not given take their defaults.

    Raises:
        BadSetting: one does not exist or is out of its range.
    """
    known = {each.name for each in fields(NucleusTraining)}
    if unknown := sorted(set(plain) - known):
        raise BadSetting(f"There is no setting {unknown[0]!r} of the training: use {', '.join(sorted(known))}.")
    given = given_settings({name: value for name, value in plain.items() if name != "augment"}, NucleusTraining)
    if "augment" in plain:
        augmentation(plain["augment"])
        given["augment"] = replace(AUGMENT, **plain["augment"])
    for name, default in (("loss", NucleusLoss()), ("sampling", ImmuneSampling())):
        if name in given:
            given[name] = _changed(default, given[name], name)  # type: ignore[type-var]
    return NucleusTraining(**given)


def _changed(default: Part, given: Mapping[str, Any], what: str) -> Part:
    known = {each.name for each in fields(default)}
    if unknown := sorted(set(given) - known):
        raise BadSetting(f"There is no setting {unknown[0]!r} of the {what}: use {', '.join(sorted(known))}.")
    return replace(default, **given)
