"""Where every file of the platform lies, below one data root: a folder on a local disk or NFS.

A stage fills the folder that ``atomic_folder(root.folder(asset, partition))`` gives it, and reads
``root.folder(asset, partition) / name`` of others.

genes/                                     hpa_pages/<gene>.xml      pages as they were fetched
hpa_images/<gene>/                         one folder for each partition of each asset: its files, and
slide_images/<slide>/                      `record.json`, written last, which says what made them
...
failures/<asset>/<partition>.json          what failed and why; gone once it succeeds
checkpoints/<asset>/<partition>/           of trainings that are under way
slide_sources/sources.parquet              where slides' images come from (`dermatome.slides.register`)
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
import time
from dataclasses import dataclass
from pathlib import Path

from dermatome.errors import StorageFailed
from dermatome.storage.files import OLD, SWAP_S, local_path, names_in, safe_id, sweep

RECORD_FILE = "record.json"
"""Written last into a partition's folder: where it is, the folder is complete."""
OLD_RECORD_FILE = "record.parquet"
"""What records were called before they became JSON."""
PREVIEW_FILE = "preview.webp"
FAILURES = "failures"
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
            StorageFailed: an earlier version of Dermatome, whose records cannot be read, wrote the data root.
        """
        root = cls(local_path(place).resolve())
        for asset in root._asset_folders():
            first = next((entry for entry in asset.iterdir() if not entry.name.startswith(".")), None)
            if first is not None and (first / OLD_RECORD_FILE).is_file():
                raise StorageFailed(
                    f"The data root {root.path} was written by an earlier version of Dermatome: rewrite its records "
                    f"with `python -m dermatome.storage.upgrade {root.path}`; its results stay as they are."
                )
        return root

    def _asset_folders(self) -> list[Path]:
        if not self.path.is_dir():
            return []
        return [path for path in self.path.iterdir() if path.is_dir() and path.name not in _NOT_OURS]

    def folder(self, asset: str, partition: str | None = None) -> Path:
        """The folder of an asset, or of one of its partitions.

        Raises:
            StorageFailed: the partition's name could leave the data root.
        """
        base = self.path / asset
        return base if partition is None else base / safe_id(partition, f"The {asset} partition")

    def partitions(self, asset: str) -> list[str]:
        """Sorted names of the complete partitions of an asset."""
        folder = self.folder(asset)
        try:
            names = os.listdir(folder)  # noqa: PTH208 (20,000 paths take ten times as long as their names)
            if any(name.endswith(OLD) for name in names):
                time.sleep(SWAP_S)
                names = os.listdir(folder)  # noqa: PTH208
        except FileNotFoundError:
            return []
        return sorted(name for name in names if not name.startswith(".") and (folder / name / RECORD_FILE).is_file())

    def failed(self, asset: str) -> set[str]:
        """Names of the partitions of an asset whose last run failed."""
        return {name.removesuffix(".json") for name in names_in(self.path / FAILURES / asset)}

    def record(self, asset: str, partition: str) -> Path:
        """The record file of a partition."""
        return self.folder(asset, partition) / RECORD_FILE

    def failure(self, asset: str, partition: str) -> Path:
        """The file that says why a partition failed last."""
        return self.path / FAILURES / asset / f"{safe_id(partition, f'The {asset} partition')}.json"

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
        folders = self._asset_folders()
        folders += (self.path / FAILURES).glob("*/")
        folders += [path for path in (self.path / "checkpoints").rglob("*") if path.is_dir()]
        return sum(sweep(folder, older_than_s) for folder in folders)
