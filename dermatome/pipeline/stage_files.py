"""What the per-slide stages share: names of files, reading what earlier stages left, writing figures and rows."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dermatome.geometry import Size
from dermatome.labels.npz import load_instances, load_mask
from dermatome.labels.ome_tiff import open_ome_tiff
from dermatome.slides.preview import preview
from dermatome.slides.slide import WHOLE_PX, Slide
from dermatome.slides.source import open_slide
from dermatome.slides.tiled_tiff import TiledLabels
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import CHAMPION, PREVIEW_FILE, DataRoot
from dermatome.storage.record import Check, StageRecord, read_record, require_record, write_table

if TYPE_CHECKING:
    import pandas as pd

MASK_FILE = "mask.npz"
MASK_TIFF = "mask.ome.tif"
CELLS_FILE = "cells.npz"
CELLS_TIFF = "cells.ome.tif"
CELLS_TABLE = "cells.parquet"
LAYERS_TABLE = "layers.parquet"
FIGURE_FILE = "figure.png"


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Notes the seconds of its block under ``phase``."""
    started = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - started


def versions_of(root: DataRoot, slide_id: str, *assets: str) -> dict[str, str]:
    """The data version of what each of ``assets`` made for a slide.

    Raises:
        MissingInput: one has not made it.
    """
    return {asset: require_record(root, asset, slide_id).data_version for asset in assets}


def read_made_slide(root: DataRoot, slide_id: str, asset: str = "slide_images") -> Slide:
    """The verified image of a slide, of skin or, of ``nuclei_slides``, of nuclei.

    Raises:
        MissingInput: no image.
        BadImage: the image is not the verified one.
    """
    record, folder = require_record(root, asset, slide_id), root.folder(asset, slide_id)
    return open_slide(folder, slide_id, dict(record.values))


def open_made_mask(
    root: DataRoot, slide_id: str, size: Size
) -> tuple[npt.NDArray[np.uint8] | TiledLabels, StageRecord]:
    """The tissue mask of a slide, in memory or, where it is as large as slides that are read in parts, like those.

    Raises:
        MissingInput: no mask.
        BadAnnotation, BadImage: it is damaged.
    """
    whole = size.area_px <= WHOLE_PX
    name = MASK_FILE if whole else MASK_TIFF
    record, folder = require_record(root, "epidermis_masks", slide_id), root.folder("epidermis_masks", slide_id)
    path = folder / name
    mask = load_mask(path)[0] if whole else open_ome_tiff(path)
    return mask, record


def open_made_cells(
    root: DataRoot, slide_id: str, size: Size
) -> tuple[npt.NDArray[np.int32] | TiledLabels, pd.DataFrame]:
    """The cells of a slide, as their map (like :func:`open_made_mask`), and their table.

    Raises:
        MissingInput: no cells.
        BadAnnotation, BadImage: they are damaged.
    """
    whole = size.area_px <= WHOLE_PX
    name = CELLS_FILE if whole else CELLS_TIFF
    require_record(root, "cell_masks", slide_id)
    folder = root.folder("cell_masks", slide_id)
    cells = read_rows(folder / CELLS_TABLE)
    path = folder / name
    instances = load_instances(path) if whole else open_ome_tiff(path)
    return instances, cells


def write_figure(folder: Path, figure: bytes) -> None:
    """Writes a figure (PNG bytes) and its preview."""
    write_atomic(folder / FIGURE_FILE, figure)
    write_atomic(folder / PREVIEW_FILE, preview(figure))


def write_rows(path: Path, slide_id: str, rows: pd.DataFrame) -> None:
    """Writes a slide's rows with its id as their first column."""
    table = pa.Table.from_pandas(rows, preserve_index=False)
    names = pa.array([slide_id] * table.num_rows, pa.string())
    write_table(path, table.add_column(0, "slide", names).replace_schema_metadata(None))


def read_rows(path: Path) -> pd.DataFrame:
    """What :func:`write_rows` wrote, without the slide's id."""
    import pandas as pd

    return pd.read_parquet(io.BytesIO(path.read_bytes())).drop(columns="slide")


def check_champion(root: DataRoot, slide_id: str) -> Check:
    """Whether a slide's mask was made with the weights that are the champion now.

    Raises:
        MissingInput: the slide has no mask.
    """
    used = require_record(root, "epidermis_masks", slide_id).values["weights_sha256"]
    champion = read_record(root.record("tissue_champion", CHAMPION))
    passed = champion is not None and used == champion.values["weights_sha256"]
    made_with = "the present champion's weights" if passed else "other weights than the present champion's"
    return Check(
        "mask_made_with_champion", passed, f"The mask was made with {made_with}.", {"weights_sha256": str(used)}
    )
