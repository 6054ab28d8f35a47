"""Where every file of the platform lies, below one data root: a folder, NFS, or a bucket (`s3://bucket/prefix`).

Stages fill the folder of this machine that `whole_folder(root.folder(asset, partition))` gives them, and read what
others made by `with root.local(asset, partition) as folder:`, which gives a folder of this machine again (a copy where
the root is a bucket). Small files are read with `root.read(asset, partition, name)`. Whoever goes to
`root.folder(…) / name` instead works on a disk only: in a bucket a partition's files lie below a version (see
`dermatome.storage.object_store`).

genes/                                     hpa_pages/<gene>.xml      pages as they were fetched
hpa_images/<gene>/                         one folder for each partition of each asset: its files, and
slide_images/<slide>/                      `record.parquet`, written last, which says what made them
...
failures/<asset>/<partition>.parquet       what failed and why; gone once it succeeds
checkpoints/<asset>/<partition>/           of trainings that are under way
slide_sources/<number>-….parquet           where slides' images come from (`dermatome.slides.register`)
annotations/<annotated slide>/             what people put in: he.*, mask.*, ihc.*, rois.json|.geojson, palette.json
cell_annotations/<set>/                    likewise: images with their cells (`dermatome.skin.cells.annotations`)
inbox/                                     images of the folder mode
nuclei_annotations/<case>/                 annotated nuclei of one patient (`dermatome.nuclei.patches.annotated`)
nuclei_inbox/                              H&E slides: <slide>.svs and the like, or <slide>/ with DICOM files
models/                                    networks that are not ours, fetched once: Cellpose's, encoders'
metrics/dermatome.duckdb                   made from the Parquet files, and again at any time
settings.toml                              settings other than the defaults
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.errors import MissingInput, StorageFailed
from dermatome.storage import disk
from dermatome.storage.files import (
    RECORD_FILE,
    any_path,
    files_of,
    local_folder,
    names_in,
    partitions_in,
    read_bytes,
    remove,
    safe_id,
    write_whole,
)
from dermatome.storage.temporary import sweep_temporary

if TYPE_CHECKING:
    from dermatome.storage.files import AnyPath

__all__ = ["CHAMPION", "PREVIEW_FILE", "RECORD_FILE", "WEIGHTS_FILE", "DataRoot"]

PREVIEW_FILE = "preview.webp"
WEIGHTS_FILE = "weights.safetensors"
CHAMPION = "current"
"""The one partition, on disk, of the asset that Dagster knows as unpartitioned."""

_PROBE = ".writable"
# What people put in, and Dagster's own storage.
_NOT_OURS = ("annotations", "cell_annotations", "inbox", "nuclei_annotations", "nuclei_inbox", "dagster")


@dataclass(frozen=True)
class DataRoot:
    """The one place all state lies in."""

    path: AnyPath

    @classmethod
    def at(cls, place: str) -> DataRoot:
        """The data root at ``s3://bucket/prefix``, or at a path of this machine, which is made absolute.

        Raises:
            BadSetting: another kind of address, or what S3 needs is not installed.
        """
        path = any_path(place)
        return cls(path.resolve() if isinstance(path, Path) else path)

    def folder(self, asset: str, partition: str | None = None) -> AnyPath:
        """The folder of an asset, or of one of its partitions: for `whole_folder`, and to be shown.

        Raises:
            StorageFailed: the partition's name could leave the data root.
        """
        base = self.path / asset
        return base if partition is None else base / safe_id(partition, f"The {asset} partition")

    def local(self, asset: str, partition: str, *names: str) -> AbstractContextManager[Path]:
        """A folder of this machine with a partition's files, or those of ``names``, and its record.

        It is named like the partition. In a bucket these are copies of one version, gone when the block ends.

        Raises:
            MissingInput: the partition is not made, or lacks a file that is named.
        """
        return local_folder(self.folder(asset, partition), *names)

    def files(self, asset: str, partition: str) -> AnyPath:
        """The folder that a partition's files lie in now.

        Raises:
            MissingInput: the partition is not made.
        """
        return files_of(self.folder(asset, partition))

    def read(self, asset: str, partition: str, name: str) -> bytes:
        """One small file of a partition.

        Raises:
            MissingInput: the partition is not made, or lacks the file.
        """
        path = self.files(asset, partition) / name
        try:
            return read_bytes(path)
        except FileNotFoundError as error:
            raise MissingInput(f"There is no {path}: make it with the stage before.") from error

    def made(self, asset: str) -> list[str]:
        """The partitions of an asset that are whole, by name."""
        return partitions_in(self.folder(asset))

    def failed(self, asset: str) -> set[str]:
        """The partitions of an asset that failed last."""
        return {name.removesuffix(".parquet") for name in names_in(self.path / "failures" / asset)}

    def record(self, asset: str, partition: str) -> AnyPath:
        """The record file of a partition."""
        return self.folder(asset, partition) / RECORD_FILE

    def failure(self, asset: str, partition: str) -> AnyPath:
        """The file that says why a partition failed last."""
        return self.path / "failures" / asset / f"{safe_id(partition, f'The {asset} partition')}.parquet"

    def checkpoints(self, asset: str, partition: str) -> AnyPath:
        """The folder of what a training that is killed goes on from."""
        return self.path / "checkpoints" / asset / safe_id(partition, f"The {asset} partition")

    def hpa_page(self, gene: str) -> AnyPath:
        """A gene's XML page as it was fetched."""
        return self.path / "hpa_pages" / f"{safe_id(gene, 'The gene')}.xml"

    @property
    def slide_sources(self) -> AnyPath:
        """The folder of the tables that say where slides' images come from."""
        return self.path / "slide_sources"

    @property
    def annotations(self) -> AnyPath:
        """Where annotated slides are put."""
        return self.path / "annotations"

    @property
    def cell_annotations(self) -> AnyPath:
        """Where sets of annotated cells are put, a folder each."""
        return self.path / "cell_annotations"

    def cell_set(self, name: str) -> AnyPath:
        """The folder of one set of annotated cells.

        Raises:
            StorageFailed: the name could leave the data root.
        """
        return self.cell_annotations / safe_id(name, "The set of annotated cells")

    @property
    def inbox(self) -> AnyPath:
        """Where images of the folder mode are put."""
        return self.path / "inbox"

    @property
    def nuclei_annotations(self) -> AnyPath:
        """Where annotated images of nuclei are put, a folder for each case."""
        return self.path / "nuclei_annotations"

    @property
    def nuclei_inbox(self) -> AnyPath:
        """Where H&E slides are put."""
        return self.path / "nuclei_inbox"

    @property
    def store(self) -> AnyPath:
        """The DuckDB file."""
        return self.path / "metrics" / "dermatome.duckdb"

    @property
    def models(self) -> AnyPath:
        """Where networks that are not ours are kept: Cellpose's, and encoders' ready weights."""
        return self.path / "models"

    @property
    def settings(self) -> AnyPath:
        """The settings file, which may be absent."""
        return self.path / "settings.toml"

    def check_writable(self) -> None:
        """Makes the root if need be.

        Raises:
            StorageFailed: it cannot be made or written to.
        """
        if not isinstance(self.path, Path):
            write_whole(self.path / _PROBE, b"")
            remove(self.path / _PROBE)
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageFailed(
                f"The data root {self.path} cannot be made ({error.strerror}): set DERMATOME_DATA to a folder you "
                "may write to."
            ) from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise StorageFailed(
                f"The data root {self.path} is not writable: change its rights or set DERMATOME_DATA to another folder."
            )

    def sweep(self, older_than_s: float = 3600.0) -> int:
        """Deletes what killed processes left half-written; what a living one works on stays.

        In a bucket, whoever writes a partition next does so; here, only this machine's copies are looked at.

        Args:
            older_than_s: younger temporary files stay, as nobody can see whose they are, seconds.

        Returns:
            How many files and folders were left.
        """
        if not isinstance(self.path, Path):
            return sweep_temporary(older_than_s)
        if not self.path.is_dir():
            return 0
        folders = [path for path in self.path.iterdir() if path.is_dir() and path.name not in _NOT_OURS]
        failures = self.path / "failures"
        folders += failures.iterdir() if failures.is_dir() else []
        folders += [path for path in (self.path / "checkpoints").rglob("*") if path.is_dir()]
        return sum(disk.sweep(folder, older_than_s) for folder in folders)
