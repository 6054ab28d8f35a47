"""Search for training settings with Optuna: a study on disk that can be killed, resumed and enlarged.

Each trial is one training on the same split, scored on its validation side; poor ones are stopped early (median
pruning). The hold-out set is not used: it could no longer test settings that were tuned on it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from dermatome.errors import BadSetting, DermatomeError
from dermatome.storage.settings_model import SettingsModel
from dermatome.training.distributed import processes_beside
from dermatome.training.settings import Encoder, UNetSettings
from dermatome.training.task import Task
from dermatome.training.trainer import train

if TYPE_CHECKING:
    import optuna

    from dermatome.inference.compute import Compute

JOURNAL_FILE = "journal.log"
_STUDY = "tissue"
_RESUMES = "goes_on_from"
_MADE_WITH = "made_with"


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("give the lowest value first, then the highest")
    return limits


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
"""The lowest and the highest value of a setting."""


class SearchSpace(SettingsModel):
    """Settings to search: the lowest and highest value of each, or its choices."""

    learning_rate: Range = Field(
        default=(2e-4, 1e-2), description="Lowest and highest peak learning rate, drawn logarithmically."
    )
    weight_decay: Range = Field(
        default=(1e-4, 1e-1), description="Lowest and highest weight decay, drawn logarithmically."
    )
    dice_weight: Range = Field(
        default=(0.25, 2.0), description="Lowest and highest weight of Dice in the loss dice_focal."
    )
    focal_weight: Range = Field(
        default=(0.25, 2.0), description="Lowest and highest weight of the focal loss in dice_focal."
    )
    dropout: Range = Field(
        default=(0.0, 0.4), description="Lowest and highest share of the decoder's last channels that is dropped."
    )
    augment_strength: Range = Field(
        default=(0.25, 2.0), description="Lowest and highest factor on every change of colour and shape."
    )
    crop_px: tuple[int, ...] = Field(
        default=(96, 128, 192), description="Sides of a crop to choose from, px, multiples of 32."
    )
    encoder: tuple[Encoder, ...] = Field(
        default=(), description="Encoders to choose from, such as resnet18; empty keeps that of the other settings."
    )


@dataclass(frozen=True)
class SearchSettings:
    """Length and kind of a search.

    Attributes:
        trials: total number of trials, including those of earlier runs of the study; failed ones do not count.
        base: training settings that are not searched.
        space: settings that are searched.
    """

    trials: int = 20
    parallel: int = 1
    seed: int = 0
    base: UNetSettings = field(default_factory=UNetSettings)
    space: SearchSpace = field(default_factory=SearchSpace)

    def __post_init__(self) -> None:
        """Checks the settings."""
        if self.trials < 1 or self.parallel < 1:
            raise BadSetting(f"{self.trials} trials, {self.parallel} at once: set both to 1 or more.")


def trial_settings(trial: optuna.Trial, base: UNetSettings, space: SearchSpace) -> UNetSettings:
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
    if getattr(base, "loss", None) == "dice_focal":
        drawn |= {name: between(name) for name in ("dice_weight", "focal_weight")}
    if space.encoder:
        drawn["encoder"] = trial.suggest_categorical("encoder", list(space.encoder))
    return base.changed(**drawn)


def open_study(folder: Path) -> optuna.Study:
    """Opens the study in ``folder``, or creates it."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        study_name=_STUDY,
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL_FILE))),
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    )


