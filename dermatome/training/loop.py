"""The one training loop: it keeps to its time, can be killed, and goes on as if it had not been."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dermatome.errors import BadSetting
from dermatome.training.budget import Clock
from dermatome.training.distributed import Team, team_of
from dermatome.training.state import Batch, Parent, Source, TrainingRun, TrainingTask

if TYPE_CHECKING:
    import torch

    from dermatome.inference.compute import Compute

CHECKPOINT_FILE = "checkpoint.pt"


@dataclass(frozen=True)
class Validated:
    """What an epoch's validation found.

    Attributes:
        score: by which the best epoch is told, higher is better; ``None`` where nothing was validated.
        columns: of the epoch's row in the history.
    """

    score: float | None
    columns: dict[str, float | None]


@dataclass(frozen=True)
class Learnt:
    """What came of a run.

    Attributes:
        run: at its end; its ``mean_network``, on the device, is what is kept.
        resumed: whether it went on from a checkpoint.
    """

    run: TrainingRun
    resumed: bool

    def state(self) -> dict[str, torch.Tensor]:
        """The state dict of what is kept, on the CPU."""
        kept = self.run.mean_network.state_dict()
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in kept.items()}


def learn(
    task: TrainingTask,
    compute: Compute,
    validate: Callable[[TrainingRun], Validated],
    *,
    parent: Parent | None = None,
    checkpoint_dir: Path | None = None,
    on_epoch: Callable[[dict[str, Any], float], None] | None = None,
    processes: int = 1,
    started: float | None = None,
) -> Learnt:
    """Trains a task's network and validates it after each epoch.

    Args:
        task: what is learnt, from what.
        compute: device and precision.
        validate: run after each epoch on the run's ``mean_network``, the running mean of the weights.
        parent: weights to go on from instead of random ones.
        checkpoint_dir: where ``checkpoint.pt`` is kept while it runs. One of the same task is gone on from, and a run
            that was killed ends like one that was not; one of another task is replaced.
        on_epoch: told each epoch's row of the history, and how much of the run is done, 0 to 1.
        processes: how many share the passes of each step, on a GPU each; the number of passes is a multiple of it.
        started: ``time.perf_counter()`` from which a limit of time counts; now where ``None``.

    Raises:
        BadSetting: the passes cannot be shared, or there are fewer GPUs.
        BadWeights: a checkpoint is damaged.
        StorageFailed: a checkpoint cannot be written.
    """
    started = time.perf_counter() if started is None else started
    settings = task.settings
    if settings.accumulate % max(1, processes):
        raise BadSetting(
            f"The {settings.accumulate} passes of a step cannot be shared by {processes} GPUs: set accumulate to "
            f"{processes} or a multiple of it."
        )
    checkpoint = None if checkpoint_dir is None else checkpoint_dir / CHECKPOINT_FILE
    last_checkpoint = started

    def epoch_ends(run: TrainingRun, clock: Clock, loss: float) -> bool:
        nonlocal last_checkpoint
        clock.validation_begins()
        found = validate(run)
        clock.validation_ends()
        run.seconds = clock.seconds
        row = {
            "epoch": len(run.history) + 1,
            "step": run.step,
            "seconds": round(run.seconds, 2),
            "learning_rate": run.learning_rate,
            "train_loss": loss,
            **found.columns,
        }
        run.history.append(row)
        enough = run.note_best(found.score)
        if checkpoint is not None and time.perf_counter() - last_checkpoint >= settings.checkpoint_seconds:
            run.save(checkpoint)
            last_checkpoint = time.perf_counter()
        if on_epoch:
            on_epoch(row, clock.share(run.step))
        return enough

    others = (task, compute, checkpoint, Parent(parent.sha256, None) if parent else None)
    with team_of(processes, compute, _help, others) as team:
        run, resumed = _run(team, task, compute, checkpoint, parent, started, epoch_ends)
    if run.best is not None:
        run.mean_network.load_state_dict(run.best.state)
    return Learnt(run, resumed)


def drop_checkpoints(checkpoints: Path) -> None:
    """Forgets how a network was trained, once its record is written: nothing is left to go on from."""
    (checkpoints / CHECKPOINT_FILE).unlink(missing_ok=True)


def loading_threads(compute: Compute) -> int:
    """A GPU outruns one thread that bends and stains views; on the CPU the network needs the cores."""
    return 1 if compute.device == "cpu" else 8


def batches(source: Source, numbers: Iterable[int], threads: int = 1) -> Generator[Batch]:
    """The batches of those passes in order, the next ones made by ``threads`` while one is used."""
    with ThreadPoolExecutor(threads, thread_name_prefix="views") as pool:
        coming: deque[Future[Batch]] = deque()
        for number in numbers:
            coming.append(pool.submit(source.batch, number))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _help(team: Team, task: TrainingTask, compute: Compute, checkpoint: Path | None, parent: Parent | None) -> None:
    _run(team, task, compute, checkpoint, parent, time.perf_counter(), lambda run, clock, loss: False)


def _run(
    team: Team,
    task: TrainingTask,
    compute: Compute,
    checkpoint: Path | None,
    parent: Parent | None,
    started: float,
    epoch_ends: Callable[[TrainingRun, Clock, float], bool],
) -> tuple[TrainingRun, bool]:
    """The loop itself; returns the run at its end, and whether it went on from a checkpoint."""
    settings = task.settings
    run = TrainingRun(task, compute, team, parent)
    resumed = checkpoint is not None and run.restore(checkpoint)
    views = settings.batch * settings.accumulate
    epoch_steps = max(settings.epoch_steps, math.ceil(run.parts.source.views_for_area / views))
    clock = Clock(settings, started - run.seconds, epoch_steps)
    device = compute.torch_device
    ended = run.patience_is_over or clock.over(run.step)
    share, over = team.agreed(clock.share(run.step), ended, device)
    losses: list[float] = []
    coming = batches(run.parts.source, run.passes(), loading_threads(compute))
    while not over:
        clock.step_begins()
        losses.append(run.train_step(coming, share))
        clock.step_ends()
        share, over = team.agreed(clock.share(run.step), clock.over(run.step), device)
        if run.step % epoch_steps == 0 or over:
            enough = epoch_ends(run, clock, float(np.mean(losses)))
            share, over = team.agreed(clock.share(run.step), over or enough, device)
            losses = []
    coming.close()
    return run, resumed
