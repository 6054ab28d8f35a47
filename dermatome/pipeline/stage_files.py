"""Functions that all stages of slides share: loading slides, input versions, figures, tables, and timing of phases."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa

from dermatome.pipeline.cached_stage import Output, Stage
from dermatome.reports.figures import SlideFigure
from dermatome.slides.preview import preview
from dermatome.slides.slide import Slide
from dermatome.slides.source import open_slide
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import FIGURE_FILE, PREVIEW_FILE, DataRoot
from dermatome.storage.record import Scalar, require_record, write_table
from dermatome.training.weights import SYNTHETIC_WARNING


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Adds the wall time of the block to ``seconds`` under ``phase``."""
    started = time.perf_counter()
    yield
    seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - started


def share_seconds(seconds: Sequence[Mapping[str, float]], tiles: Sequence[int]) -> list[dict[str, float]]:
    """Divides the seconds of slides that were computed together among them, by number of tiles.

    Returns:
        For each slide, the seconds of each phase, with the prefix ``segment_``.
    """
    total = sum(tiles) or 1
    return [
        {f"segment_{name}": value * count / total for name, value in one.items()}
        for one, count in zip(seconds, tiles, strict=True)
    ]


def versions_of(root: DataRoot, slide: str, *assets: str) -> dict[str, str]:
    """The data version of a slide's results in each of ``assets``.

    Raises:
        MissingInput: one of them has no results for the slide yet.
    """
    return {asset: require_record(root, asset, slide).data_version for asset in assets}


def some_slides(root: DataRoot, asset: str, most: int = 8) -> list[str]:
    """At most ``most`` of the slides that have results of ``asset``, spread evenly over their sorted names."""
    found = root.partitions(asset)
    return [found[k * len(found) // most] for k in range(most)] if len(found) > most else found


def load_slide(root: DataRoot, slide: str, asset: str = "slide_images") -> Slide:
    """The verified image of a slide from ``slide_images`` or ``nuclei_slides``.

    Raises:
        MissingInput: there is no image yet.
        BadImage: the image is not the verified one.
    """
    record, folder = require_record(root, asset, slide), root.folder(asset, slide)
    return open_slide(folder, slide, dict(record.values))


class SlideStage(Stage[tuple[Slide, dict[str, float]], Output]):
    """A stage whose input is only the slide, together with the seconds of its phases.

    Attributes:
        slides: asset that the slide is read from.
    """

    slides = "slide_images"

    def load(self, key: str) -> tuple[Slide, dict[str, float]]:
        """Decodes the slide, or opens it if it is read in parts."""
        seconds: dict[str, float] = {}
        with timed(seconds, "decode"):
            slide = load_slide(self.root, key, self.slides)
        return slide, seconds

    def pixels(self, loaded: tuple[Slide, dict[str, float]]) -> int:
        """Size of the slide, px."""
        return loaded[0].size.area_px


def synthetic_warning(values: Mapping[str, Scalar]) -> str:
    """The warning for a result with these values if a network of it only ever saw synthetic images; otherwise empty."""
    return SYNTHETIC_WARNING if values.get("synthetic") else ""


def write_figure(folder: Path, figure: bytes | SlideFigure, stem: str = "") -> None:
    """Writes a figure (PNG bytes) as ``<stem>.png``; without a stem, as in the data root, it also writes a preview."""
    drawn = figure if isinstance(figure, SlideFigure) else SlideFigure(figure, b"")
    if stem:
        write_atomic(folder / f"{stem}.png", drawn.png)
    else:
        write_atomic(folder / FIGURE_FILE, drawn.png)
        write_atomic(folder / PREVIEW_FILE, drawn.preview or preview(drawn.png))


def write_report(
    folder: Path, tables: Mapping[str, pd.DataFrame], drawn: tuple[bytes, bytes], warning: str, **first: str
) -> None:
    """Writes the tables and the figure (PNG and SVG bytes) of a report over many slides.

    Args:
        folder: folder of the report.
        tables: the rows of each table, by file name.
        drawn: the figure as PNG and as SVG.
        warning: see :func:`write_frame`.
        first: see :func:`write_frame`.
    """
    for name, rows in tables.items():
        write_frame(folder / name, rows, warning=warning, **first)
    write_figure(folder, drawn[0])
    write_atomic(folder / "figure.svg", drawn[1])


def write_rows(path: Path, slide: str, rows: pd.DataFrame, *, warning: str = "") -> None:
    """Writes a slide's rows with its id as the first column; see :func:`write_frame`."""
    write_frame(path, rows, warning=warning, slide=slide)


def write_frame(path: Path, rows: pd.DataFrame, *, warning: str = "", **first: str) -> None:
    """Writes rows as a Parquet file.

    Args:
        path: path of the file.
        rows: the rows.
        warning: stored in the metadata; pandas reads it as ``DataFrame.attrs["warning"]``.
        first: values of further columns, which precede the others; each has one value for all rows.
    """
    table = pa.Table.from_pandas(rows, preserve_index=False)
    for place, (name, value) in enumerate(first.items()):
        table = table.add_column(place, name, pa.array([value] * table.num_rows, pa.string()))
    metadata = {"PANDAS_ATTRS": json.dumps({"warning": warning})} if warning else None
    write_table(path, table.replace_schema_metadata(metadata))


def read_rows(path: Path) -> pd.DataFrame:
    """Reads the rows that :func:`write_rows` wrote, without the slide's id."""
    return pd.read_parquet(io.BytesIO(path.read_bytes())).drop(columns="slide")
