"""Reports of trainings: the files of one version, and a comparison of several, for every kind of network.

A :class:`ReportLayout` describes what the report of one kind shows. The HTML has no links to other files; to get a PDF,
print it from a browser.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from PIL import Image

from dermatome.errors import MissingInput
from dermatome.registry.manifest import manifest_path
from dermatome.registry.model_kinds import ModelKind
from dermatome.registry.promotion import hold_out_record
from dermatome.reports.figures import Chart, curves_figure
from dermatome.reports.html import picture_uri, template
from dermatome.slides.preview import preview
from dermatome.storage.files import sha256_bytes, write_atomic
from dermatome.storage.layout import CHAMPION, PREVIEW_FILE, WEIGHTS_FILE, DataRoot
from dermatome.storage.record import Check, Scalar, StageResult, read_record, require_record, write_table

if TYPE_CHECKING:
    import pandas as pd

HISTORY_FILE = "history.parquet"
CURVES_FIGURE = "curves.png"
SAMPLES_FIGURE = "samples.png"
EVENTS_FOLDER = "tensorboard"
REPORT_FILE = "report.html"
COMPARISON_FILE = "comparison.html"
_IMAGE_WIDTH_PX = 1100


@dataclass(frozen=True)
class ScoreTable:
    """A table of scores, a row for each score and a column for each version.

    Attributes:
        title: heading of the table.
        meaning: what the scores mean, for a reader who does not know them.
        scores: name in the record of a version → title of the row.
        mean: title of a row with the mean of the rows; empty for none.
        higher: whether the highest score is the best.
        folded: whether the table is closed until the reader opens it.
    """

    title: str
    meaning: str
    scores: Mapping[str, str]
    mean: str = ""
    higher: bool = True
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure in the folder of a version, with its heading and its explanation."""

    file: str
    title: str
    meaning: str = ""


@dataclass(frozen=True)
class ReportLayout:
    """What the reports of one kind of network show.

    Attributes:
        title: name of the kind, plural.
        introduction: what a version is and what its scores mean.
        kind: the assets of versions, champion and hold-out set.
        main_score: name of the score that chooses the best version.
        tables: tables of scores; the first one is also given for the hold-out set.
        pictures: figures in the folder of a version.
        charts: charts of the training curves.
        legend: epoch that the legend of the curves shows: the last, or the best if that one is kept.
        details: Parquet file with a row for each class or image, and its columns → titles.
    """

    title: str
    introduction: str
    kind: ModelKind
    main_score: str
    tables: tuple[ScoreTable, ...]
    pictures: tuple[Picture, ...]
    charts: tuple[Chart, ...]
    details: tuple[str, Mapping[str, str]]
    legend: Literal["last", "best"] = "last"


@dataclass(frozen=True)
class ReportedVersion:
    """A trained version as reports show it.

    Attributes:
        name: name of the version.
        values: scores and facts of its record.
        checks: checks of its record.
        settings: settings of the training; may be nested.
        folder: folder with its figures and tables.
        made_at: when it was trained, UTC.
    """

    name: str
    values: Mapping[str, Scalar]
    checks: Sequence[Check]
    settings: Mapping[str, Any]
    folder: Path
    made_at: datetime | None = None

    def score(self, name: str) -> float | None:
        """One of its scores; None if it is undefined."""
        value = self.values.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def write_training_report(
    folder: Path,
    layout: ReportLayout,
    version: str,
    history: pd.DataFrame,
    *,
    values: Mapping[str, Scalar],
    settings: Mapping[str, Any],
    checks: Sequence[Check] = (),
    tables: Mapping[str, pa.Table] | None = None,
    figures: Mapping[str, bytes | None] | None = None,
) -> None:
    """Writes the report of one version.

    Files: `history.parquet` and ``tables``, each also as CSV; `curves.png` and ``figures``; `preview.webp`;
    TensorBoard's event file in `tensorboard/`; and `report.html`, which needs none of the others.

    Args:
        folder: where the files are written.
        layout: layout of the kind of network.
        version: name of the version.
        history: a row for each epoch.
        values: scores and facts, as in the record.
        settings: settings of the training; may be nested.
        checks: checks of the version.
        tables: Parquet tables by file name.
        figures: PNG bytes by file name; None for a figure that the version does not have.

    Raises:
        StorageFailed: The disk is full or not writable.
    """
    rows = pa.Table.from_pandas(history.assign(version=version), preserve_index=False)
    for name, table in {HISTORY_FILE: rows, **(tables or {})}.items():
        write_table(folder / name, table)
        write_atomic((folder / name).with_suffix(".csv"), table.to_pandas().to_csv(index=False).encode())
    curves = curves_figure(history, layout.charts, legend=layout.legend)
    for name, figure in {CURVES_FIGURE: curves, PREVIEW_FILE: preview(curves), **(figures or {})}.items():
        if figure is not None:
            write_atomic(folder / name, figure)
    _write_events(folder / EVENTS_FOLDER, history)
    page = report_html([ReportedVersion(version, values, checks, settings, folder)], layout)
    write_atomic(folder / REPORT_FILE, page.encode())


