"""The trainer: one loop for every task. It keeps to its budget, can be killed, and resumes exactly.

Read it from top to bottom: :func:`train` is the whole training, :func:`_run` its loop, :class:`Run` its state and step.
All random choices (crops, dropout) depend on the seed and the number of the micro-batch, so a checkpoint contains no
state of a random generator.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from dermatome.errors import BadSetting, BadWeights
from dermatome.storage.files import sha256_bytes, write_atomic
from dermatome.training.budget import Budget
from dermatome.training.data import Batch
from dermatome.training.distributed import Group, group_of
from dermatome.training.encoder_weights import EncoderFile, encoder_file
from dermatome.training.settings import TrainingSettings, UNetSettings
from dermatome.training.task import BatchSource, Task
from dermatome.training.weights import LoadedWeights, WeightsCard, check_same_network

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from dermatome.inference.compute import Compute

CHECKPOINT_FILE = "checkpoint.pt"
_FORMAT = 2
OnEpoch = Callable[[Mapping[str, Any], float], None]
"""Callback after each epoch, with its row of the history and the share of the run that is done, 0 to 1."""
E = TypeVar("E")


@dataclass(frozen=True)
class Trained(Generic[E]):
    """A trained network.

    Attributes:
        state: state dict on the CPU: the EMA of the weights.
        card: card that :func:`dermatome.training.weights.save_weights` stores with it.
        history: a row for each epoch: epoch, step, seconds, learning_rate, train_loss and the task's scores.
        before: evaluation of the parent's weights, if the task compares them.
    """

    state: dict[str, torch.Tensor]
    card: WeightsCard
    history: pd.DataFrame
    evaluation: E
    before: E | None
    resumed: bool


def train(
    task: Task[E],
    compute: Compute,
    *,
    parent: LoadedWeights[Any] | None = None,
    checkpoint_dir: Path | None = None,
    on_epoch: OnEpoch | None = None,
    processes: int = 1,
    models_folder: Path | None = None,
) -> Trained[E]:
    """Trains a task's network, validates it after each epoch, and returns the EMA of its weights.

    Args:
        task: network, data, loss and scores.
        compute: device and precision.
        parent: weights to fine-tune; None trains from random weights.
        checkpoint_dir: folder for ``checkpoint.pt`` during the run. A run of the same task resumes from it, with the
            same result as if it had never been killed; the checkpoint of another task is replaced.
        on_epoch: see :data:`OnEpoch`.
        processes: number of processes that share the micro-batches of a step, one GPU each.
        models_folder: folder for pretrained encoder weights, if the settings request some.

    Raises:
        BadSetting: there is no training data, or a setting does not fit.
        BadWeights: the parent's network differs from that of the settings, or a checkpoint is damaged.
        FetchFailed: the pretrained encoder weights are missing and could not be fetched.
        BadImage, BadAnnotation: a sample cannot be read.
        StorageFailed: a checkpoint cannot be written.
    """
    import pandas as pd
    import torch

    started = time.perf_counter()
    settings = task.settings
    # Sums over another number of threads differ in their last bits; another Compute may have been chosen meanwhile.
    torch.set_num_threads(compute.threads)
    if not task.split.train:
        raise BadSetting("There is nothing to train on: give at least one annotated sample.")
    if settings.accumulate % max(1, processes):
        raise BadSetting(
            f"The {settings.accumulate} micro-batches of a step cannot be shared by {processes} GPUs: set accumulate "
            f"to {processes} or a multiple of it."
        )
    if parent is not None:
        check_same_network(parent, settings)
    encoder = None if parent is not None else _pretrained_encoder(settings, models_folder)
    if encoder is not None:
        settings = settings.changed(mean=encoder.mean, std=encoder.std)
        task = replace(task, settings=settings)
    start = Start(task.data_sha256(), encoder, parent.sha256 if parent else None)
    before = None
    if parent is not None and task.compares_parent:
        before = task.evaluate(parent.network.to(compute.torch_device), compute)

    checkpoint = None if checkpoint_dir is None else checkpoint_dir / CHECKPOINT_FILE
    last_checkpoint = started

    def end_epoch(run: Run, budget: Budget, loss: float) -> bool:
        nonlocal last_checkpoint
        with budget.validation():
            scores = task.validate(run.ema, compute)
        run.seconds = budget.seconds
        row = {
            "epoch": len(run.history) + 1,
            "step": run.step,
            "seconds": round(run.seconds, 2),
            "learning_rate": run.learning_rate,
            "train_loss": loss,
            **scores,
        }
        run.history.append(row)
        enough = run.note_best(scores.get(task.best_by))
        if checkpoint is not None and time.perf_counter() - last_checkpoint >= settings.checkpoint_seconds:
            run.save(checkpoint)
            last_checkpoint = time.perf_counter()
        if on_epoch:
            on_epoch(row, budget.share(run.step))
        return enough

    with group_of(processes, compute, _member, (task, start, compute, checkpoint)) as group:
        run = Run(task, start, compute, group, parent.network.state_dict() if parent else None)
        resumed = _run(run, checkpoint, started, end_epoch)
    if run.best is not None:
        run.ema.load_state_dict(run.best.state)
    evaluation, card = _finished(task, run, parent)
    state = {name: tensor.detach().to("cpu", copy=True) for name, tensor in run.ema.state_dict().items()}
    return Trained(state, card, pd.DataFrame(run.history), evaluation, before, resumed)


def drop_checkpoints(checkpoints: Path) -> None:
    """Deletes the checkpoint of a training whose results are stored."""
    (checkpoints / CHECKPOINT_FILE).unlink(missing_ok=True)


def loading_threads(compute: Compute) -> int:
    """Number of threads that prepare batches: several for a GPU; one on a CPU, where the network needs the cores."""
    return 1 if compute.device == "cpu" else 8


def batches(source: BatchSource, numbers: Iterable[int], threads: int = 1) -> Generator[Batch]:
    """Yields the micro-batches ``numbers`` in order; ``threads`` threads prepare the next ones meanwhile."""
    with ThreadPoolExecutor(threads, thread_name_prefix="crops") as pool:
        coming: deque[Future[Batch]] = deque()
        for number in numbers:
            coming.append(pool.submit(source.batch, number))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


@dataclass(frozen=True)
class Start:
    """What a run starts from, the same in every process."""

    data_sha256: str
    encoder: EncoderFile | None = None
    parent_sha256: str | None = None


def _member(group: Group, task: Task[Any], start: Start, compute: Compute, checkpoint: Path | None) -> None:
    """Runs the loop in the other processes, without validation. Rank 0 sends them the parent's weights."""
    _run(Run(task, start, compute, group), checkpoint, time.perf_counter(), lambda run, budget, loss: False)


