"""The kinds of networks that are trained in versions, and how a challenger of each is judged."""

from __future__ import annotations

from dataclasses import dataclass

from dermatome.classes import TISSUE_LABELS


@dataclass(frozen=True)
class ModelKind:
    """One kind: its assets, and the scores by which versions are held against the champion.

    Attributes:
        name: in words.
        weights: the asset of training versions.
        hold_out: the asset of what is frozen to score them on.
        hold_out_scores: the asset of those scores.
        champion: the asset of the version in use.
        check: of the hold-out set's scores, which blocks promotion.
        judged_by: scores of which none may drop by more than the margin: name in records → in words.
        unit: of those scores.
        best_by: the score that chooses the champion where nobody says another.
    """

    name: str
    weights: str
    hold_out: str
    hold_out_scores: str
    champion: str
    check: str
    judged_by: dict[str, str]
    unit: str
    best_by: str


TISSUE = ModelKind(
    name="tissue network",
    weights="tissue_weights",
    hold_out="tissue_hold_out",
    hold_out_scores="tissue_hold_out_scores",
    champion="tissue_champion",
    check="no_class_drops",
    judged_by={f"iou_{label}": label for label in TISSUE_LABELS},
    unit="IoU",
    best_by="mean_iou",
)
CELLS = ModelKind(
    name="cell network",
    weights="cell_weights",
    hold_out="cell_hold_out",
    hold_out_scores="cell_hold_out_scores",
    champion="cell_champion",
    check="no_precision_drops",
    judged_by={"ap_50": "AP at IoU 0.5", "ap_75": "AP at IoU 0.75", "ap_90": "AP at IoU 0.9"},
    unit="AP",
    best_by="ap_50",
)
