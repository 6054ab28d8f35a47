"""The layout of the data root: where every file of the platform lies, below one folder on a local disk or NFS.

A stage fills the folder that ``atomic_folder(root.folder(asset, partition))`` yields, and reads the files of other
stages at ``root.folder(asset, partition) / name``.

    <asset>/<partition>/             results of one partition: its files, and `record.json`, which is written last
    failures/<asset>/<partition>.json    why a partition failed; deleted when it succeeds
    checkpoints/<asset>/<partition>/     state of an unfinished training
    hpa_pages/<gene>.xml             gene pages as they were fetched
    slide_sources/                   where slides' images come from (`dermatome.slides.register`)
    models/                          downloaded networks (Cellpose's, encoders), and int8 forms of networks
    metrics/dermatome.duckdb         the metrics store, filled from records and tables; can be rebuilt at any time
    settings.toml                    settings that differ from the defaults
    dagster/                         Dagster's own storage

Folders that users put files into:

    inbox/                           images to segment, or <slide>/ with DICOM files
    annotations/<slide>/             he.*, mask.*; perhaps ihc.*, rois.json or .geojson, palette.json, slide.json
    cell_annotations/<set>/          images with their cells (`dermatome.skin.cells.annotations`)
    nuclei_inbox/                    H&E slides: <slide>.svs and the like, or <slide>/ with DICOM files
    nuclei_annotations/<case>/       annotated nuclei of one patient (`dermatome.nuclei.patches.annotated`)
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from dermatome.errors import BadSetting, StorageFailed
from dermatome.storage.files import OLD, SWAP_S, local_path, names_in, safe_id, sweep

RECORD_FILE = "record.json"
"""Name of the record, which is written last: a partition's folder that has it is complete."""
PREVIEW_FILE = "preview.webp"
FIGURE_FILE = "figure.png"
FAILURES = "failures"
WEIGHTS_FILE = "weights.safetensors"
CHAMPION = "current"
"""Folder name of the only partition of an asset that is unpartitioned in Dagster."""

# Folders written by users and by Dagster.
_NOT_OURS = ("annotations", "cell_annotations", "inbox", "nuclei_annotations", "nuclei_inbox", "dagster")


class _Below:
    """A file or folder below the data root; this module's docstring describes each."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def __get__(self, root: DataRoot, owner: type[DataRoot]) -> Path:
        return root.path.joinpath(*self._names)


@dataclass(frozen=True)
class DataRoot:
    """The folder that holds all data of a deployment."""

    path: Path

    @classmethod
    def at(cls, place: str) -> DataRoot:
        """The data root at a path on this machine, which is made absolute.

        Raises:
            BadSetting: ``place`` is an address such as ``s3://bucket/prefix``, a file, or no path.
        """
        try:
            path = local_path(place).resolve()
            if path.exists() and not path.is_dir():
                raise BadSetting(f"The data root {path} is a file: name a folder.")
        except (OSError, RuntimeError, ValueError) as error:  # of names too long, links in a circle, null bytes
            why = getattr(error, "strerror", None) or error
            raise BadSetting(f"The data root {place[:200]!r} is no path of a folder ({why}): name another.") from error
        return cls(path)

    def asset_folders(self) -> list[Path]:
        """The folders below the data root that may belong to assets."""
        if not self.path.is_dir():
            return []
        return [path for path in self.path.iterdir() if path.is_dir() and path.name not in _NOT_OURS]

    def folder(self, asset: str, partition: str | None = None) -> Path:
        """The folder of an asset, or of one of its partitions.

        Raises:
            StorageFailed: The partition's name could be a path outside the data root.
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
        base = str(folder)
        shown = (name for name in names if not name.startswith("."))
        return sorted(name for name in shown if os.path.isfile(f"{base}/{name}/{RECORD_FILE}"))  # noqa: PTH113

    def failed(self, asset: str) -> set[str]:
        """Names of the partitions of an asset whose last run failed."""
        return {name.removesuffix(".json") for name in names_in(self.path / FAILURES / asset)}

    def record(self, asset: str, partition: str) -> Path:
        """The record file of a partition."""
        return self.folder(asset, partition) / RECORD_FILE

    def failure(self, asset: str, partition: str) -> Path:
        """The file that states why a partition failed last."""
        return self.path / FAILURES / asset / f"{safe_id(partition, f'The {asset} partition')}.json"

    def in_flight(self, asset: str, partition: str) -> Path:
        """The file that exists while a run works on a partition; a run that is killed leaves it behind."""
        return self.path / "in_flight" / asset / f"{safe_id(partition, f'The {asset} partition')}.json"

    def checkpoints(self, asset: str, partition: str) -> Path:
        """The folder of the checkpoint from which a killed training resumes."""
        return self.path / "checkpoints" / asset / safe_id(partition, f"The {asset} partition")

    def hpa_page(self, gene: str) -> Path:
        """A gene's XML page as it was fetched."""
        return self.path / "hpa_pages" / f"{safe_id(gene, 'The gene')}.xml"

    slide_sources = _Below("slide_sources")
    annotations = _Below("annotations")
    cell_annotations = _Below("cell_annotations")
    inbox = _Below("inbox")
    nuclei_annotations = _Below("nuclei_annotations")
    nuclei_inbox = _Below("nuclei_inbox")
    store = _Below("metrics", "dermatome.duckdb")
    models = _Below("models")
    prepared = _Below("models", "prepared")  # networks converted for this machine; may be deleted at any time
    settings = _Below("settings.toml")

    def cell_set(self, name: str) -> Path:
        """The folder of one set of annotated cells."""
        return self.cell_annotations / safe_id(name, "The set of annotated cells")

    def int8(self, weights_sha256: str, form: str) -> Path:
        """The folder of the int8 form of a network."""
        return self.models / "int8" / f"{weights_sha256[:16]}-{form}"

    def check_writable(self) -> None:
        """Creates the data root if it is missing.

        Raises:
            StorageFailed: It cannot be created or written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageFailed(
                f"The data root {self.path} cannot be created ({error.strerror}): set DERMATOME_DATA to a folder you "
                "may write to."
            ) from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise StorageFailed(
                f"The data root {self.path} is not writable: change its permissions or set DERMATOME_DATA to another "
                "folder."
            )

    def sweep(self, older_than_s: float = 3600.0) -> int:
        """Deletes the temporary files that killed processes left; see :func:`dermatome.storage.files.sweep`."""
        folders = self.asset_folders()
        folders += (self.path / FAILURES).glob("*/")
        folders += [path for path in (self.path / "checkpoints").rglob("*") if path.is_dir()]
        return sum(sweep(folder, older_than_s) for folder in folders)
