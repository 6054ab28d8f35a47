"""A stage and the cache of its results: a slide is recomputed only if its inputs, settings or code changed, or if its
files are missing or damaged.

A :class:`Stage` has the science and the files of one asset. :func:`cached_stage` adds what all stages share: the
fingerprint of inputs, settings and code, the record beside the results, and the atomic replacement of the slide's
folder.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from dermatome.errors import MissingInput, StorageFailed
from dermatome.pipeline.batch import Done, Loaded, Work
from dermatome.storage.files import SWAP_S, atomic_folder
from dermatome.storage.layout import FIGURE_FILE, RECORD_FILE, DataRoot
from dermatome.storage.record import (
    StageRecord,
    StageResult,
    damage,
    file_facts,
    fingerprint,
    read_record,
    write_record,
)

Input = TypeVar("Input")
Output = TypeVar("Output")

_log = logging.getLogger(__name__)


class Stage(Generic[Input, Output]):
    """The work of one asset on one slide: load, compute, save.

    Attributes:
        root: data root.
        asset: asset name.
        always: whether slides are recomputed even if their fingerprints are unchanged.
        check: raises once the run is cancelled; long computations call it.
        figures: whether the figure of each slide is drawn; None for a stage without figures.
        at_once: number of slides saved at once in threads, for a stage that only waits for a network or a disk.
    """

    root: DataRoot
    asset: str
    check: Callable[[], None]
    always: bool = False
    figures: bool | None = None
    at_once: int | None = None

    def inputs(self, key: str) -> Mapping[str, str]:
        """The data version of each upstream asset for a slide; raises if one is missing."""
        raise NotImplementedError

    def open(self, check: Callable[[], None]) -> None:
        """Prepares the computation, such as networks on the device; called once, before the first ``compute``."""
        self.check = check

    def load(self, key: str) -> Input:
        """Reads and decodes what the computation needs."""
        raise NotImplementedError

    def pixels(self, loaded: Input) -> int:
        """Size of the loaded input, px: it limits how many slides are computed together and wait in queues."""
        return 0

    def compute(self, loaded: Sequence[Input]) -> list[Output]:
        """Computes one or more slides at once."""
        raise NotImplementedError

    def save(self, key: str, result: Output, folder: Path) -> StageResult:
        """Writes a slide's files into an empty folder, which then replaces the slide's folder."""
        raise NotImplementedError


AnyStage = Stage[Any, Any]


@dataclass
class WaitingStage(Stage[str, str]):
    """A stage that only waits for a network or a disk: ``make`` does all its work, for ``at_once`` slides at once."""

    root: DataRoot
    asset: str
    make: Callable[[str, Path], StageResult]
    inputs: Callable[[str], Mapping[str, str]] = lambda key: {}  # type: ignore[assignment]
    always: bool = False
    figures: bool | None = None
    at_once: int | None = 1

    def load(self, key: str) -> str:
        """Returns the key itself."""
        return key

    def compute(self, loaded: Sequence[str]) -> list[str]:
        """Does nothing."""
        return list(loaded)

    def save(self, key: str, result: str, folder: Path) -> StageResult:
        """Writes the slide's files."""
        return self.make(key, folder)


@dataclass(frozen=True)
class Made:
    """A slide's record, and whether it was reused from an earlier run."""

    record: StageRecord
    reused: bool


def cached_stage(
    stage: AnyStage,
    settings: Mapping[str, Any],
    code_version: str,
    run_id: str,
    keep: Collection[str] = frozenset(),
    *,
    hashes: bool = False,
) -> Work[Made]:
    """Turns a stage into the work of a batch: current results are reused, new ones are saved atomically.

    Slides in ``keep`` are reused whatever they were computed from. A slide whose figure is wanted but never drawn is
    recomputed, with the same results. Before a slide is reused, existence and size of its files are checked and, with
    ``hashes``, also the sha256 of every file.
    """
    root, asset = stage.root, stage.asset

    def reusable(key: str, now: str | None) -> StageRecord | None:
        """The record of a slide if its files are undamaged and its fingerprint is ``now`` (None accepts any)."""
        try:
            record = read_record(root.record(asset, key))
            if record is None or now not in (None, record.fingerprint):
                return None
            if now is not None and stage.figures and FIGURE_FILE not in record.files:
                return None
            damaged = damage(root.folder(asset, key), record, hashes=hashes)
        except (StorageFailed, MissingInput, FileNotFoundError) as error:
            _log.warning("%s It is recomputed now.", error)
            return None
        for name, how in damaged.items():
            _log.warning("%s of %s %s. It is recomputed now.", name, key, how)
        return None if damaged else record

    def load(key: str) -> Loaded | Done[Made]:
        if key in keep and (record := reusable(key, None)) is not None:
            return Done(Made(record, reused=True))
        for last_try in (False, True):
            inputs = dict(stage.inputs(key))
            now = fingerprint(code_version, inputs, settings)
            if not stage.always and (record := reusable(key, now)) is not None:
                return Done(Made(record, reused=True))
            try:
                loaded = stage.load(key)
            except (MissingInput, StorageFailed):  # may be a replacement between reading the record and the files
                if last_try:
                    raise
                time.sleep(SWAP_S)
                continue
            # If an input was replaced during loading, the loaded data may mix two versions. A stage that only waits
            # loads nothing, and its inputs may be slow to determine.
            if isinstance(stage, WaitingStage) or dict(stage.inputs(key)) == inputs:
                return Loaded(loaded, stage.pixels(loaded), (now, inputs))
        raise StorageFailed(f"The inputs of {key} were replaced twice while they were read: run this again.")

    def save(key: str, result: Any, token: tuple[str, dict[str, str]]) -> Made:
        now, inputs = token
        with atomic_folder(root.folder(asset, key)) as folder:
            # Checked again under the lock: another run may have finished the slide while this one computed it.
            if not stage.always and (record := reusable(key, now)) is not None:
                return Made(record, reused=True)
            found = stage.save(key, result, folder)
            made = StageRecord.of(
                found, code_version=code_version, inputs=inputs, settings=settings,
                asset=asset, partition=key, run_id=run_id, files=file_facts(folder),
            )  # fmt: skip
            write_record(folder / RECORD_FILE, made)
        return Made(made, reused=False)

    return Work(stage.open, load, stage.compute, save)
