"""Gene profiles: for each antibody, stains by layer, relative depth and zone, as means over patients with intervals.

A patient's slides are averaged first, so each patient counts once; a slide of an unknown patient counts as a patient.
Intervals are percentiles of the bootstrap over patients (Efron 1979, "Bootstrap methods: another look at the
jackknife", Annals of Statistics 7(1)). With the three to six patients that an antibody usually has, they are too
narrow, and with a single patient there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dermatome.skin.layers.measure import compartments, pattern_of
from dermatome.skin.layers.settings import LayerSettings
from dermatome.skin.profiles.settings import ProfileSettings

MEASURES = ("mean_dab_od", "mean_h_od", "positive_share", "h_score")
PARTS = {"epidermis": "epidermis", "zone": "zone", "layer": "layer", "relative_depth": "relative_from"}
"""Parts of a profile, each with the column that identifies its rows."""
ANNOTATION = ("tissue", "staining", "intensity", "quantity", "location", "reliability")


@dataclass(frozen=True)
class Core:
    """The layers of one slide of an antibody.

    Attributes:
        slide: Slide id.
        antibody: Antibody; None if unknown.
        patient: Patient; None if unknown.
        tables: Rows of the slide by the names of :data:`PARTS`, with :data:`MEASURES`.
        annotation: HPA's annotation by the names of :data:`ANNOTATION`.
        synthetic: Whether a network for it was trained on synthetic images only.
    """

    slide: str
    antibody: str | None
    patient: str | None
    tables: dict[str, pd.DataFrame]
    annotation: dict[str, Any]
    synthetic: bool = False


@dataclass(frozen=True)
class GeneProfile:
    """The staining of the antibodies of a gene.

    Attributes:
        rows: A row for each antibody, part and place in it: ``antibody``, ``part``, ``layer``, ``relative_from``,
            ``zone``, ``patients``, and for each of :data:`MEASURES` its mean over patients, and with the suffixes
            ``_sd``, ``_low`` and ``_high`` its standard deviation and interval, which are NaN for one patient.
        antibodies: A row for each antibody: ``antibody``, ``patients``, ``slides``, ``slides_of_unknown_patient``,
            ``pattern``, ``patients_with_pattern`` and ``pattern_share`` (the share of resamples of the patients with
            the same pattern; NaN for one patient), and HPA's annotation.
    """

    rows: pd.DataFrame
    antibodies: pd.DataFrame


def profile_gene(
    cores: Sequence[Core], settings: ProfileSettings | None = None, layers: LayerSettings | None = None
) -> GeneProfile:
    """Summarises the slides of a gene by antibody."""
    settings, layers = settings or ProfileSettings(), layers or LayerSettings()
    rows, antibodies = [], []
    for antibody in sorted({core.antibody or "" for core in cores}):
        people: dict[tuple[str, str], list[Core]] = {}
        for core in cores:
            if (core.antibody or "") == antibody:
                who = ("patient", core.patient) if core.patient else ("slide", core.slide)
                people.setdefault(who, []).append(core)
        # (resamples, people): how often each is drawn.
        draws = np.random.default_rng(settings.seed).multinomial(
            len(people), np.full(len(people), 1 / len(people)), settings.resamples
        )
        of_parts = [_part_rows(part, list(people.values()), draws, settings.confidence) for part in PARTS]
        rows.append(pd.concat(of_parts).assign(antibody=antibody or None))
        mine = [core for group in people.values() for core in group]
        antibodies.append(
            {
                "antibody": antibody or None,
                "patients": sum(kind == "patient" for kind, _ in people),
                "slides": len(mine),
                "slides_of_unknown_patient": sum(kind == "slide" for kind, _ in people),
                **_pattern(list(people.values()), draws, layers),
                **{
                    name: "; ".join(sorted({core.annotation[name] for core in mine if core.annotation.get(name)}))
                    or None
                    for name in ANNOTATION
                },
            }
        )
    names = [f"{measure}{suffix}" for measure in MEASURES for suffix in ("", "_sd", "_low", "_high")]
    columns = ["antibody", "part", "layer", "relative_from", "zone", "patients", *names]
    profile = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
    return GeneProfile(profile.reindex(columns=columns), pd.DataFrame(antibodies))


def _part_rows(part: str, people: list[list[Core]], draws: npt.NDArray[Any], confidence: float) -> pd.DataFrame:
    key = PARTS[part]
    of_people = [
        pd.concat([core.tables[part] for core in cores]).groupby(key)[list(MEASURES)].mean() for cores in people
    ]
    found = pd.DataFrame()
    for measure in MEASURES:
        wide = pd.concat([means[measure] for means in of_people], axis=1).sort_index()  # (places, people)
        if found.empty:
            found = pd.DataFrame({"part": part, key: wide.index, "patients": wide.notna().sum(axis=1).to_numpy()})
        values = wide.to_numpy(float, na_value=np.nan).T
        for suffix, column in _over_patients(values, draws, confidence).items():
            found[f"{measure}{suffix}"] = column
    return found


def _over_patients(
    values: npt.NDArray[np.float64], draws: npt.NDArray[Any], confidence: float
) -> dict[str, npt.NDArray[np.float64]]:
    """Mean, standard deviation and interval of (people, places) values; NaN where a patient lacks the place."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    filled = np.where(known, values, 0.0)
    mean = _divide(filled.sum(axis=0), count)
    squares = (np.where(known, values - mean, 0.0) ** 2).sum(axis=0)
    resampled = _divide(draws @ filled, draws @ known)
    low, high = np.full(count.size, np.nan), np.full(count.size, np.nan)
    several = count > 1
    if several.any():
        tails = ((1 - confidence) / 2, (1 + confidence) / 2)
        low[several], high[several] = np.nanquantile(resampled[:, several], tails, axis=0)
    sd = np.sqrt(_divide(squares, np.where(several, count - 1, 0)))
    return {"": mean, "_sd": sd, "_low": low, "_high": high}


def _pattern(people: list[list[Core]], draws: npt.NDArray[Any], layers: LayerSettings) -> dict[str, Any]:
    """The staining pattern of the mean over patients, and how certain it is."""
    both = np.array([np.mean([compartments(core.tables["layer"]) for core in cores], axis=0) for cores in people])
    basal, above = both.mean(axis=0)
    pattern = pattern_of(basal, above, layers)
    resampled = draws @ both / len(people)
    same = [pattern_of(basal, above, layers) == pattern for basal, above in resampled]
    return {
        "pattern": pattern.value,
        "patients_with_pattern": sum(pattern_of(basal, above, layers) == pattern for basal, above in both),
        "pattern_share": float(np.mean(same)) if len(people) > 1 else np.nan,
    }


def _divide(total: npt.NDArray[Any], count: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.divide(total, count, out=np.full(np.shape(count), np.nan), where=count > 0)
