"""The stage `hpa_agreement`: from all measured cores and HPA's annotation to tables, a figure and a report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dermatome.pipeline.stage_files import synthetic_warning, write_report
from dermatome.skin.agreement.compare import ENDS, SCORES, TARGETS, Agreement, compare
from dermatome.skin.agreement.figures import agreement_figure
from dermatome.skin.agreement.settings import AgreementSettings
from dermatome.skin.profiles.stage import CORES_TABLE, all_genes, any_synthetic, page
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import StageResult, content_version

AGREEMENT_TABLE = "agreement.parquet"
SCORES_TABLE = "scores.parquet"
REPORT_FILE = "agreement.html"

PATHOLOGISTS = {"intensity": 57, "quantity": 52, "location": 68}
NETWORK = {"intensity": 77, "quantity": 76, "location": 86}
BETWEEN_PATHOLOGISTS = 0.63
"""Pathologists' and a network's accuracy (%) against HPA's labels, and Cohen's kappa between pathologists: Leiby et al.
2026, "iSight: Towards expert-AI co-assessment for improved immunohistochemistry staining interpretation",
arXiv:2602.04063."""
_COLUMNS = (
    *("gene", "ensembl_id", "slide", "antibody", "tissue", "patient", "release", "reliability"),
    *(name for target in TARGETS for name in (target.name, target.measure)),
)


def make_agreement(root: DataRoot, folder: Path, settings: AgreementSettings) -> StageResult:
    """Writes the tables of :class:`Agreement`, `figure.png`, `figure.svg` and `agreement.html`."""
    found = compare(all_genes(root, CORES_TABLE, _COLUMNS), settings)
    rows = found.rows.drop(columns=["annotated_level", "read_level"])
    tables = {
        AGREEMENT_TABLE: rows.assign(levels_apart=found.rows["read_level"] - found.rows["annotated_level"]),
        SCORES_TABLE: found.scores,
        "confusion.parquet": found.confusion,
        "thresholds.parquet": found.thresholds,
    }
    synthetic = any_synthetic(root)
    warning = synthetic_warning(synthetic)
    drawn = agreement_figure(found)
    write_report(folder, tables, drawn, warning)
    overall = {row["target"]: row for row in found.scores.to_dict("records") if row["grouped_by"] == "all"}
    sentence = _sentence(found, overall, settings)
    write_atomic(folder / REPORT_FILE, report_html(found, drawn[1], settings, sentence, warning))
    return StageResult(
        outcome="agreement" if overall else "nothing_to_compare",
        message=sentence,
        data_version=content_version([*(table.to_csv().encode() for table in tables.values()), warning.encode()]),
        values=synthetic
        | {"antibodies": found.antibodies, "slides_of_unknown_antibody": found.unknown}
        | {
            f"{target}_{score}{end}": None if math.isnan(value := row[f"{score}{end}"]) else value
            for target, row in overall.items()
            for score in SCORES
            for end in ENDS
        },
    )


def _sentence(found: Agreement, overall: Mapping[str, Mapping[Any, Any]], settings: AgreementSettings) -> str:
    if not overall:
        return (
            f"Measured antibodies: {found.antibodies}. These are too few to learn thresholds from, which takes two "
            "antibodies of different levels besides those that are read."
        )
    few = found.antibodies < settings.min_antibodies
    kappas = ", ".join(f"{target} {_number(row, 'kappa', ' ({} to {})')}" for target, row in overall.items())
    return f"{found.antibodies} antibodies{', too few for intervals' if few else ''}; weighted kappa: {kappas}."


def _number(row: Mapping[Any, Any], score: str, interval: str) -> str:
    """A score with two digits, and its interval if it has one."""
    value, low, high = (row[f"{score}{end}"] for end in ENDS)
    if math.isnan(value):
        return "not defined"
    return f"{value:.2f}" + ("" if math.isnan(low) else interval.format(f"{low:.2f}", f"{high:.2f}"))


def report_html(found: Agreement, svg: bytes, settings: AgreementSettings, sentence: str, warning: str = "") -> bytes:
    """The report as one HTML file; every text is escaped, and no script runs."""
    scores = [
        row | {"texts": [_number(row, score, "\n{} to {}").split("\n") for score in SCORES]}
        for row in found.scores.to_dict("records")
    ]
    read = found.rows[found.rows["read"].notna()]
    wrong = read[read["read"] != read["annotated"]].sort_values("probability", kind="stable")
    matrices = [(target, _matrix(found, target.name, len(target.levels))) for target in TARGETS]
    return page(
        "agreement", svg, warning, found=found, settings=settings, sentence=sentence,
        few=found.antibodies < settings.min_antibodies,
        overall=[row for row in scores if row["grouped_by"] == "all"],
        groups=[row for row in scores if row["grouped_by"] != "all"],
        matrices=[(target, matrix) for target, matrix in matrices if matrix],
        thresholds=found.thresholds.to_dict("records"),
        wrong=wrong.head(settings.listed).replace({np.nan: None}).to_dict("records"),
        disagreements=len(wrong), compared=len(read), annotated=len(found.rows),
        pathologists=PATHOLOGISTS, network=NETWORK, between=BETWEEN_PATHOLOGISTS,
    )  # fmt: skip


def _matrix(found: Agreement, target: str, levels: int) -> list[list[dict[Any, Any]]]:
    """The cells of a confusion matrix, row by row; empty if nothing was read."""
    cells = found.confusion[found.confusion["target"] == target].to_dict("records")
    return [cells[first : first + levels] for first in range(0, len(cells), levels)]