def compare_versions(root: DataRoot, layout: ReportLayout, versions: Sequence[str], folder: Path) -> StageResult:
    """Compares versions: writes `comparison.html`, `versions.csv` (a row a version) and `summary.csv` (a row a score).

    Raises:
        MissingInput: There are no versions, or one is not trained.
    """
    import pandas as pd

    found = [read_version(root, layout.kind.weights, version) for version in versions]
    champion = read_record(root.record(layout.kind.champion, CHAMPION))
    scored = {version: hold_out_record(root, layout.kind, version) for version in versions}
    hold_out = {version: record.values for version, record in scored.items() if record is not None}
    page = report_html(found, layout, str(champion.values["version"]) if champion else None, hold_out).encode()
    summary = summarise(found, layout)
    write_atomic(folder / COMPARISON_FILE, page)
    rows = [{"version": version.name, "made_at": version.made_at, **version.values} for version in found]
    write_atomic(folder / "versions.csv", pd.DataFrame(rows).to_csv(index=False).encode())
    write_atomic(folder / "summary.csv", pd.DataFrame(summary).to_csv(index=False).encode())
    best = next(row for row in summary if row["score"] == layout.main_score)
    return StageResult(
        outcome="compared",
        data_version=sha256_bytes(page)[:32],
        values={
            "versions": ", ".join(versions),
            "best_version": best["best_version"] or None,
            "best_score": best["highest"],
            "bytes": len(page),
        },
    )


def read_version(root: DataRoot, asset: str, version: str) -> ReportedVersion:
    """Reads a trained version of the asset.

    Raises:
        MissingInput: The version is not trained.
    """
    record, folder = require_record(root, asset, version), root.folder(asset, version)
    card = folder / Path(WEIGHTS_FILE).with_suffix(".json").name
    settings = json.loads(card.read_text())["settings"] if card.is_file() else record.settings
    return ReportedVersion(version, record.values, record.checks, settings, folder, record.made_at)


def report_html(
    versions: Sequence[ReportedVersion],
    layout: ReportLayout,
    champion: str | None = None,
    hold_out: Mapping[str, Mapping[str, Scalar]] | None = None,
) -> str:
    """Renders a page that needs no other file and no network connection: the report of a version, or of several.

    ``champion`` is the version in use; ``hold_out`` has the scores of versions on the hold-out set.

    Raises:
        MissingInput: There are no versions.
    """
    if not versions:
        raise MissingInput(f"There are no trained versions to compare: materialize {layout.kind.weights} first.")
    tables = []
    if hold_out:
        held = [replace(version, values=hold_out.get(version.name, {})).score for version in versions]
        tables.append(_score_rows(layout.tables[0], held, "On the hold-out set, which is the same for every version"))
    own = [version.score for version in versions]
    tables += [_score_rows(table, own) for table in layout.tables]
    settings = [plain_settings(version.settings) for version in versions]
    names = list(dict.fromkeys(name for each in settings for name in each))
    rows = [{"title": name, "texts": [each.get(name, "–") for each in settings]} for name in names]
    title = layout.title if len(versions) > 1 else f"{layout.title}: {versions[0].name}"
    return str(
        template("training.html.j2").render(
            title=title,
            introduction=layout.introduction,
            champion=champion,
            warnings=_warnings(versions),
            names=[version.name + (" ★" if version.name == champion else "") for version in versions],
            tables=tables,
            summary=[row for row in summarise(versions, layout) if row["versions"]] if len(versions) > 1 else [],
            facts=_facts(versions) + [row for row in rows if len(set(row["texts"])) > 1],
            settings=rows,
            details=[_details(version, layout) for version in versions],
            pictures=[
                {
                    "title": picture.title,
                    "meaning": picture.meaning,
                    "images": [_data_uri(version.folder / picture.file) for version in versions],
                }
                for picture in layout.pictures
            ],
        )
    )


def summarise(versions: Sequence[ReportedVersion], layout: ReportLayout) -> list[dict[str, Any]]:
    """Summarises each score over the versions that have it: mean, standard deviation, lowest, highest, best version."""
    names = [name for table in layout.tables for name in table.scores]
    lower = {name for table in layout.tables if not table.higher for name in table.scores}
    rows = []
    for name in dict.fromkeys((layout.main_score, *names)):
        known = {version.name: value for version in versions if (value := version.score(name)) is not None}
        values = list(known.values())
        rows.append(
            {
                "score": name,
                "versions": len(values),
                "mean": statistics.fmean(values) if values else None,
                "sd": statistics.stdev(values) if len(values) > 1 else None,
                "lowest": min(values, default=None),
                "highest": max(values, default=None),
                "best_version": (min if name in lower else max)(known, key=lambda v: known[v]) if known else "",
            }
        )
    return rows


