"""Compares HPA's annotation of keratinocytes with measurements of cores, pooled by antibody and tissue as in HPA.

Each of :data:`TARGETS` is a level that HPA annotates and the measure that it is read from. Thresholds are learnt on
other antibodies: an antibody's levels are read with thresholds that none of its cores contributed to. Intervals are
percentiles of the bootstrap over antibodies (Field and Welsh 2007, "Bootstrapping clustered data", Journal of the Royal
Statistical Society B 69(3)), so the tissues of an antibody stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dermatome.metrics.ordinal import Floats, calibration_error, level_counts, quadratic_kappa, rank_correlation
from dermatome.skin.agreement.settings import AgreementSettings
from dermatome.skin.agreement.thresholds import learn_thresholds

SCORES = ("kappa", "accuracy", "spearman", "calibration_error")
ENDS = ("", "_low", "_high")
"""Suffixes of a score and of the ends of its interval."""
_AT_ONCE = 200
_PAIR = ["antibody", "tissue"]


@dataclass(frozen=True)
class Target:
    """A level that HPA annotates.

    Attributes:
        name: Column of HPA's annotation.
        measure: Column of the measure that it is read from.
        levels: Names of the levels, in order.
    """

    name: str
    measure: str
    levels: tuple[str, ...]

    def level(self, annotation: object) -> float:
        """The number of an annotated level; NaN if there is none."""
        text = annotation if isinstance(annotation, str) else ""
        if self.name == "location":
            nuclear, other = "nuclear" in text, "cytoplasm" in text or "membran" in text
            text = self.levels[nuclear + (nuclear and not other)] if nuclear or other else ""
        return float(self.levels.index(text)) if text in self.levels else float("nan")


TARGETS = (
    Target("intensity", "mean_dab_od", ("negative", "weak", "moderate", "strong")),
    Target("quantity", "positive_share", ("none", "<25%", "25%-75%", ">75%")),
    Target(
        "location",
        "cell_dab_ratio",
        ("cytoplasmic/membranous", "cytoplasmic/membranous,nuclear", "nuclear"),
    ),
)


@dataclass(frozen=True)
class Agreement:
    """The agreement of measurements and annotation.

    Attributes:
        rows: A row for each antibody, tissue and target with both: gene, numbers of slides and patients, ``measure``,
            ``annotated`` and ``read`` (names of levels; null if no threshold could be learnt), ``probability`` (of the
            annotated level, given the measure), ``confidence`` (probability of the read level).
        scores: A row for each target, over all antibodies and by HPA release and reliability: number of antibodies and
            pairs, and each of :data:`SCORES` with ``_low`` and ``_high``, which are NaN for few antibodies.
        confusion: A row for each target, annotated level and read level: number of pairs, and their share with its
            interval.
        thresholds: A row for each target and level above the lowest: the measure at which the level begins, learnt on
            all antibodies, and the lowest and highest threshold of the folds.
        antibodies: Number of measured antibodies.
        unknown: Number of slides whose antibody is unknown; they are excluded from all numbers.
    """

    rows: pd.DataFrame
    scores: pd.DataFrame
    confusion: pd.DataFrame
    thresholds: pd.DataFrame
    antibodies: int
    unknown: int


def compare(
    cores: pd.DataFrame, settings: AgreementSettings | None = None, targets: Sequence[Target] = TARGETS
) -> Agreement:
    """Reads levels from the measures of all cores and compares them with HPA's annotation.

    Args:
        cores: A row for each slide, antibody, tissue and gene: ``gene``, ``ensembl_id``, ``slide``, ``antibody``,
            ``tissue``, ``patient``, the measures and annotations of :data:`TARGETS`, ``reliability``, ``release``.
        settings: None uses the defaults.
        targets: The levels to compare.
    """
    settings = settings or AgreementSettings()
    known = cores[cores["antibody"].notna()]
    pairs = pool(known)
    rows, scores, confusion, thresholds = [], [], [], []
    for target in targets:
        mine, cuts = _read(pairs, target, settings)
        rows.append(mine)
        if cuts is not None:
            thresholds.append(cuts)
        read = mine[mine["read_level"].notna()]
        for by, name, part in _parts(read):
            found = _with_intervals(part, settings, partial(_scores, levels=len(target.levels)))
            names = {"target": target.name, "grouped_by": by, "group_name": name}
            scores.append(names | {"antibodies": part["antibody"].nunique(), "pairs": len(part)} | found)
        if len(read):
            confusion.append(_confusion(read, target, settings))
    of_scores = ["target", "grouped_by", "group_name", "antibodies", "pairs"]
    return Agreement(
        pd.concat(rows, ignore_index=True),
        pd.DataFrame(scores, columns=[*of_scores, *(f"{score}{end}" for score in SCORES for end in ENDS)]),
        _together(confusion, ["target", "annotated", "read", "pairs", *(f"share{end}" for end in ENDS)]),
        _together(thresholds, ["target", "level", "begins_at", "lowest_of_folds", "highest_of_folds"]),
        pairs["antibody"].nunique(),
        cores.loc[cores["antibody"].isna(), "slide"].nunique(),
    )


def _together(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(columns))


def pool(cores: pd.DataFrame) -> pd.DataFrame:
    """A row for each antibody and tissue: means over patients, whose slides are averaged first, and HPA's levels.

    A slide of an unknown patient counts as a patient. A slide on the pages of several genes counts once. If annotations
    of an antibody in a tissue differ, as between patients in old releases, the middle level is used.
    """
    once = cores.drop_duplicates([*_PAIR, "slide"])
    person = once["patient"].where(once["patient"].notna(), "slide " + once["slide"].astype(str))
    once = once.assign(person=person, **{t.name: once[t.name].map(t.level).astype(float) for t in TARGETS})
    measures = [target.measure for target in TARGETS]
    by_person = once.groupby([*_PAIR, "person"])[measures].mean().groupby(_PAIR).mean()
    pairs = once.groupby(_PAIR)
    levels = pairs[[target.name for target in TARGETS]].median().apply(np.floor)
    about = pairs.agg(
        gene=("gene", "first"), ensembl_id=("ensembl_id", "first"), slides=("slide", "nunique"),
        patients=("person", "nunique"), release=("release", _joined), reliability=("reliability", _joined),
    )  # fmt: skip
    return about.join(by_person).join(levels).reset_index()


def _joined(values: pd.Series) -> str:
    return "; ".join(sorted(values.dropna().astype(str).unique())) or "not stated"


def _read(pairs: pd.DataFrame, target: Target, settings: AgreementSettings) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The rows of a target with the read level, and its thresholds."""
    rows = pairs[pairs[target.name].notna() & pairs[target.measure].notna()].reset_index(drop=True)
    measure, level = rows[target.measure].to_numpy(float), rows[target.name].to_numpy(int)
    names = np.array(sorted(rows["antibody"].unique()))
    order = np.random.default_rng(settings.seed).permutation(len(names))
    fold = pd.Series(order % settings.folds, index=names).reindex(rows["antibody"]).to_numpy()
    read, likely, sure = (np.full(len(rows), np.nan) for _ in range(3))
    of_folds = []
    for held_out in range(settings.folds):
        mine = fold == held_out
        learnt = learn_thresholds(measure[~mine], level[~mine], len(target.levels)) if mine.any() else None
        if learnt is not None:
            of_folds.append(learnt.cuts)
            probabilities = learnt.probabilities(measure[mine])
            read[mine] = found = learnt.levels(measure[mine])
            likely[mine] = probabilities[np.arange(len(found)), level[mine]]
            sure[mine] = probabilities[np.arange(len(found)), found]
    shown = rows[["gene", "ensembl_id", *_PAIR, "slides", "patients", "release", "reliability"]].assign(
        target=target.name, measure=measure, annotated=_named(target, level), read=_named(target, read),
        annotated_level=level, read_level=read, probability=likely, confidence=sure,
    )  # fmt: skip
    final = learn_thresholds(measure, level, len(target.levels)) if of_folds else None
    if final is None:
        return shown, None
    cuts = pd.DataFrame({"target": target.name, "level": target.levels[1:], "begins_at": final.cuts})
    return shown, cuts.assign(lowest_of_folds=np.min(of_folds, axis=0), highest_of_folds=np.max(of_folds, axis=0))