def _run(run: Run, checkpoint: Path | None, started: float, end_epoch: Callable[[Run, Budget, float], bool]) -> bool:
    """Runs the training loop; returns whether it resumed from a checkpoint."""
    settings, group, device = run.settings, run.group, run.compute.torch_device
    resumed = checkpoint is not None and run.restore(checkpoint)
    crops = settings.batch * settings.accumulate
    epoch_steps = max(settings.epoch_steps, math.ceil(run.parts.source.crops_per_epoch / crops))
    budget = Budget(settings, started - run.seconds, epoch_steps)
    share, over = group.agreed(budget.share(run.step), run.out_of_patience or budget.over(run.step), device)
    losses: list[float] = []
    coming = batches(run.parts.source, run.batch_numbers(), loading_threads(run.compute))
    while not over:
        with budget.step():
            losses.append(run.train_step(coming, share))
        share, over = group.agreed(budget.share(run.step), budget.over(run.step), device)
        if run.step % epoch_steps == 0 or over:
            enough = end_epoch(run, budget, float(np.mean(losses)))
            share, over = group.agreed(budget.share(run.step), over or enough, device)
            losses = []
    coming.close()
    return resumed


@dataclass(frozen=True)
class Best:
    """The epoch with the highest validation score so far, and its weights on the CPU."""

    epoch: int
    score: float
    state: dict[str, torch.Tensor]


