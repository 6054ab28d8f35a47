"""What a search for training settings goes by: how many trials, over which ranges, and what a trial draws from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from dermatome.errors import BadSetting
from dermatome.training.settings import TrainSettings

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class SearchSpace:
    """What is searched, as (lowest, highest) or a list of choices.

    Attributes:
        learning_rate: on a logarithmic scale.
        weight_decay: likewise.
        dice_weight: of the Dice part of the loss.
        focal_weight: of its focal part.
        dropout: share of the decoder's last channels.
        augment_strength: factor on every change of colour and shape.
        crop_px: side of a view.
        encoder: of segmentation-models-pytorch; none leaves the base settings' one.
    """

    learning_rate: tuple[float, float] = (2e-4, 1e-2)
    weight_decay: tuple[float, float] = (1e-4, 1e-1)
    dice_weight: tuple[float, float] = (0.25, 2.0)
    focal_weight: tuple[float, float] = (0.25, 2.0)
    dropout: tuple[float, float] = (0.0, 0.4)
    augment_strength: tuple[float, float] = (0.25, 2.0)
    crop_px: tuple[int, ...] = (96, 128, 192)
    encoder: tuple[str, ...] = ()


def search_space(given: Mapping[str, Sequence[float]], encoders: Sequence[str] = ()) -> SearchSpace:
    """The default space, changed by what is given by name.

    Raises:
        BadSetting: there is no such setting, or a range is not two numbers from low to high.
    """
    ranges: dict[str, Any] = {"encoder": tuple(encoders)}
    for name, values in given.items():
        if name == "crop_px":
            ranges[name] = tuple(int(value) for value in values)
        elif name not in {each.name for each in fields(SearchSpace)} - {"encoder"}:
            raise BadSetting(f"The search has no setting {name!r}: see the ranges of SearchSpace.")
        elif len(values) != 2 or values[0] > values[1]:
            raise BadSetting(f"The range of {name} is {list(values)}: give the lowest and the highest value.")
        else:
            ranges[name] = (float(values[0]), float(values[1]))
    return SearchSpace(**ranges)


@dataclass(frozen=True)
class SearchSettings:
    """How long and how a study searches.

    Attributes:
        trials: in all, those of earlier runs of the study included; failed ones do not count.
        parallel: trials at once, in processes of this machine.
        seed: of the draws.
        base: the training settings that are not searched.
        space: those that are.
    """

    trials: int = 20
    parallel: int = 1
    seed: int = 0
    base: TrainSettings = field(default_factory=TrainSettings)
    space: SearchSpace = field(default_factory=SearchSpace)

    def __post_init__(self) -> None:
        """Checks the settings."""
        if self.trials < 1 or self.parallel < 1:
            raise BadSetting(f"{self.trials} trials, {self.parallel} at once: set both to 1 or more.")


def trial_settings(trial: optuna.Trial, base: TrainSettings, space: SearchSpace) -> TrainSettings:
    """The training settings that a trial draws."""

    def between(name: str, *, log: bool = False) -> float:
        low, high = getattr(space, name)
        return trial.suggest_float(name, low, high, log=log)

    drawn: dict[str, Any] = {
        "learning_rate": between("learning_rate", log=True),
        "weight_decay": between("weight_decay", log=True),
        "dropout": between("dropout"),
        "crop_px": trial.suggest_categorical("crop_px", list(space.crop_px)),
        "augment": base.augment.strengthened(between("augment_strength")),
    }
    if base.loss == "dice_focal":
        drawn |= {name: between(name) for name in ("dice_weight", "focal_weight")}
    if space.encoder:
        drawn["encoder"] = trial.suggest_categorical("encoder", list(space.encoder))
    return replace(base, **drawn)
