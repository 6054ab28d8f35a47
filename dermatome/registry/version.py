"""Training as a stage: from a task to the weights, card, manifest, report and record of one version."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from dermatome.errors import BadWeights, MissingInput
from dermatome.registry.leakage import check_leakage, one_slide_only
from dermatome.registry.lineage import Lineage, ancestors_of, lineage_of_file, parent_name
from dermatome.registry.manifest import ManifestRow, licences, manifest_path, validation_sha256, write_manifest
from dermatome.registry.report import ReportLayout, write_training_report
from dermatome.storage.layout import WEIGHTS_FILE, DataRoot
from dermatome.storage.record import Check, Scalar, StageResult, require_record
from dermatome.training.data import Side, Split, choose_split
from dermatome.training.settings import TrainingSettings
from dermatome.training.task import Task
from dermatome.training.trainer import Trained, train
from dermatome.training.weights import LoadedWeights, save_weights

if TYPE_CHECKING:
    import pyarrow as pa

    from dermatome.inference.compute import Compute

E = TypeVar("E")


@dataclass(frozen=True)
class VersionTask(Task[E]):
    """A task whose networks are stored as versions.

    Attributes:
        settings_class: settings of its training.
        layout: what its reports show, and the kind of network that it trains.
        noun: plural of what a sample is called.
        parents: what may be fine-tuned, in words.
    """

    settings_class: ClassVar[type[TrainingSettings]]
    layout: ClassVar[ReportLayout]
    noun: ClassVar[str]
    parents: ClassVar[str] = "a weights file"

    @classmethod
    def choose(
        cls, folders: Sequence[Path], validation_folders: Sequence[Path], settings: Any, lineage: Lineage | None = None
    ) -> Self:
        """The task for the samples in folders; without ``validation_folders``, a share of them is held out.

        What an ancestor was trained on is never held out.

        Raises:
            MissingInput: a folder or a file in it is missing.
            BadSetting: the samples cannot be split, or do not fit the settings.
            BadAnnotation, BadImage: a file cannot be used.
        """
        samples = cls.read(folders, settings)
        held_out = cls.read(validation_folders, settings) if validation_folders else []
        return cls(cls.settle(settings, lineage), cls.divide(samples, held_out, settings, lineage))

    @staticmethod
    @abstractmethod
    def read(folders: Sequence[Path], settings: Any) -> Sequence[Any]:
        """The samples in folders; raises as :meth:`choose` does."""

    @classmethod
    def divide(
        cls, samples: Sequence[Any], held_out: Sequence[Any], settings: Any, lineage: Lineage | None
    ) -> Split[Any]:
        """The samples to train and to validate on; ``held_out`` were given for validation, and may be none."""
        sides = lineage.sides() if lineage else None
        return choose_split(samples, held_out, settings.validation_share, settings.seed, sides, noun=cls.noun)

    @staticmethod
    def settle(settings: Any, lineage: Lineage | None) -> Any:
        """The settings, with those filled in that depend on the weights to fine-tune."""
        return settings

    @staticmethod
    @abstractmethod
    def load(path: Path, /) -> LoadedWeights[Any]:
        """Weights of this kind.

        Raises:
            BadWeights: the file is damaged or of another kind.
        """

    @staticmethod
    def named(name: str, models_folder: Path) -> Lineage | None:
        """Weights that are neither a version nor a file; None for other names."""
        return None

    @staticmethod
    @abstractmethod
    def rows(samples: Sequence[Any], side: Side, /) -> Iterable[ManifestRow]:
        """The manifest rows of samples on a side; raises as reading them does."""

    def manifest(self) -> list[ManifestRow]:
        """A row for each sample of both sides."""
        return [*self.rows(self.split.train, "train"), *self.rows(self.split.validation, "validation")]

    def lacks(self) -> str | None:
        """A sentence on what the training samples lack for a usable network; None if they lack nothing."""
        return None

    @abstractmethod
    def values(self, trained: Trained[E]) -> dict[str, Scalar]:
        """Scores and facts for a version's record that are specific to this kind of network."""

    @abstractmethod
    def tables(self, version: str, trained: Trained[E]) -> dict[str, pa.Table]:
        """The tables of a version's report by file name."""

    @abstractmethod
    def figures(self, trained: Trained[E]) -> dict[str, bytes | None]:
        """The figures of a version's report, PNG bytes by file name; None for one that the version does not have."""

    def write_report(
        self, folder: Path, version: str, trained: Trained[E], values: Mapping[str, Scalar], checks: Sequence[Check]
    ) -> None:
        """Writes the training report of a version; see :func:`write_training_report`."""
        write_training_report(
            folder,
            self.layout,
            version,
            trained.history,
            values=values,
            settings=trained.card.settings,
            checks=checks,
            tables=self.tables(version, trained),
            figures=self.figures(trained),
        )

    @abstractmethod
    def summary(self, trained: Trained[E]) -> list[str]:
        """The scores as lines of text."""

    def complete(self, trained: Trained[E], compute: Compute) -> Trained[E]:
        """Adds the parts of the evaluation that take too long for the training's time limit."""
        return trained