def plain_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flattens nested settings into names and texts: ``loss.focal_gamma`` → ``2.0``."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= plain_settings(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = "none" if value is None else str(value)
    return flat


def _score_rows(table: ScoreTable, scores: Sequence[Callable[[str], float | None]], title: str = "") -> dict[str, Any]:
    """The rows of a score table for the template, with the best value of each marked."""
    rows = [(row_title, [score(name) for score in scores]) for name, row_title in table.scores.items()]
    if table.mean:
        # No mean for a version that lacks a class another one has, as it would look too good.
        columns = [
            [value for value in column if value is not None] for column in zip(*(v for _, v in rows), strict=True)
        ]
        most = max(map(len, columns))
        rows.append((table.mean, [sum(c) / most if most and len(c) == most else None for c in columns]))
    marked = []
    for row_title, values in rows:
        known = [value for value in values if value is not None]
        best = (max if table.higher else min)(known) if len(known) > 1 else None
        marked.append({"title": row_title, "values": values, "best": best})
    return {"title": title or table.title, "meaning": table.meaning, "folded": table.folded, "rows": marked}


def _warnings(versions: Sequence[ReportedVersion]) -> list[str]:
    found = [f"{v.name}: {check.description}" for v in versions for check in v.checks if not check.passed]
    if len({version.values.get("validation_sha256") for version in versions}) > 1:
        found.insert(
            0,
            "These versions were validated on different data, so their own scores cannot be compared. Use the scores "
            "on the hold-out set, or train with the same data.",
        )
    return found


def _facts(versions: Sequence[ReportedVersion]) -> list[dict[str, Any]]:
    """What each version was trained on and how, a row for each fact."""
    amounts = [_amounts(version.folder) for version in versions]
    leakage = [next((c.passed for c in v.checks if c.name == "no_leakage"), None) for v in versions]
    rows = {
        "Fine-tuned from": [
            str(v.values.get("parent") or v.values.get("initial_weights") or "nothing: from scratch") for v in versions
        ],
        "Trained on": [each.get("train", "") for each in amounts],
        "Validated on": [each.get("validation", "") for each in amounts],
        "Validation data": [str(v.values.get("validation", "")) for v in versions],
        "No leakage": ["not checked" if ok is None else "yes" if ok else "no, see above" for ok in leakage],
        "Epochs, steps": [f"{v.values.get('epochs', '')}, {v.values.get('steps', '')}" for v in versions],
        "µm per pixel": ["" if (mpp := v.score("mpp")) is None else f"{mpp:g}" for v in versions],
        "Trained": [f"{v.made_at:%Y-%m-%d %H:%M} UTC" if v.made_at else "" for v in versions],
        "Device": [str(v.values.get("device", "")) for v in versions],
        "Weights (sha256)": [str(v.values.get("weights_sha256", ""))[:12] for v in versions],
    }
    return [{"title": title, "texts": texts} for title, texts in rows.items() if any(texts)]


def _amounts(folder: Path) -> dict[str, str]:
    """For each side of the manifest, the number of samples, slides and patients, as text."""
    import pandas as pd

    path = manifest_path(folder / WEIGHTS_FILE)
    if not path.is_file():
        return {}
    rows, found = pd.read_parquet(path), {}
    for side, part in rows.groupby("side"):
        known = {name: part.loc[part[name] != "", name].nunique() for name in ("slide", "patient")}
        found[str(side)] = f"{len(part)} samples" + "".join(f", {n} {name}s" for name, n in known.items() if n)
    return found


def _details(version: ReportedVersion, layout: ReportLayout) -> dict[str, Any]:
    import pandas as pd

    file, columns = layout.details
    path = version.folder / file
    if not path.is_file():
        return {"name": version.name, "columns": [], "rows": []}
    table = pd.read_parquet(path).reindex(columns=list(columns))
    rows = [[_text(value) for value in row] for row in table.itertuples(index=False)]
    return {"name": version.name, "columns": list(columns.values()), "rows": rows}


def _text(value: Any) -> str:
    if value is None or value != value:
        return "undefined"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.3f}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def _data_uri(path: Path) -> str | None:
    """A figure as a data URI of a smaller JPEG; None if the version has none."""
    if not path.is_file():
        return None
    with Image.open(path) as opened:
        shown = opened.convert("RGB")
    shown.thumbnail((_IMAGE_WIDTH_PX, 4 * _IMAGE_WIDTH_PX), Image.Resampling.LANCZOS)
    return picture_uri(np.asarray(shown), "jpeg", quality=88)


def _write_events(folder: Path, history: pd.DataFrame) -> None:
    """Writes TensorBoard's event file: each column of the history by step."""
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for row in history.to_dict("records"):
            for name, value in row.items():
                if name not in ("epoch", "step") and value is not None and value == value:
                    group = "training" if name in ("train_loss", "learning_rate", "seconds") else "validation"
                    writer.add_scalar(f"{group}/{name}", float(value), int(row["step"]))
