"""The interface of a task, whose network :func:`dermatome.training.trainer.train` can train."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from dermatome.inference.compute import Compute
    from dermatome.training.data import Batch, Split
    from dermatome.training.encoder_weights import EncoderFile
    from dermatome.training.settings import TrainingSettings
    from dermatome.training.weights import LoadedWeights, WeightsCard

Scores = Mapping[str, float | None]
E = TypeVar("E")


class BatchSource(Protocol):
    """Micro-batches that each depend only on their number, so that a run can resume anywhere."""

    @property
    def crops_per_epoch(self) -> float:
        """Number of crops that together have the area of all the data."""
        ...

    def batch(self, number: int) -> Batch:
        """The micro-batch ``number``; called from several threads."""
        ...


@dataclass(frozen=True)
class Parts:
    """The parts of a task, built for a device.

    Attributes:
        network: untrained network, on the CPU.
        source: source of micro-batches.
        to_input: converts the input half of a batch to the network's input on the device.
        loss: loss of the network's output and the ground truth, on the device; computed in float32.
    """

    network: torch.nn.Module
    source: BatchSource
    to_input: Callable[[npt.NDArray[Any]], torch.Tensor]
    loss: Callable[[Any, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Task(ABC, Generic[E]):
    """A network with its training and validation data, its loss, its scores and its card.

    A task is picklable: every training process builds its own parts from it. ``E`` is its full evaluation.

    Attributes:
        split: samples to train and to validate on.
        settings: settings of the training.
        best_by: name of the score by which the best epoch is chosen; higher is better.
        shown: scores that are logged after an epoch: column of the history → short name.
        half: whether the final weights are rounded to half floats, as their file stores them.
        compares_parent: whether weights that are fine-tuned are evaluated before training too.
    """

    settings: TrainingSettings
    split: Split[Any]

    best_by: ClassVar[str]
    shown: ClassVar[Mapping[str, str]]
    half: ClassVar[bool] = False
    compares_parent: ClassVar[bool] = False

    @abstractmethod
    def data_sha256(self) -> str:
        """One sha256 over the contents of all samples and the side that each is on."""

    @abstractmethod
    def build(self, compute: Compute, encoder_file: EncoderFile | None) -> Parts:
        """Builds network, data and loss. torch's generator is seeded before; it determines the initial weights."""

    @abstractmethod
    def validate(self, network: torch.nn.Module, compute: Compute) -> Scores:
        """Scores on the validation samples after an epoch, including :attr:`best_by`."""

    @abstractmethod
    def evaluate(self, network: torch.nn.Module, compute: Compute) -> E:
        """The full evaluation of the final weights on the validation samples; called once."""

    @abstractmethod
    def card(self, evaluation: E, fine_tuned: LoadedWeights[Any] | None, **common: Any) -> WeightsCard:
        """The card of the trained weights.

        ``common`` has the fields that all cards share.
        """

    def epoch_text(self, row: Mapping[str, Any]) -> str:
        """One log line for an epoch's row of the history."""
        scores = "".join(
            f", {name} {row[column]:.3f}" for column, name in self.shown.items() if row[column] is not None
        )
        return f"epoch {row['epoch']}: {row['seconds']:.0f} s, loss {row['train_loss']:.3f}{scores}"
