"""The report of trainings as PDF pages, drawn with the plotting library that is there: text stays text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from dermatome.nuclei.maps.runs import NucleiRun, ScoreSummary, plain_settings
from dermatome.nuclei.maps.runs_figures import dashboard_figure
from dermatome.reports.panels import GREY, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAGE_IN = (8.27, 11.69)
_ROWS = 50
"""Lines of a table on a page."""


def runs_pdf(runs: Sequence[NucleiRun], summary: Sequence[ScoreSummary]) -> bytes:
    """PDF bytes: all runs in numbers, then each run's settings, curves, classes and samples."""
    from matplotlib.backends.backend_pdf import PdfPages

    buffer = io.BytesIO()
    # Without a date, so that the same runs make the same file.
    with PdfPages(buffer, metadata={"Title": "Trainings of nuclei", "CreationDate": None}) as pages:
        for figure in _pages(runs, summary):
            pages.savefig(figure)
    return buffer.getvalue()


def _pages(runs: Sequence[NucleiRun], summary: Sequence[ScoreSummary]) -> list[Figure]:
    numbers = [
        [each.title, str(each.runs), *map(_text, each.numbers), each.best_version] for each in summary if each.runs
    ]
    heads = ["score", "runs", "mean", "sd", "lowest", "highest", "best run"]
    found = _table_pages("Trainings of nuclei: all runs in numbers", heads, numbers, (0.4, 0.08, *(0.1,) * 4, 0.12))
    for run in runs:
        settings = [[name, value] for name, value in plain_settings(run.settings).items()]
        found += _table_pages(f"{run.version}: settings", ["setting", "value"], settings, (0.45, 0.55))
        found.append(dashboard_figure(run.history, f"{run.version}: curves"))
        classes = [
            [f"{row['map']}: {row['label']}", f"{int(row['truth_px']):,}"]
            + [_text(row[name]) for name in ("iou", "f1", "precision", "recall")]
            for row in run.classes.to_dict("records")
        ]
        heads = ["class", "true pixels", "IoU", "Dice", "precision", "recall"]
        found += _table_pages(f"{run.version}: by class", heads, classes, (0.3, 0.18, *(0.13,) * 4))
        if run.samples is not None:
            found.append(_picture_page(f"{run.version}: samples", run.samples))
    return found


def _table_pages(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[float]
) -> list[Figure]:
    found = []
    for first in range(0, max(1, len(rows)), _ROWS):
        figure, axes = _blank(title)
        shown = [
            [_short(text, width) for text, width in zip(row, widths, strict=True)]
            for row in rows[first : first + _ROWS]
        ]
        if not shown:
            axes.text(0, 0.97, "none", color=GREY)
            found.append(figure)
            continue
        table = axes.table(
            cellText=shown, colLabels=list(heads), colWidths=list(widths), cellLoc="left", colLoc="left",
            loc="upper left", edges="horizontal",
        )  # fmt: skip
        table.auto_set_font_size(False)
        table.set_fontsize(8)
        table.scale(1, 1.15)
        for cell in table.get_celld().values():
            cell.set_edgecolor("#cccccc")
            cell.set_text_props(color=INK)
        found.append(figure)
    return found


def _picture_page(title: str, png: bytes) -> Figure:
    figure, axes = _blank(title)
    with Image.open(io.BytesIO(png)) as opened:
        axes.imshow(opened.convert("RGB"), interpolation="none")
    axes.set_anchor("N")
    return figure


def _blank(title: str) -> tuple[Figure, Any]:
    figure = new_figure(*_PAGE_IN)
    figure.suptitle(title, fontsize=12, x=0.05, ha="left", color=INK)
    axes = figure.subplots()
    axes.set_axis_off()
    return figure, axes


def _short(text: str, width: float) -> str:
    most = int(width * 105)
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(value: float | None) -> str:
    return "undefined" if value is None or value != value else f"{value:.3f}"
