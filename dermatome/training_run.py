"""What changes while a network is trained, the step that changes it, and the clock that ends it."""

from __future__ import annotations

import copy
import io
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.classes import TISSUE_LABELS
from dermatome.errors import BadWeights
from dermatome.files import sha256_bytes, write_whole
from dermatome.losses import make_loss
from dermatome.network import MEAN, STD, build_network, to_batch
from dermatome.training_settings import EPOCHS_WITHOUT_LIMIT, TrainSettings

if TYPE_CHECKING:
    import torch

    from dermatome.compute import Compute


class TrainingRun:
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
        """One step of the optimiser at ``share`` (0 to 1) of the run, on a batch of images and classes; its loss."""
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
        }
        torch.save(content, buffer)
        write_whole(path, buffer.getvalue())

    def restore(self, path: Path) -> bool:
        """Goes on from the checkpoint at ``path``; False, and nothing changed, if there is none or one of another run.

        Raises:
            BadWeights: it is damaged.
        """
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


class Clock:
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
        """Since the start of the run, those before a checkpoint included."""
        return time.perf_counter() - self._start

    def share(self, step: int) -> float:
        """How much of the run is done after ``step`` steps, 0 to 1: what the learning rate follows."""
        shares = [0.0]
        if self._steps is not None:
            shares.append(step / self._steps)
        if self._limit is not None:
            shares.append(self.seconds / max(1e-9, self._limit - self._reserve))
        return min(1.0, max(shares))

    def over(self, step: int) -> bool:
        """Whether the run ends after ``step`` steps, time for the final validation kept back."""
        if self._steps is not None and step >= self._steps:
            return True
        # One step always runs, however short the limit: the result is then poor, but it is one.
        return self._limit is not None and step > 0 and self.seconds + self._reserve >= self._limit

    @property
    def _reserve(self) -> float:
        return 1.2 * self._step_s + 1.5 * self._validation_s

    def step_begins(self) -> None:
        """Marks the begin of a step."""
        self._mark = time.perf_counter()

    def step_ends(self) -> None:
        """Learns how long steps take."""
        took = time.perf_counter() - self._mark
        self._step_s = took if self._step_s == 0 else 0.8 * self._step_s + 0.2 * took

    def validation_begins(self) -> None:
        """Marks the begin of a validation."""
        self._mark = time.perf_counter()

    def validation_ends(self) -> None:
        """Learns how long a validation takes."""
        self._validation_s = max(self._validation_s, time.perf_counter() - self._mark)
