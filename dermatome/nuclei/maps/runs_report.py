"""The report of all trainings of nuclei: tables and one HTML file."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.nuclei.maps.figures import NUCLEUS_CHARTS
from dermatome.nuclei.maps.runs import (
    MAIN_SCORES,
    NucleiRun,
    ScoreSummary,
    plain_settings,
    read_runs,
    run_rows,
    summarised,
)
from dermatome.reports.figures import curves_figure
from dermatome.reports.html_page import framed, page, picture, score_table
from dermatome.storage.files import sha256_bytes, write_atomic
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import StageResult

if TYPE_CHECKING:
    import pandas as pd

HTML_FILE = "runs.html"
_INTRODUCTION = (
    "A version is a network trained to find the nuclei of H&E images and to tell four classes of them. Its scores are "
    "those on patients that it never trained on. For nuclei, patches are put together to the images that they were cut "
    "from, so that each nucleus counts once. They can be held against one another only where these patients are the "
    "same."
)


def make_runs_report(root: DataRoot, versions: Sequence[str], folder: Path) -> StageResult:
    """Writes `runs.csv` (a row a run), `summary.csv` (a row a score) and `runs.html` into ``folder``.

    Raises:
        MissingInput: there are no versions, or one is not trained.
    """
    import pandas as pd

    runs = read_runs(root, versions)
    summary = summarised(runs)
    content = runs_html(runs, summary).encode()
    write_atomic(folder / "runs.csv", run_rows(runs).to_csv(index=False).encode())
    write_atomic(folder / "summary.csv", pd.DataFrame(map(asdict, summary)).to_csv(index=False).encode())
    write_atomic(folder / HTML_FILE, content)
    best = next(each for each in summary if each.score == "score")
    return StageResult(
        outcome="reported",
        data_version=sha256_bytes(content)[:32],
        values={
            "versions": ", ".join(versions),
            "runs": len(runs),
            "best_version": best.best_version or None,
            "best_score": best.highest,
            "bytes": len(content),
        },
    )


def runs_html(runs: Sequence[NucleiRun], summary: Sequence[ScoreSummary]) -> str:
    """The page: all runs in numbers, then each run's settings, curves, classes and samples."""
    names = [run.version for run in runs]
    compared = [(title, [run.score(name) for run in runs]) for name, title in MAIN_SCORES.items()]
    parts = [
        "<h1>Trainings of nuclei</h1>",
        f"<p>{_INTRODUCTION}</p>",
        *(f'<p class="warn">{html.escape(text)}</p>' for text in _warnings(runs)),
        "<h2>Side by side</h2>",
        score_table(names, compared, True),
        f"<h2>All runs in numbers</h2><p>Over {len(runs)} runs.</p>",
        _summary_table(summary),
    ]
    for run in runs:
        parts += _sections(run)
    return page("Trainings of nuclei", parts)


def _warnings(runs: Sequence[NucleiRun]) -> list[str]:
    return [f"{run.version}: {check.description}" for run in runs for check in run.record.checks if not check.passed]


def _summary_table(summary: Sequence[ScoreSummary]) -> str:
    body = "".join(
        f"<tr><th>{html.escape(each.title)}</th><td>{each.runs}</td>"
        + "".join(f"<td>{_text(value)}</td>" for value in each.numbers)
        + f"<td>{html.escape(each.best_version)}</td></tr>"
        for each in summary
        if each.runs
    )
    return framed(["runs", "mean", "standard deviation", "lowest", "highest", "best run"], body)


def _sections(run: NucleiRun) -> list[str]:
    name, record = html.escape(run.version), run.record
    facts = (
        f"{record.values.get('epochs')} epochs, {record.values.get('steps')} steps on {record.values.get('patches')} "
        f"patches, {record.values.get('nuclei_validated')} nuclei held out; "
        f"{record.values.get('validation')}. {record.values.get('device')}, {record.made_at:%Y-%m-%d}."
    )
    settings = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
        for key, value in plain_settings(run.settings).items()
    )
    curves = curves_figure(run.history, NUCLEUS_CHARTS, columns=3, legend="best")
    return [
        f"<h2>{name}</h2><p>{html.escape(facts)}</p>",
        f"<details><summary>Settings of {name}</summary>{framed(['value'], settings)}</details>",
        f'<figure style="max-width: 62rem">{picture(curves)}</figure>',
        f"<h3>{name}, by class</h3>{_class_table(run.classes)}",
        f'<h3>{name}, samples</h3><figure style="max-width: 62rem">{picture(run.samples)}</figure>',
    ]


def _class_table(classes: pd.DataFrame) -> str:
    scores = ("iou", "f1", "precision", "recall")
    body = "".join(
        f"<tr><th>{row['map']}: {row['label']}</th><td>{int(row['truth_px']):,}</td>"
        + "".join(f"<td>{_text(row[name])}</td>" for name in scores)
        + "</tr>"
        for row in classes.to_dict("records")
    )
    return framed(["true pixels", "IoU", "Dice (F1)", "precision", "recall"], body)


def _text(value: float | None) -> str:
    return "undefined" if value is None or value != value else f"{value:.3f}"
