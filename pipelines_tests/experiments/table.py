"""Experiments' results as Markdown: mean and spread over seeds, side by side."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dermatome.classes import TISSUE_LABELS
from pipelines_tests.experiments.plans import Experiment

Results = Mapping[str, Sequence[Mapping[str, Any]]]
_MEASURES = {**{f"iou_{label}": label for label in TISSUE_LABELS}, "mean_iou": "mean", "calibration_error": "ECE"}


def markdown(experiment: Experiment, results: Results) -> str:
    """The table of one experiment; ``results`` has the runs of each configuration."""
    return "\n".join([f"## {experiment.question}", "", *_scores(experiment, results)]) + "\n"


def _scores(experiment: Experiment, results: Results) -> list[str]:
    lines = _head("IoU on | configuration | seeds | steps", _MEASURES.values())
    if experiment.plain_recipe:
        cells = [f"{experiment.plain_recipe[label]:.2f}" for label in TISSUE_LABELS]
        mean = statistics.mean(experiment.plain_recipe.values())
        lines.append(_line(["", "the plain recipe to compare with", "", "", *cells, f"{mean:.2f}", "–"]))
    for test in next(iter(results.values()))[0]["tests"]:
        for name, runs in results.items():
            cells = [spread([run["tests"][test][measure] for run in runs]) for measure in _MEASURES]
            lines.append(_line([test, name, str(len(runs)), str(runs[0]["steps"]), *cells]))
    return lines


def spread(values: Sequence[float | None]) -> str:
    """Mean ± standard deviation (of a sample) of what is known of ``values``."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.mean(known):.3f}"
    return mean if len(known) < 2 else f"{mean} ± {statistics.stdev(known):.3f}"


def _head(first: str, others: Any) -> list[str]:
    columns = [*first.split(" | "), *others]
    return [_line(columns), _line(["---"] * len(columns))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
