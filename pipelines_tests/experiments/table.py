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
    """The tables of one experiment; ``results`` has the runs of each configuration."""
    lines = [f"## {experiment.question}", "", *_scores(experiment, results), "", *_averaging(results)]
    if experiment.plain_recipe:
        lines += ["", *_overtaking(experiment.plain_recipe, results)]
    return "\n".join(lines) + "\n"


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


def _averaging(results: Results) -> list[str]:
    """What the EMA of the weights brings: the same trainings, scored with it and without."""
    lines = _head("mean IoU after steps | configuration | of the EMA", ["of the weights", "difference"])
    for name, runs in results.items():
        for rows in zip(*(run["history"] for run in runs), strict=True):
            with_it, without = ([row[which] for row in rows] for which in ("mean_iou", "plain_mean_iou"))
            gained = [a - b for a, b in zip(with_it, without, strict=True)]
            lines.append(
                _line([str(rows[0]["step"]), name, spread(with_it), spread(without), spread(gained, sign=True)])
            )
    return lines


def _overtaking(recipe: Mapping[str, float], results: Results) -> list[str]:
    lines = _head("steps until IoU is above the plain recipe's, by seed | all classes at once", recipe)
    for name, runs in results.items():
        cells = [
            ", ".join(_first_above({label: recipe[label] for label in labels}, run) for run in runs)
            for labels in (list(recipe), *([label] for label in recipe))
        ]
        lines.append(_line([name, *cells]))
    return lines


def _first_above(recipe: Mapping[str, float], run: Mapping[str, Any]) -> str:
    for row in run["history"]:
        if all((row[f"iou_{label}"] or 0.0) > value for label, value in recipe.items()):
            return str(row["step"])
    return "never"


def spread(values: Sequence[float | None], *, sign: bool = False) -> str:
    """Mean ± standard deviation (of a sample) of what is known of ``values``."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.mean(known):{'+' if sign else ''}.3f}"
    return mean if len(known) < 2 else f"{mean} ± {statistics.stdev(known):.3f}"


def _head(first: str, others: Any) -> list[str]:
    columns = [*first.split(" | "), *others]
    return [_line(columns), _line(["---"] * len(columns))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