def run_search(
    folder: Path,
    task: Task[Any],
    settings: SearchSettings,
    compute: Compute,
    log: Callable[[str], None] = lambda _: None,
    *,
    models_folder: Path | None = None,
) -> optuna.Study:
    """Runs the remaining trials of the study in ``folder``.

    Trials that a killed run left unfinished are repeated first, with the same settings and from their checkpoints. All
    trials of a study use the data, base settings and space of its first run, as others would give other scores.

    Args:
        folder: folder of the study.
        task: training and validation data, the same for every trial; each trial replaces its settings.
        settings: see :class:`SearchSettings`.
        compute: device, precision and threads, which parallel trials share.
        log: called with a sentence after each trial of this process.
        models_folder: folder for pretrained encoder weights, if the settings request some.

    Raises:
        BadSetting: nothing is held out to score trials on, or the study was started with other data or settings.
        RuntimeError: a process of parallel trials died.
    """
    if not task.split.validation:
        raise BadSetting(
            "A search needs tiles to validate on: set validation_share above 0 and give two tiles or more."
        )
    study = open_study(folder)
    _check_comparable(study, folder, task, settings)
    _requeue_unfinished(study)
    left = settings.trials - _count(study)
    at_once = min(settings.parallel, max(1, left))
    shares = [left // at_once + (rank < left % at_once) for rank in range(at_once)]
    job = _Job(folder, task, settings, replace(compute, threads=max(1, compute.threads // at_once)), models_folder)
    with processes_beside(_work, [(job, shares[rank], rank) for rank in range(1, at_once)]):
        _work(job, shares[0], 0, log)
    return open_study(folder)


def best_config(study: optuna.Study, settings: SearchSettings) -> dict[str, Any]:
    """The run config that trains a network with the best trial's settings.

    Raises:
        BadSetting: no trial has finished.
    """
    import optuna

    if not study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)):
        raise BadSetting("No trial of the search has finished: find out why they failed, or continue the search.")
    trial: Any = optuna.trial.FixedTrial(study.best_trial.params)
    best = trial_settings(trial, settings.base, settings.space)
    default = type(best)(mpp=best.mpp)
    changed = {name: value for name, value in vars(best).items() if value != getattr(default, name)}
    if "augment" in changed:
        changed["augment"] = best.augment.model_dump()
    config: dict[str, Any] = json.loads(json.dumps(changed))
    return config


@dataclass(frozen=True)
class _Job:
    """The shared task of all processes of a search."""

    folder: Path
    task: Task[Any]
    settings: SearchSettings
    compute: Compute
    models_folder: Path | None


def _work(job: _Job, trials: int, rank: int, log: Callable[[str], None] = lambda _: None) -> None:
    import optuna
    import torch

    torch.set_num_threads(job.compute.threads)
    study = open_study(job.folder)
    # A resumed study must not repeat its first draws.
    seed = job.settings.seed + 1000 * rank + len(study.trials)
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    for _ in range(trials):
        study.optimize(lambda trial: _train(trial, job), n_trials=1, catch=DermatomeError)
        last = study.get_trials(deepcopy=False)[-1]
        value = "" if last.value is None else f", {job.task.best_by} {last.value:.3f}"
        log(f"trial {last.number}: {last.state.name.lower()}{value}")


def _train(trial: optuna.Trial, job: _Job) -> float:
    import optuna

    best_by, chosen = job.task.best_by, trial_settings(trial, job.settings.base, job.settings.space)
    identity = json.dumps(chosen.model_dump(), sort_keys=True)
    checkpoints = job.folder / "trials" / hashlib.sha256(identity.encode()).hexdigest()[:16]

    def report(row: Mapping[str, Any], share: float) -> None:
        if row[best_by] is not None:
            trial.report(row[best_by], row["epoch"])
            if trial.should_prune():
                raise optuna.TrialPruned

    try:
        result = train(
            replace(job.task, settings=chosen),
            job.compute,
            checkpoint_dir=checkpoints,
            on_epoch=report,
            models_folder=job.models_folder,
        )
    except (optuna.TrialPruned, DermatomeError) as ended:
        trial.set_user_attr("ended", str(ended) or "pruned")
        shutil.rmtree(checkpoints, ignore_errors=True)
        raise
    shutil.rmtree(checkpoints, ignore_errors=True)
    for name, value in result.card.scores.items():
        trial.set_user_attr(name, value)
    trial.set_user_attr("steps", result.card.steps)
    return float(result.card.scores[best_by] or 0.0)


def _check_comparable(study: optuna.Study, folder: Path, task: Task[Any], settings: SearchSettings) -> None:
    """Records in a new study what its trials depend on; refuses a study started with other data or settings."""
    searched = {f"range of {name}": values for name, values in vars(settings.space).items()}
    now: dict[str, Any] = json.loads(
        json.dumps({"tiles or their sides": task.data_sha256()} | settings.base.model_dump() | searched)
    )
    before: dict[str, Any] = study.user_attrs.get(_MADE_WITH, {})
    if not before and not study.get_trials(deepcopy=False):
        study.set_user_attr(_MADE_WITH, now)
        return
    if others := [name for name in now | before if now.get(name) != before.get(name)]:
        raise BadSetting(
            f"The study in {folder} was started with another choice of {', '.join(others)}, so new trials could not be "
            "compared with its trials: start a study of another name, or use the original choice."
        )


def _requeue_unfinished(study: optuna.Study) -> None:
    import optuna

    for left in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(left.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(left.params, user_attrs={_RESUMES: left.number})


def _count(study: optuna.Study) -> int:
    import optuna

    ended: Sequence[Any] = study.get_trials(
        deepcopy=False, states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    )
    return len(ended)
