"""Thresholds that turn one measure into ordered levels, learnt from annotated examples.

The model is the proportional-odds model (McCullagh 1980, "Regression models for ordinal data", Journal of the Royal
Statistical Society B 42(2)): the log-odds that the level is above k are ``slope × (measure − cut k)``. The read level
is the median of the levels' probabilities, so its thresholds are the cuts themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_WRONG = 0.02
"""Assumed share of wrong labels; it limits how far a single wrong label can move a threshold."""
_START_SLOPE, _LEAST_SHARE = 3.0, 0.01


@dataclass(frozen=True)
class Thresholds:
    """Levels as a function of the measure.

    Attributes:
        cuts: (levels − 1,) measures at which the next level begins, in ascending order.
        slope: Log-odds per unit of the measure, > 0.
    """

    cuts: Floats
    slope: float

    def levels(self, measure: Floats) -> Ints:
        """Levels from 0, (n,)."""
        return np.searchsorted(self.cuts, measure, side="right")

    def probabilities(self, measure: Floats) -> Floats:
        """Probability of each level, (n, levels)."""
        from scipy.special import expit

        odds = self.slope * (np.asarray(measure)[:, None] - self.cuts)
        ends = np.full((len(odds), 1), np.inf)
        from_below, to_above = np.hstack([ends, odds]), np.hstack([odds, -ends])
        # The difference of the smaller tails keeps full precision.
        upper, lower = np.maximum(from_below, to_above), np.minimum(from_below, to_above)
        result: Floats = np.where(lower > 0, expit(-lower) - expit(-upper), expit(upper) - expit(lower))
        return result


def learn_thresholds(measure: Floats, level: Ints, levels: int) -> Thresholds | None:
    """Fits the model by penalised maximum likelihood.

    The penalty is weak. It keeps the slope finite if a measure separates levels perfectly, and gives levels without
    examples a narrow interval.

    Returns:
        The thresholds; None if fewer than two levels occur or the measure is constant.
    """
    from scipy.optimize import minimize

    centre, spread = (float(measure.mean()), float(measure.std())) if len(measure) else (0.0, 0.0)
    if len(np.unique(level)) < 2 or spread == 0:
        return None
    scaled, rows = (measure - centre) / spread, np.arange(len(level))

    def model(values: Floats) -> Thresholds:
        cuts = values[1] + np.concatenate([[0.0], np.cumsum(np.exp(values[2:]))])
        return Thresholds(cuts, float(np.exp(values[0])))

    def loss(values: Floats) -> float:
        likely = model(values).probabilities(scaled)[rows, level]
        fit = -np.log((1 - _WRONG) * likely + _WRONG / levels).sum()
        penalty = ((values[0] - np.log(_START_SLOPE)) / 2) ** 2 + (values[2:] ** 2).sum() / 9
        return float(fit + penalty / 2)

    shares = np.bincount(level, minlength=levels)[:-1].cumsum() / len(level)
    first = np.quantile(scaled, shares)
    start = np.concatenate(
        [[np.log(_START_SLOPE)], first[:1], np.log(np.maximum(np.diff(first), _LEAST_SHARE))]
    )  # fmt: skip
    found = model(minimize(loss, start, method="L-BFGS-B").x)
    return Thresholds(centre + spread * found.cuts, found.slope / spread)
