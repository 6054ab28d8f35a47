"""A stage's work on partitions as slide engines run it: what is made is kept, what is not is made and swapped in whole.

A :class:`Stage` knows its science and its files. :class:`Making` adds what all stages share: the fingerprint over
inputs, settings and code, the record beside the results, the folder's lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from dermatome.errors import MissingInput, StorageFailed
from dermatome.pipeline.work import AlreadyMade, Seat
from dermatome.storage.files import SWAP_S, atomic_folder
from dermatome.storage.layout import RECORD_FILE, DataRoot
from dermatome.storage.record import StageRecord, StageResult, fingerprint, read_record, write_record

Read = TypeVar("Read")
Found = TypeVar("Found")

_log = logging.getLogger(__name__)


class Stage(Protocol[Read, Found]):
    """One asset's work on its partitions, in the phases of :class:`dermatome.pipeline.work.SlideWork`; picklable.

    Attributes:
        root: the data root.
        asset: the asset's name.
        settings: what decides the numbers, besides inputs and code, as plain values.
        always: partitions are made although their fingerprints are unchanged.
    """

    @property
    def root(self) -> DataRoot: ...  # noqa: D102

    @property
    def asset(self) -> str: ...  # noqa: D102

    @property
    def settings(self) -> Mapping[str, Any]: ...  # noqa: D102

    @property
    def always(self) -> bool: ...  # noqa: D102

    def inputs(self, key: str) -> Mapping[str, str]:
        """For a partition, the data version of each upstream asset; raises where one is missing."""
        ...

    def open(self, seat: Seat) -> None:
        """See :class:`dermatome.pipeline.work.SlideWork`."""
        ...

    def read(self, key: str) -> Read:
        """What the computation needs, decoded."""
        ...

    def pixels(self, read: Read) -> int:
        """See :class:`dermatome.pipeline.work.SlideWork`."""
        ...

    def compute(self, reads: Sequence[Read]) -> list[Found]:
        """See :class:`dermatome.pipeline.work.SlideWork`."""
        ...

    def write(self, key: str, found: Found, folder: Path) -> StageResult:
        """Writes a partition's files into the empty folder it is given, which then replaces the partition's."""
        ...


@dataclass(frozen=True)
class OneStep:
    """A stage that only waits for others (a network, a disk): all of it is its last phase. It stays in its process."""

    root: DataRoot
    asset: str
    settings: Mapping[str, Any]
    make: Callable[[str, Path], StageResult]
    inputs: Callable[[str], Mapping[str, str]] = lambda key: {}
    always: bool = False

    def open(self, seat: Seat) -> None:
        """Nothing to open."""

    def read(self, key: str) -> str:
        """The key itself."""
        return key

    def pixels(self, read: str) -> int:
        """None."""
        return 0

    def compute(self, reads: Sequence[str]) -> list[str]:
        """Nothing to compute."""
        return list(reads)

    def write(self, key: str, found: str, folder: Path) -> StageResult:
        """Makes the partition."""
        return self.make(key, folder)


def _reads_nothing(stage: object) -> bool:
    """Whether a stage's inputs, which may be slow to say, cannot change before its last phase."""
    return isinstance(stage, OneStep)


@dataclass(frozen=True)
class Made:
    """A partition's record, and whether it was there already."""

    record: StageRecord
    reused: bool


@dataclass(frozen=True)
class _Wanted(Generic[Read]):
    """What is to be made of a partition, and what for."""

    content: Read
    fingerprint: str
    inputs: dict[str, str]


class _MadeMeanwhile(Exception):
    """Another run made the same while this one computed it."""


@dataclass(frozen=True)
class Making(Generic[Read, Found]):
    """A :class:`dermatome.pipeline.work.SlideWork` of a stage.

    Attributes:
        stage: the stage.
        code_version: of the asset, settings included.
        run_id: for the records.
        as_they_are: partitions whose record is good whatever made it.
    """

    stage: Stage[Read, Found]
    code_version: str
    run_id: str
    as_they_are: frozenset[str] = frozenset()

    def open(self, seat: Seat) -> None:
        """Opens the stage."""
        self.stage.open(seat)

    def read(self, key: str) -> _Wanted[Read] | AlreadyMade[Made]:
        """The partition's record, where it carries the fingerprint of what inputs, settings and code are now.

        That is what makes a killed run cheap to start again. Else what the stage reads.
        """
        if key in self.as_they_are and (kept := read_record(self.stage.root.record(self.stage.asset, key))) is not None:
            return AlreadyMade(Made(kept, reused=True))
        for last in (False, True):
            inputs = dict(self.stage.inputs(key))
            now = fingerprint(self.code_version, inputs, self.stage.settings)
            if (kept := self._kept(key, now)) is not None:
                return AlreadyMade(Made(kept, reused=True))
            try:
                read = self.stage.read(key)
            except MissingInput:
                if last:
                    raise
                time.sleep(SWAP_S)
                continue
            # What was replaced while it was read may be of two versions.
            if _reads_nothing(self.stage) or dict(self.stage.inputs(key)) == inputs:
                return _Wanted(read, now, inputs)
        raise StorageFailed(f"What {key} is made of was replaced while it was read, twice: run this again.")

    def pixels(self, read: _Wanted[Read]) -> int:
        """As the stage says."""
        return self.stage.pixels(read.content)

    def compute(self, reads: Sequence[_Wanted[Read]]) -> list[_Wanted[Found]]:
        """The stage's computation."""
        found = self.stage.compute([read.content for read in reads])
        return [_Wanted(one, read.fingerprint, read.inputs) for one, read in zip(found, reads, strict=True)]

    def write(self, key: str, found: _Wanted[Found]) -> Made:
        """Files and record, swapped in together; another run's, where it was faster with the same."""
        final = self.stage.root.folder(self.stage.asset, key)
        kept: StageRecord | None = None
        try:
            with atomic_folder(final) as folder:
                # Looked at again now that nobody else can write it.
                if (kept := self._kept(key, found.fingerprint)) is not None:
                    raise _MadeMeanwhile
                record = StageRecord(
                    asset=self.stage.asset,
                    partition=key,
                    fingerprint=found.fingerprint,
                    code_version=self.code_version,
                    inputs=found.inputs,
                    settings=dict(self.stage.settings),
                    run_id=self.run_id,
                    **vars(self.stage.write(key, found.content, folder)),
                )
                write_record(folder / RECORD_FILE, record)
        except _MadeMeanwhile:
            assert kept is not None
            return Made(kept, reused=True)
        return Made(record, reused=False)

    def _kept(self, key: str, now: str) -> StageRecord | None:
        """The record of what is made already and is what would be made now."""
        if self.stage.always:
            return None
        try:
            kept = read_record(self.stage.root.record(self.stage.asset, key))
        except StorageFailed as error:
            _log.warning("%s It is made again now.", error)
            return None
        return kept if kept is not None and kept.fingerprint == now else None
