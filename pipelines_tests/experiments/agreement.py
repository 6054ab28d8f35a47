"""Whether `hpa_agreement` can be believed, on a synthetic HPA whose levels are known.

Each repeat draws 200 antibodies. The agreement with the drawn levels that it reports is compared with the agreement
that its thresholds have on 10,000 other antibodies. Then 5 % of the intensities are flipped, and the flipped ones among
the first as many suspects are counted. Run as ``python -m pipelines_tests.experiments.agreement``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dermatome.metrics.ordinal import level_counts, quadratic_kappa
from dermatome.skin.agreement.compare import TARGETS, Agreement, compare, pool
from dermatome.skin.agreement.settings import AgreementSettings
from pipelines_tests.hpa_numbers import drawn_hpa, with_flips

INTENSITY = TARGETS[0]


def kappa_on(pairs: pd.DataFrame, found: Agreement) -> float:
    """The kappa that the thresholds of an agreement have on other pairs."""
    cuts = found.thresholds["begins_at"].to_numpy()
    read = np.searchsorted(cuts, pairs[INTENSITY.measure], side="right")
    truth = pairs[INTENSITY.name].to_numpy(int)
    return float(quadratic_kappa(level_counts(truth, read, len(INTENSITY.levels), np.ones((1, len(pairs)))))[0])


def flips_found(cores: pd.DataFrame, seed: int) -> float:
    """Share of flipped intensities among the first as many suspects."""
    changed, flipped = with_flips(cores, seed)
    rows = compare(changed, AgreementSettings(resamples=100), [INTENSITY]).rows.sort_values("probability")
    suspects = rows.head(len(flipped))[["antibody", "tissue"]].itertuples(index=False, name=None)
    return len(flipped.intersection(suspects)) / len(flipped)


def repeats(seeds: Sequence[int], others: pd.DataFrame, antibodies: int = 200, **noise: Any) -> pd.DataFrame:
    """A row for each seed: kappa, its interval, kappa on other antibodies, and the share of flips that was found."""
    rows = []
    for seed in seeds:
        cores = drawn_hpa(seed, antibodies, **noise)
        found = compare(cores, targets=[INTENSITY])
        score = found.scores.query("grouped_by == 'all'").iloc[0]
        rows.append(
            {name: score[name] for name in ("kappa", "kappa_low", "kappa_high", "accuracy")}
            | {"true_kappa": kappa_on(others, found), "precision": flips_found(cores, seed)}
        )
    return pd.DataFrame(rows).assign(covered=lambda t: t["true_kappa"].between(t["kappa_low"], t["kappa_high"]))


def main() -> None:
    """Prints a row of a table for each noise and number of antibodies that are stained together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=50)
    given = parser.parse_args()
    columns = (
        "noise (OD)",
        "stained together",
        "true kappa",
        "kappa",
        "intervals that cover",
        "accuracy",
        "flips found",
    )
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for noise, together in ((0.03, 1), (0.05, 1), (0.07, 1), (0.05, 10)):
        drawn: dict[str, Any] = {"noise_od": noise, "together": together}
        t = repeats(range(given.repeats), pool(drawn_hpa(10**6, 10_000, **drawn)), **drawn)
        mean, sd, low, high = (t.agg(how, numeric_only=True) for how in ("mean", "std", "min", "max"))
        print(
            f"| {noise} | {together} | {mean['true_kappa']:.3f} | {mean['kappa']:.3f} ± {sd['kappa']:.3f} | "
            f"{t['covered'].sum()} of {len(t)} | {mean['accuracy']:.2f} | {mean['precision']:.2f} "
            f"({low['precision']:.2f} to {high['precision']:.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
