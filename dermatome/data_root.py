"""Where every file of the platform lies, below one data root.

genes/                                     hpa_pages/<gene>.xml      pages as they were fetched
hpa_images/<gene>/                         one folder for each partition of each asset: its files, and
slide_images/<slide>/                      `record.parquet`, written last, which says what made them
...
failures/<asset>/<partition>.parquet       what failed and why; gone once it succeeds
slide_sources/<slide>.json                 where a slide's image comes from
annotations/<annotated slide>/             what people put in: he.*, mask.*, ihc.*, rois.json|.geojson, palette.json
inbox/                                     images of the folder mode
metrics/dermatome.duckdb                   made from the Parquet files, and again at any time
settings.toml                              settings other than the defaults
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dermatome.errors import StorageFailed
from dermatome.files import safe_id

RECORD_FILE = "record.parquet"
PREVIEW_FILE = "preview.png"
WEIGHTS_FILE = "weights.safetensors"
CHAMPION = "current"
"""The one partition, on disk, of the asset that Dagster knows as unpartitioned."""


@dataclass(frozen=True)
class DataRoot:
    """The one folder all state lies in."""

    path: Path

    def folder(self, asset: str, partition: str | None = None) -> Path:
        """The folder of an asset, or of one of its partitions.

        Raises:
            StorageFailed: the partition's name could leave the data root.
        """
        base = self.path / asset
        return base if partition is None else base / safe_id(partition, f"The {asset} partition")

    def record(self, asset: str, partition: str) -> Path:
        """The record file of a partition."""
        return self.folder(asset, partition) / RECORD_FILE

    def failure(self, asset: str, partition: str) -> Path:
        """The file that says why a partition failed last."""
        return self.path / "failures" / asset / f"{safe_id(partition, f'The {asset} partition')}.parquet"

    def source(self, slide: str) -> Path:
        """The file that says where a slide's image comes from."""
        return self.path / "slide_sources" / f"{safe_id(slide, 'The slide')}.json"

    def hpa_page(self, gene: str) -> Path:
        """A gene's XML page as it was fetched."""
        return self.path / "hpa_pages" / f"{safe_id(gene, 'The gene')}.xml"

    @property
    def annotations(self) -> Path:
        """Where annotated slides are put."""
        return self.path / "annotations"

    @property
    def inbox(self) -> Path:
        """Where images of the folder mode are put."""
        return self.path / "inbox"

    @property
    def store(self) -> Path:
        """The DuckDB file."""
        return self.path / "metrics" / "dermatome.duckdb"

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
