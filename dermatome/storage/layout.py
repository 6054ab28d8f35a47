"""Where every file of the platform lies, below one data root: a folder on a local disk or NFS.

A stage fills the folder that ``atomic_folder(root.folder(asset, partition))`` gives it, and reads
``root.folder(asset, partition) / name`` of others.

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
from dataclasses import dataclass
from pathlib import Path

from dermatome.errors import MissingInput, StorageFailed
from dermatome.storage.files import RECORD_FILE, local_path, names_in, partitions_in, read_bytes, safe_id, sweep

__all__ = ["CHAMPION", "PREVIEW_FILE", "RECORD_FILE", "WEIGHTS_FILE", "DataRoot"]

PREVIEW_FILE = "preview.webp"
WEIGHTS_FILE = "weights.safetensors"
CHAMPION = "current"
"""The one partition, on disk, of the asset that Dagster knows as unpartitioned."""

# What people put in, and Dagster's own storage.
_NOT_OURS = ("annotations", "cell_annotations", "inbox", "nuclei_annotations", "nuclei_inbox", "dagster")


@dataclass(frozen=True)
class DataRoot:
    """The one place all state lies in."""

    path: Path

    @classmethod
    def at(cls, place: str) -> DataRoot:
        """The data root at a path of this machine, which is made absolute.

        Raises:
            BadSetting: ``place`` is an address such as ``s3://bucket/prefix``.
        """
        return cls(local_path(place).resolve())

    def folder(self, asset: str, partition: str | None = None) -> Path:
        """The folder of an asset, or of one of its partitions.

        Raises:
            StorageFailed: the partition's name could leave the data root.
        """
        base = self.path / asset
        return base if partition is None else base / safe_id(partition, f"The {asset} partition")

    def read(self, asset: str, partition: str, name: str) -> bytes:
        """One small file of a partition.

        Raises:
            MissingInput: the partition is missing, or lacks the file.
        """
        path = self.folder(asset, partition) / name
        try:
            return read_bytes(path)
        except FileNotFoundError as error:
            raise MissingInput(f"There is no {path}: run the stage before.") from error

    def partitions(self, asset: str) -> list[str]:
        """Sorted names of the complete partitions of an asset."""
        return partitions_in(self.folder(asset))

    def failed(self, asset: str) -> set[str]:
        """The partitions of an asset that failed last."""
        return {name.removesuffix(".parquet") for name in names_in(self.path / "failures" / asset)}

    def record(self, asset: str, partition: str) -> Path:
        """The record file of a partition."""
        return self.folder(asset, partition) / RECORD_FILE

    def failure(self, asset: str, partition: str) -> Path:
        """The file that says why a partition failed last."""
        return self.path / "failures" / asset / f"{safe_id(partition, f'The {asset} partition')}.parquet"

    def in_flight(self, asset: str, partition: str) -> Path:
        """The file that exists while a run works on a partition; a run that is killed leaves it behind."""
        return self.path / "in_flight" / asset / f"{safe_id(partition, f'The {asset} partition')}.json"

    def checkpoints(self, asset: str, partition: str) -> Path:
        """The folder of what a training that is killed goes on from."""
        return self.path / "checkpoints" / asset / safe_id(partition, f"The {asset} partition")

    def hpa_page(self, gene: str) -> Path:
        """A gene's XML page as it was fetched."""
        return self.path / "hpa_pages" / f"{safe_id(gene, 'The gene')}.xml"

    @property
    def slide_sources(self) -> Path:
        """The folder of the tables that say where slides' images come from."""
        return self.path / "slide_sources"

    @property
    def annotations(self) -> Path:
        """Where annotated slides are put."""
        return self.path / "annotations"

    @property
    def cell_annotations(self) -> Path:
        """Where sets of annotated cells are put, a folder each."""
        return self.path / "cell_annotations"

    def cell_set(self, name: str) -> Path:
        """The folder of one set of annotated cells.

        Raises:
            StorageFailed: the name could leave the data root.
        """
        return self.cell_annotations / safe_id(name, "The set of annotated cells")

    @property
    def inbox(self) -> Path:
        """Where images of the folder mode are put."""
        return self.path / "inbox"

    @property
    def nuclei_annotations(self) -> Path:
        """Where annotated images of nuclei are put, a folder for each case."""
        return self.path / "nuclei_annotations"

    @property
    def nuclei_inbox(self) -> Path:
        """Where H&E slides are put."""
        return self.path / "nuclei_inbox"

    @property
    def store(self) -> Path:
        """The DuckDB file."""
        return self.path / "metrics" / "dermatome.duckdb"

    @property
    def models(self) -> Path:
        """Where networks that are not ours are kept: Cellpose's, and encoders' ready weights."""
        return self.path / "models"

    @property
    def remembered_backends(self) -> Path:
        """The file that names the fastest inference backend of each network and machine."""
        return self.models / "backends.json"

    @property
    def settings(self) -> Path:
        """The settings file, which may be absent."""
        return self.path / "settings.toml"

    def check_writable(self) -> None:
        """Makes the root if need be.

        Raises:
            StorageFailed: it cannot be made or written to.
        """
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
        """Deletes the temporary files that killed processes left; what a living process has locked stays.

        Args:
            older_than_s: age from which a temporary file, which has no lock, counts as abandoned, s.

        Returns:
            Number of files and folders deleted or put back.
        """
        if not self.path.is_dir():
            return 0
        folders = [path for path in self.path.iterdir() if path.is_dir() and path.name not in _NOT_OURS]
        failures = self.path / "failures"
        folders += failures.iterdir() if failures.is_dir() else []
        folders += [path for path in (self.path / "checkpoints").rglob("*") if path.is_dir()]
        return sum(sweep(folder, older_than_s) for folder in folders)
