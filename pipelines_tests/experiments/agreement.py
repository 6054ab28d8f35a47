"""Whether `hpa_agreement` can be believed, on a synthetic HPA whose levels are known.

Each repeat draws 200 antibodies. The agreement with the drawn levels that it reports is compared with the agreement
that its thresholds have on 20,000 other antibodies. Then 5 % of the intensities are flipped, and the flipped ones among
the first as many suspects are counted. Run as ``python -m pipelines_tests.experiments.agreement``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import pandas as pd

from dermatome.metrics.ordinal import level_counts, quadratic_kappa
from dermatome.skin.agreement.compare import TARGETS, Agreement, compare, pool
from pipelines_tests.hpa_numbers import drawn_hpa, with_flips

INTENSITY = TARGETS[0]


def kappa_on(pairs: pd.DataFrame, found: Agreement) -> float:
    """The kappa that the thresholds of an agreement have on other pairs."""
    cuts = found.thresholds.query("target == 'intensity'")["begins_at"].to_numpy()
    read = np.searchsorted(cuts, pairs[INTENSITY.measure], side="right")
    truth = pairs[INTENSITY.name].to_numpy(int)
    return float(quadratic_kappa(level_counts(truth, read, len(INTENSITY.levels), np.ones((1, len(pairs)))))[0])


def flips_found(cores: pd.DataFrame, seed: int) -> float:
    """Share of flipped intensities among the first as many suspects."""
    changed, flipped = with_flips(cores, seed)
    rows = compare(changed).rows.query("target == 'intensity'").sort_values("probability")
    suspects = rows.head(len(flipped))[["antibody", "tissue"]].itertuples(index=False, name=None)
    return len(flipped.intersection(suspects)) / len(flipped)


def repeats(seeds: Sequence[int], others: pd.DataFrame, *, antibodies: int = 200, noise_od: float) -> pd.DataFrame:
    """A row for each seed: kappa, its interval, kappa on other antibodies, and the share of flips that was found."""
    rows = []
    for seed in seeds:
        cores = drawn_hpa(seed, antibodies, noise_od=noise_od)
        found = compare(cores)
        score = found.scores.query("target == 'intensity' and grouped_by == 'all'").iloc[0]
        rows.append(
            {name: score[name] for name in ("kappa", "kappa_low", "kappa_high", "accuracy")}
            | {"true_kappa": kappa_on(others, found), "precision": flips_found(cores, seed)}
        )
    return pd.DataFrame(rows).assign(covered=lambda t: t["true_kappa"].between(t["kappa_low"], t["kappa_high"]))


def main() -> None:
    """Prints a row of a table for each noise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--noise", type=float, nargs="*", default=[0.03, 0.05, 0.07])
    given = parser.parse_args()
    print("| noise (OD) | kappa on other antibodies | kappa reported | intervals that cover | accuracy | flips found |")
    print("|---|---|---|---|---|---|")
    for noise in given.noise:
        others = pool(drawn_hpa(10**6, 20_000, noise_od=noise))
        t = repeats(range(given.repeats), others, noise_od=noise)
        print(
            f"| {noise} | {t['true_kappa'].mean():.3f} | {t['kappa'].mean():.3f} ± {t['kappa'].std():.3f} | "
            f"{t['covered'].sum()} of {len(t)} | {t['accuracy'].mean():.2f} | {t['precision'].mean():.2f} "
            f"({t['precision'].min():.2f} to {t['precision'].max():.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
