"""Search for training settings with Optuna: a study on disk that can be killed, gone on with and enlarged.

Every trial is one training on the same split, scored by its mean IoU there; poor ones are ended early (median pruning).
The hold-out set takes no part: what is tuned on it would no longer be tested by it.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.errors import BadSetting, DermatomeError
from dermatome.skin.tiles.crops import tiles_sha256
from dermatome.skin.tissue.train import EpochReport, train
from dermatome.training.search_settings import SearchSettings, trial_settings
from dermatome.training.settings import TrainSettings

if TYPE_CHECKING:
    import optuna

    from dermatome.inference.compute import Compute
    from dermatome.skin.tiles.crops import TilePair
    from dermatome.training.data import Split

JOURNAL_FILE = "journal.log"
_GOES_ON_FROM = "goes_on_from"
_MADE_WITH = "made_with"


def open_study(folder: Path, seed: int = 0) -> optuna.Study:
    """The study that lies in ``folder``, new or as it was left."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        study_name="tissue",
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL_FILE))),
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    )


def run_search(
    folder: Path,
    split: Split[TilePair],
    settings: SearchSettings,
    compute: Compute,
    say: Callable[[str], None] = lambda _: None,
    *,
    models_folder: Path | None = None,
) -> optuna.Study:
    """Runs what trials are left of the study in ``folder``.

    Trials that a killed run left unfinished are tried again first, with the same settings and from their checkpoints.
    All trials of a study are made with the tiles, base settings and space of its first run: others give other scores.

    Args:
        folder: of the study, on a disk of this machine or NFS.
        split: tiles to train and to validate on, the same for every trial.
        settings: see :class:`SearchSettings`.
        compute: device, precision and threads, which parallel trials share.
        say: called with a sentence after each trial of this process.
        models_folder: where encoders' ready weights are kept, if the settings ask for some.

    Raises:
        BadSetting: nothing is held out to score trials by, or the study was begun with something else.
        RuntimeError: a process of parallel trials died.
    """
    if not split.validation:
        raise BadSetting(
            "A search needs tiles to validate on: set validation_share above 0 and give two tiles or more."
        )
    study = open_study(folder)
    _check_comparable(study, folder, split, settings)
    _take_up_unfinished(study)
    left = settings.trials - _count(study)
    at_once = min(settings.parallel, max(1, left))
    shares = [left // at_once + (rank < left % at_once) for rank in range(at_once)]
    arguments = (folder, split, settings, replace(compute, threads=max(1, compute.threads // at_once)), models_folder)
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_work_beside, args=(*arguments, shares[rank], rank)) for rank in range(1, at_once)]
    try:
        for process in others:
            process.start()
        _work(*arguments, shares[0], 0, say)
        for process in others:
            process.join()
    finally:
        for process in others:
            if process.is_alive():
                process.kill()
    if failed := [process.exitcode for process in others if process.exitcode]:
        raise RuntimeError(f"{len(failed)} processes of the search ended with code {failed[0]}")
    return open_study(folder)


def best_config(study: optuna.Study, settings: SearchSettings) -> dict[str, Any]:
    """The run config of `tissue_weights` that trains the best trial's settings again.

    Raises:
        BadSetting: no trial has finished.
    """
    import optuna

    if not study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)):
        raise BadSetting("No trial of the search has finished: look at why they failed, or let it run on.")
    best = trial_settings(optuna.trial.FixedTrial(study.best_trial.params), settings.base, settings.space)  # type: ignore[arg-type]
    default = TrainSettings(mpp=best.mpp)
    changed = {name: value for name, value in vars(best).items() if value != getattr(default, name)}
    if "augment" in changed:
        changed["augment"] = asdict(best.augment)
    config: dict[str, Any] = json.loads(json.dumps(changed))
    return config


def _work(
    folder: Path,
    split: Split[TilePair],
    settings: SearchSettings,
    compute: Compute,
    models_folder: Path | None,
    trials: int,
    rank: int,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    import optuna
    import torch

    torch.set_num_threads(compute.threads)
    study = open_study(folder)
    # Going on, it must not draw again what it drew at first.
    study.sampler = optuna.samplers.TPESampler(seed=settings.seed + 1000 * rank + len(study.trials), constant_liar=True)
    for _ in range(trials):
        study.optimize(
            lambda trial: _train(trial, folder, split, settings, compute, models_folder),
            n_trials=1,
            catch=DermatomeError,
        )
        last = study.get_trials(deepcopy=False)[-1]
        value = "" if last.value is None else f", mean IoU {last.value:.3f}"
        say(f"trial {last.number}: {last.state.name.lower()}{value}")


def _work_beside(*arguments: Any) -> None:
    """What the other processes of a search do, for as long as the one that started them is there."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _train(
    trial: optuna.Trial,
    folder: Path,
    split: Split[TilePair],
    settings: SearchSettings,
    compute: Compute,
    models_folder: Path | None,
) -> float:
    import optuna

    chosen = trial_settings(trial, settings.base, settings.space)
    told = json.dumps(asdict(chosen), sort_keys=True)
    checkpoints = folder / "trials" / hashlib.sha256(told.encode()).hexdigest()[:16]

    def tell(epoch: EpochReport) -> None:
        if epoch.mean_iou is not None:
            trial.report(epoch.mean_iou, epoch.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

    try:
        result = train(
            split.train,
            split.validation,
            chosen,
            compute,
            checkpoints,
            tell,
            validation=split.how,
            models_folder=models_folder,
        )
    except (optuna.TrialPruned, DermatomeError) as ended:
        trial.set_user_attr("ended", str(ended) or "pruned")
        shutil.rmtree(checkpoints, ignore_errors=True)
        raise
    shutil.rmtree(checkpoints, ignore_errors=True)
    for name, value in result.card.scores.items():
        trial.set_user_attr(name, value)
    trial.set_user_attr("steps", result.card.steps)
    return float(result.card.scores["mean_iou"] or 0.0)


def _check_comparable(study: optuna.Study, folder: Path, split: Split[TilePair], settings: SearchSettings) -> None:
    """Notes in a new study what its trials are made with; refuses one that was begun with something else."""
    tiles = {"training tiles": tiles_sha256(split.train), "validation tiles": tiles_sha256(split.validation)}
    searched = {f"range of {name}": values for name, values in vars(settings.space).items()}
    now: dict[str, Any] = json.loads(json.dumps(tiles | asdict(settings.base) | searched))
    begun: dict[str, Any] | None = study.user_attrs.get(_MADE_WITH)
    if begun is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(_MADE_WITH, now)
        return
    if begun is None:
        raise BadSetting(
            f"The study in {folder} does not say what its trials were made with, as an older version of Dermatome "
            "began it: start a study of another name."
        )
    if others := [name for name in now | begun if now.get(name) != begun.get(name)]:
        raise BadSetting(
            f"The study in {folder} was begun with another choice of {', '.join(others)}, so new trials could not be "
            "compared with those it has: start a study of another name, or give it what it was begun with."
        )


def _take_up_unfinished(study: optuna.Study) -> None:
    import optuna

    for left in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(left.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(left.params, user_attrs={_GOES_ON_FROM: left.number})


def _count(study: optuna.Study) -> int:
    import optuna

    ended: Sequence[Any] = study.get_trials(
        deepcopy=False, states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    )
    return len(ended)