class Run:
    """The state of a training: networks, optimiser, step and history. A checkpoint contains all of it.

    Attributes:
        parts: network, batches and loss.
        ema: network with the exponential moving average of the weights, which is validated and returned.
        history: a row for each epoch.
        best: the best epoch, if the settings keep it.
    """

    def __init__(
        self,
        task: Task[Any],
        start: Start,
        compute: Compute,
        group: Group,
        parent: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        import torch

        self.settings, self.start, self.compute, self.group = task.settings, start, compute, group
        settings = task.settings
        torch.manual_seed(settings.seed)
        self.parts = task.build(compute, start.encoder)
        if parent is not None:
            self.parts.network.load_state_dict(parent)
        self.network = self.parts.network.to(compute.torch_device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema: torch.nn.Module = copy.deepcopy(self.network).eval().requires_grad_(False)
        self._wrapped = group.wrapped(self.network)
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.scaler = torch.amp.GradScaler(compute.device, enabled=compute.precision == "fp16")
        self.step, self.seconds, self.learning_rate = 0, 0.0, 0.0
        self.history: list[dict[str, Any]] = []
        self.best: Best | None = None
        identity = [_FORMAT, type(task).__name__, settings.model_dump(), start.data_sha256, start.parent_sha256]
        identity += [compute.device, compute.precision]
        self.fingerprint = sha256_bytes(json.dumps(identity, sort_keys=True).encode())

    def batch_numbers(self) -> Iterator[int]:
        """Yields the numbers of this process's micro-batches from the current step on, without end."""
        per_step = self.settings.accumulate
        for step in itertools.count(self.step):
            yield from range(step * per_step + self.group.rank, (step + 1) * per_step, self.group.size)

    def train_step(self, coming: Iterator[Batch], share: float) -> float:
        """One optimiser step on this process's micro-batches at ``share`` (0 to 1) of the run; returns the loss."""
        import torch

        warm = self.settings.warm_share
        rise = share / warm if share < warm else 0.5 + 0.5 * math.cos(math.pi * (share - warm) / (1 - warm))
        self.learning_rate = self.settings.learning_rate * max(rise, 1e-3)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        self.network.train()
        self.optimiser.zero_grad(set_to_none=True)
        statistics = _RunningStatistics(self.network, self.settings.accumulate)
        own = self.settings.accumulate // self.group.size
        total = torch.zeros((), device=self.compute.torch_device)
        for place in range(own):
            number = self.step * self.settings.accumulate + place * self.group.size + self.group.rank
            torch.manual_seed(_seed_of(self.settings.seed, number))
            pixels, known = next(coming)  # (N, H, W, …) each
            batch = self.parts.to_input(pixels)  # (N, C, H, W)
            truth = torch.from_numpy(known).to(batch.device)
            statistics.before_batch()
            with nullcontext() if place == own - 1 else self.group.without_exchange(self._wrapped):
                with self.compute.autocast():
                    found = self._wrapped(batch)  # (N, K, H, W)
                loss = self.parts.loss(found, truth)  # ()
                self.scaler.scale(loss / own).backward()  # type: ignore[no-untyped-call]
            statistics.after_batch()
            total += loss.detach()
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        statistics.finish(self.group)
        self.group.sum([total])
        self.step += 1
        self._update_ema()
        return float(total) / self.settings.accumulate

    def note_best(self, score: float | None) -> bool:
        """Keeps the weights of the epoch that has ended if they are the best; returns :attr:`out_of_patience`."""
        if self.settings.keeps_best and score is not None and (self.best is None or score > self.best.score):
            state = {name: value.to("cpu", copy=True) for name, value in self.ema.state_dict().items()}
            self.best = Best(len(self.history), score, state)
        return self.out_of_patience

    @property
    def out_of_patience(self) -> bool:
        """Whether the number of epochs since the best one has reached the patience."""
        patience = self.settings.patience
        return patience is not None and self.best is not None and len(self.history) - self.best.epoch >= patience

    def _update_ema(self) -> None:
        import torch

        # A short memory at first, so that a short run does not retain its random initial weights.
        keep = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            mean, now = self.ema.state_dict(), self.network.state_dict()
            for name, value in now.items():
                if value.dtype.is_floating_point:
                    mean[name].lerp_(value, 1 - keep)
                else:
                    mean[name].copy_(value)

    def save(self, path: Path) -> None:
        """Writes a checkpoint, atomically."""
        import torch

        buffer = io.BytesIO()
        content = {
            "fingerprint": self.fingerprint,
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "learning_rate": self.learning_rate,
            "history": self.history,
            "best": None if self.best is None else vars(self.best),
        }
        torch.save(content, buffer)
        write_atomic(path, buffer.getvalue())

    def restore(self, path: Path) -> bool:
        """Resumes from the checkpoint at ``path``; returns False if there is none or it belongs to another run.

        Raises:
            BadWeights: the checkpoint is damaged.
        """
        import torch

        try:
            saved = path.read_bytes()
        except FileNotFoundError:
            return False
        try:
            content = torch.load(io.BytesIO(saved), map_location=self.compute.torch_device, weights_only=True)
            if content["fingerprint"] != self.fingerprint:
                return False
            self.network.load_state_dict(content["network"])
            self.ema.load_state_dict(content["ema"])
            self.optimiser.load_state_dict(content["optimiser"])
            self.scaler.load_state_dict(content["scaler"])
            self.step, self.seconds = int(content["step"]), float(content["seconds"])
            self.learning_rate, self.history = float(content["learning_rate"]), list(content["history"])
            self.best = None if content["best"] is None else Best(**content["best"])
        except Exception as error:
            raise BadWeights(f"The checkpoint {path} is damaged ({error}): delete it to start over.") from error
        return True


class _RunningStatistics:
    """Batch statistics of one step: each micro-batch starts from those at its start; the mean of all is kept."""

    def __init__(self, network: torch.nn.Module, count: int) -> None:
        import torch

        self._count = count
        self._now = list(network.buffers()) if count > 1 else []
        self._before = [buffer.clone() for buffer in self._now]
        # Batch counters too: by the mean a step counts once, whatever the number of micro-batches and processes.
        self._sum = [torch.zeros_like(buffer) for buffer in self._now]

    def before_batch(self) -> None:
        for now, before in zip(self._now, self._before, strict=True):
            now.copy_(before)

    def after_batch(self) -> None:
        for total, now in zip(self._sum, self._now, strict=True):
            total += now

    def finish(self, group: Group) -> None:
        group.sum(self._sum)
        for now, total in zip(self._now, self._sum, strict=True):
            now.copy_(total / self._count if total.is_floating_point() else total // self._count)


def _seed_of(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _pretrained_encoder(settings: TrainingSettings, models_folder: Path | None) -> EncoderFile | None:
    if not isinstance(settings, UNetSettings) or settings.encoder_weights is None:
        return None
    if models_folder is None:
        raise BadSetting(
            f"The encoder weights {settings.encoder_weights!r} need a folder to be stored in: name the models folder, "
            "or set encoder_weights to none."
        )
    return encoder_file(settings.encoder, settings.encoder_weights, models_folder)


def _finished(task: Task[E], run: Run, parent: LoadedWeights[Any] | None) -> tuple[E, WeightsCard]:
    """Evaluates the final weights, rounded as they will be stored, and fills in their card."""
    start = run.start
    if task.half:
        for value in run.ema.state_dict().values():
            if value.is_floating_point():
                value.copy_(value.half())
    evaluation = task.evaluate(run.ema, run.compute)
    card = task.card(
        evaluation,
        parent,
        validation=task.split.how if task.split.validation else "nothing was held out",
        settings=json.loads(json.dumps(task.settings.model_dump())),
        steps=run.step,
        data_sha256=start.data_sha256,
        parent=start.parent_sha256,
        synthetic=task.settings.synthetic and (parent is None or parent.card.synthetic),
        initial_weights=start.encoder.source if start.encoder else "",
        initial_sha256=start.encoder.sha256 if start.encoder else "",
    )
    return evaluation, card