@dataclass(frozen=True)
class Version:
    """A trained version."""

    trained: Trained[Any]
    sha256: str
    rows: list[ManifestRow]


def lineage_named(task: type[VersionTask[Any]], name: str, models_folder: Path) -> Lineage:
    """The lineage of a weights file, or of a network with a name such as ``toy``.

    Raises:
        BadWeights: there is no such file, or it is damaged or of another kind.
        FetchFailed: a named network is missing and could not be fetched.
    """
    return task.named(name, models_folder) or lineage_of_file(Path(name), task.load)


def lineage_of_version(
    task: type[VersionTask[Any]], root: DataRoot, version: str, continue_from: str | None
) -> Lineage | None:
    """The weights that a version is fine-tuned from; None if it is trained from scratch.

    ``continue_from`` is a trained version, the path of a weights file, or a name that the task knows, such as ``toy``;
    by default it follows from the version's name.

    Raises:
        BadSetting: the version would be its own parent.
        MissingInput: there is no such version or file.
        BadWeights: the file is damaged or does not fit.
    """
    kind, name = task.layout.kind, parent_name(version, continue_from)
    if name is None:
        return None
    versions = root.partitions(kind.weights)
    if (known := task.named(name, root.models)) is not None:
        return known
    if name not in versions:
        if not Path(name).is_file():
            raise MissingInput(
                f"{version} is to be fine-tuned from {name!r}, which is neither a trained version "
                f"({', '.join(versions) or 'none'} so far) nor a file: correct continue_from, or the version's name."
            )
        return lineage_of_file(Path(name), task.load)
    weights = task.load(root.folder(kind.weights, name) / WEIGHTS_FILE)
    if weights.sha256 != require_record(root, kind.weights, name).values["weights_sha256"]:
        raise BadWeights(f"The weights of {name} have changed since they were trained: materialize it again.")
    return Lineage(name, weights, *ancestors_of(root, kind, name))


def train_file(
    task: VersionTask[Any],
    out: Path,
    compute: Compute,
    *,
    name: str = "",
    lineage: Lineage | None = None,
    **options: Any,
) -> Version:
    """Trains a task's network and writes its weights to ``out``, with card and manifest beside them.

    ``lineage`` has the weights to fine-tune; ``options`` are those of
    :func:`dermatome.training.trainer.train`.

    Raises:
        DermatomeError: see :func:`dermatome.training.trainer.train`.
    """
    trained = train(task, compute, parent=lineage.weights if lineage else None, **options)
    trained = task.complete(trained, compute)
    rows = task.manifest()
    card = replace(
        trained.card,
        name=name or out.stem,
        manifest_sha256=write_manifest(manifest_path(out), rows),
        licence=licences(rows),
    )
    sha256 = save_weights(out, trained.state, card, half=task.half)
    return Version(replace(trained, card=card), sha256, rows)


def check_training(steps: int, epoch_steps: int, lacks: str | None) -> Check:
    """The check ``trained_enough``: whether a version can be of use at all."""
    if lacks is None and steps < epoch_steps:
        lacks = f"It was trained for {steps} steps, less than an epoch of {epoch_steps}: set more epochs or minutes."
    return Check("trained_enough", lacks is None, lacks or f"It was trained for {steps} steps.", {"steps": steps})


def train_version(
    task: VersionTask[Any],
    folder: Path,
    name: str,
    compute: Compute,
    *,
    lineage: Lineage | None = None,
    hold_out: Sequence[ManifestRow] = (),
    **options: Any,
) -> StageResult:
    """Trains one version.

    Files: `weights.safetensors`, its card `weights.json`, the manifest of its samples `weights.tiles.parquet`, and the
    training report (:func:`dermatome.registry.report.write_training_report`).

    Raises:
        DermatomeError: see :func:`train_file`.
    """
    started = time.perf_counter()
    version = train_file(task, folder / WEIGHTS_FILE, compute, name=name, lineage=lineage, **options)
    trained_at = time.perf_counter()
    trained, card, rows = version.trained, version.trained.card, version.rows
    values: dict[str, Scalar] = {
        "weights_sha256": version.sha256,
        "parent": lineage.name if lineage else None,
        "parent_sha256": card.parent,
        "seed": task.settings.seed,
        "epochs": len(trained.history),
        "steps": card.steps,
        f"{task.noun}_sha256": card.data_sha256,
        "manifest_sha256": card.manifest_sha256,
        "validation_sha256": validation_sha256(rows),
        "one_slide_only": one_slide_only(rows),
        "validation": card.validation,
        "device": compute.device_name,
        "precision": compute.precision,
        "resumed": trained.resumed,
        **task.values(trained),
    }
    checks = (
        check_leakage(rows, hold_out, lineage),
        check_training(card.steps, task.settings.epoch_steps, task.lacks()),
    )
    task.write_report(folder, name, trained, values, checks)
    return StageResult(
        outcome="trained",
        data_version=version.sha256[:32],
        values=values,
        seconds={"train": trained_at - started, "write": time.perf_counter() - trained_at},
        checks=checks,
    )
