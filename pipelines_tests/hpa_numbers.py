"""A synthetic HPA without images: cores whose measures are drawn from known levels, with patient and batch noise."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dermatome.skin.agreement.compare import TARGETS

SHARES = (0.3, 0.2, 0.3, 0.2)
"""Share of antibodies at each level of intensity, lowest first."""
MEANS = {
    "mean_dab_od": (0.03, 0.14, 0.30, 0.52),
    "positive_share": (0.02, 0.15, 0.50, 0.85),
    "cell_dab_ratio": (0.8, 1.2, 1.6),
}
SPREAD = {"mean_dab_od": 1.0, "positive_share": 1.5, "cell_dab_ratio": 1.5}
"""Noise of each measure, in the units of ``noise_od``."""


def drawn_hpa(
    seed: int, antibodies: int = 200, *, noise_od: float = 0.05, patients: int = 3, together: int = 1
) -> pd.DataFrame:
    """Cores as `gene_profiles` writes them to `cores.parquet`; HPA's annotation is the level that was drawn.

    An antibody has a level of its own in each of two tissues, the second one for every third antibody, and one slide of
    each patient. Noise is of the antibody, of the patient, and of the staining batch, which all slides of ``together``
    antibodies share: HPA stains a section of all its patients with one antibody. Each has the standard deviation
    ``noise_od``, of patients before they are averaged.
    """
    draw = np.random.default_rng(seed)
    batches = {name: draw.normal(0, noise_od, -(-antibodies // together)) for name in MEANS}
    rows = []
    for number in range(antibodies):
        name = f"HPA{number:06}"
        own = {measure: draw.normal(0, noise_od) for measure in MEANS}
        for tissue in ("Skin 1", "Skin 2")[: 1 + (number % 3 == 0)]:
            levels = {target.name: draw.choice(len(target.levels)) for target in TARGETS}
            levels["intensity"] = draw.choice(4, p=SHARES)
            for patient in range(patients):
                measures = {
                    target.measure: MEANS[target.measure][levels[target.name]]
                    + SPREAD[target.measure]
                    * (own[target.measure] + batches[target.measure][number // together] + draw.normal(0, noise_od))
                    for target in TARGETS
                }
                rows.append(
                    {
                        "gene": f"G{number}", "ensembl_id": f"ENSG{number:011}", "antibody": name, "tissue": tissue,
                        "slide": f"{number}-{tissue[-1]}-{patient}", "patient": str(patient), "synthetic": False,
                        "reliability": ("supported", "approved")[number % 2], "release": "23",
                        **{key: max(0.0, value) for key, value in measures.items()},
                        **{target.name: target.levels[levels[target.name]] for target in TARGETS},
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def with_flips(cores: pd.DataFrame, seed: int, share: float = 0.05) -> tuple[pd.DataFrame, set[tuple[str, str]]]:
    """Cores with wrong intensities: of ``share`` of antibody × tissue pairs, another level, any of the others.

    Returns:
        The cores, and the flipped pairs.
    """
    draw, levels = np.random.default_rng(seed), TARGETS[0].levels
    keys = cores.groupby(["antibody", "tissue"])["intensity"].first()
    flipped = keys.sample(round(share * len(keys)), random_state=seed)
    wrong = {pair: draw.choice([level for level in levels if level != was]) for pair, was in flipped.items()}
    at = pd.MultiIndex.from_frame(cores[["antibody", "tissue"]])
    changed = [wrong.get(pair, was) for pair, was in zip(at, cores["intensity"], strict=True)]
    return cores.assign(intensity=changed), set(wrong)