def _named(target: Target, levels: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    return np.array([None if np.isnan(level) else target.levels[int(level)] for level in levels], object)


def _parts(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """All rows, and those of each release and reliability."""
    if rows.empty:
        return
    yield "all", "all", rows
    for by in ("release", "reliability"):
        for name, part in rows.groupby(by):
            yield by, str(name), part


def _with_intervals(
    rows: pd.DataFrame, settings: AgreementSettings, scores: Callable[[pd.DataFrame, Floats], dict[str, Floats]]
) -> dict[str, float]:
    """Scores of the rows with intervals over antibodies, which are NaN for few antibodies.

    ``scores`` returns named arrays (resamples,) for rows and their (resamples, rows) weights.
    """
    found = {name: float(values[0]) for name, values in scores(rows, np.ones((1, len(rows)))).items()}
    antibody, names = rows["antibody"].factorize()
    low: dict[Any, float] = dict.fromkeys(found, np.nan)
    high = low
    if len(names) >= settings.min_antibodies:
        draw, drawn = np.random.default_rng(settings.seed), []
        for first in range(0, settings.resamples, _AT_ONCE):
            count = min(_AT_ONCE, settings.resamples - first)
            times = draw.multinomial(len(names), np.full(len(names), 1 / len(names)), count)
            drawn.append(pd.DataFrame(scores(rows, times[:, antibody].astype(float))))
        tails = ((1 - settings.confidence) / 2, (1 + settings.confidence) / 2)
        low, high = (dict(row.items()) for _, row in pd.concat(drawn).quantile(tails).iterrows())
    return {f"{n}{end}": values[n] for n in found for end, values in zip(ENDS, (found, low, high), strict=True)}


def _counts(rows: pd.DataFrame, weights: Floats, levels: int) -> Floats:
    truth, read = (rows[name].to_numpy(int) for name in ("annotated_level", "read_level"))
    return level_counts(truth, read, levels, weights)


def _scores(rows: pd.DataFrame, weights: Floats, levels: int) -> dict[str, Floats]:
    measure, level = rows["measure"].to_numpy(float), rows["annotated_level"].to_numpy(float)
    right = level == rows["read_level"].to_numpy(float)
    return {
        "kappa": quadratic_kappa(_counts(rows, weights, levels)),
        "accuracy": weights @ right / weights.sum(axis=1),
        "spearman": rank_correlation(measure, level, weights),
        "calibration_error": calibration_error(rows["confidence"].to_numpy(float), right, weights),
    }


def _shares(rows: pd.DataFrame, weights: Floats, levels: int) -> dict[str, Floats]:
    """The share of each cell of the confusion matrix."""
    shares = _counts(rows, weights, levels).reshape(len(weights), -1) / weights.sum(axis=1, keepdims=True)
    return {str(number): column for number, column in enumerate(shares.T)}


def _confusion(rows: pd.DataFrame, target: Target, settings: AgreementSettings) -> pd.DataFrame:
    levels = len(target.levels)
    found = _with_intervals(rows, settings, partial(_shares, levels=levels))
    return pd.DataFrame(
        {
            "target": target.name,
            "annotated": np.repeat(target.levels, levels),
            "read": np.tile(target.levels, levels),
            "pairs": _counts(rows, np.ones((1, len(rows))), levels).ravel().astype(int),
            **{f"share{end}": [found[f"{n}{end}"] for n in range(levels**2)] for end in ENDS},
        }
    )
