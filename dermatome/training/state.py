"""What changes while a network is trained, and the step that changes it."""

from __future__ import annotations

import copy
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from dermatome.errors import BadWeights
from dermatome.storage.files import sha256_bytes, write_atomic

if TYPE_CHECKING:
    import torch

    from dermatome.inference.compute import Compute
    from dermatome.training.distributed import Team
    from dermatome.training.settings import LoopSettings

Batch = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""What goes into a network, and the truth its loss takes; the first axis of both counts views."""


class Source(Protocol):
    """Batches, each decided by its number alone, so that a run can go on anywhere."""

    @property
    def views_for_area(self) -> float:
        """How many views show as much as all the data has."""
        ...

    def batch(self, number: int) -> Batch:
        """The batch of the pass of that number; several threads may ask at once."""
        ...


@dataclass(frozen=True)
class Parts:
    """What a task is made of, once it is built for a device.

    Attributes:
        network: untrained, on the CPU.
        source: of its batches.
        to_input: what the network takes, on the device, of a batch's first half.
        loss: of what the network gives and a batch's second half, on the device; computed in float32.
    """

    network: torch.nn.Module
    source: Source
    to_input: Callable[[npt.NDArray[Any]], torch.Tensor]
    loss: Callable[[Any, torch.Tensor], torch.Tensor]


class TrainingTask(Protocol):
    """What is to be learnt: picklable, as every member of a team builds it for itself."""

    @property
    def settings(self) -> LoopSettings: ...  # noqa: D102

    @property
    def data_sha256(self) -> str: ...  # noqa: D102

    def build(self, compute: Compute) -> Parts:
        """Network, data and loss; torch's random numbers are seeded before, and decide the network's weights."""
        ...


@dataclass(frozen=True)
class Parent:
    """The weights a training starts from; ``state`` is ``None`` where another member brings them."""

    sha256: str
    state: Mapping[str, torch.Tensor] | None


@dataclass(frozen=True)
class Best:
    """The epoch with the highest validation score so far, and its weights on the CPU."""

    epoch: int
    score: float
    state: dict[str, torch.Tensor]


class TrainingRun:
    """What changes while training: networks, optimiser, step, history. All of it is in a checkpoint.

    What is drawn at random (views, dropout) follows from the seed and the number of the pass, so there is no state of
    random numbers to keep.
    """

    def __init__(self, task: TrainingTask, compute: Compute, team: Team, parent: Parent | None = None) -> None:
        import torch

        self.settings, self.compute, self.team = task.settings, compute, team
        settings = task.settings
        torch.manual_seed(settings.seed)
        self.parts = task.build(compute)
        if parent is not None and parent.state is not None:
            self.parts.network.load_state_dict(parent.state)
        self.network = self.parts.network.to(compute.torch_device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean_network: torch.nn.Module = copy.deepcopy(self.network).eval().requires_grad_(False)
        self._trained = team.wrapped(self.network)
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
        sha256 = parent.sha256 if parent else None
        told = json.dumps(
            [type(task).__name__, asdict(settings), task.data_sha256, sha256, compute.device, compute.precision],
            sort_keys=True,
        )
        self.fingerprint = sha256_bytes(told.encode())

    def passes(self) -> Iterator[int]:
        """The numbers of this member's passes from here on, without end."""
        for step in itertools.count(self.step):
            yield from range(
                step * self.settings.accumulate + self.team.rank, (step + 1) * self.settings.accumulate, self.team.size
            )

    def train_step(self, batches: Iterator[Batch], share: float) -> float:
        """One step of the optimiser at ``share`` (0 to 1) of the run, on this member's passes of it; its mean loss."""
        import torch

        warm = self.settings.warm_share
        rise = share / warm if share < warm else 0.5 + 0.5 * math.cos(math.pi * (share - warm) / (1 - warm))
        self.learning_rate = self.settings.learning_rate * max(rise, 1e-3)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        self.network.train()
        self.optimiser.zero_grad(set_to_none=True)
        statistics = _RunningStatistics(self.network, self.settings.accumulate)
        own = self.settings.accumulate // self.team.size
        total = torch.zeros((), device=self.compute.torch_device)
        for place in range(own):
            number = self.step * self.settings.accumulate + place * self.team.size + self.team.rank
            torch.manual_seed(_seed_of(self.settings.seed, number))
            shown, known = next(batches)
            batch = self.parts.to_input(shown)
            truth = torch.from_numpy(known).to(batch.device)
            statistics.before_pass()
            with nullcontext() if place == own - 1 else self.team.quiet(self._trained):
                with self.compute.autocast():
                    found = self._trained(batch)
                loss = self.parts.loss(found, truth)
                self.scaler.scale(loss / own).backward()  # type: ignore[no-untyped-call]
            statistics.after_pass()
            total += loss.detach()
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        statistics.finish(self.team)
        self.team.add_up([total])
        self.step += 1
        self._average()
        return float(total) / self.settings.accumulate

    def note_best(self, score: float | None) -> bool:
        """Keeps the weights of the epoch that just ended where they are the best; whether the patience is over."""
        if self.settings.keeps_best and score is not None and (self.best is None or score > self.best.score):
            state = {name: value.to("cpu", copy=True) for name, value in self.mean_network.state_dict().items()}
            self.best = Best(len(self.history), score, state)
        return self.patience_is_over

    @property
    def patience_is_over(self) -> bool:
        """Whether the last epochs, as many as the patience, were no better than one before them."""
        patience = self.settings.patience
        return patience is not None and self.best is not None and len(self.history) - self.best.epoch >= patience

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
        """Writes a checkpoint, whole."""
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
            "best": None if self.best is None else vars(self.best),
        }
        torch.save(content, buffer)
        write_atomic(path, buffer.getvalue())

    def restore(self, path: Path) -> bool:
        """Goes on from the checkpoint at ``path``; False, and nothing changed, if there is none or one of another run.

        Raises:
            BadWeights: it is damaged.
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
            self.mean_network.load_state_dict(content["mean_network"])
            self.optimiser.load_state_dict(content["optimiser"])
            self.scaler.load_state_dict(content["scaler"])
            missing = {"step", "seconds", "learning_rate", "history", "best"} - content.keys()
            if missing:
                raise KeyError(*missing)
        except Exception as error:
            raise BadWeights(f"The checkpoint {path} is damaged ({error}): delete it to start over.") from error
        self.step, self.seconds = int(content["step"]), float(content["seconds"])
        self.learning_rate, self.history = float(content["learning_rate"]), list(content["history"])
        self.best = None if content["best"] is None else Best(**content["best"])
        return True


class _RunningStatistics:
    """Batch statistics of several passes of one step: each begins where the step began, and their mean is kept."""

    def __init__(self, network: torch.nn.Module, passes: int) -> None:
        import torch

        self._passes = passes
        self._now: list[torch.Tensor] = []
        if passes > 1:
            self._now = list(network.buffers())
        self._before = [buffer.clone() for buffer in self._now]
        # Counters of batches too: their mean counts a step once, however many passes and members it has.
        self._sum = [torch.zeros_like(buffer) for buffer in self._now]

    def before_pass(self) -> None:
        for now, before in zip(self._now, self._before, strict=True):
            now.copy_(before)

    def after_pass(self) -> None:
        for total, now in zip(self._sum, self._now, strict=True):
            total += now

    def finish(self, team: Team) -> None:
        team.add_up(self._sum)
        for now, total in zip(self._now, self._sum, strict=True):
            now.copy_(total / self._passes if total.is_floating_point() else total // self._passes)


def _seed_of(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
