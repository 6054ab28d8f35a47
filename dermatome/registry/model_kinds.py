"""The kinds of networks that are trained in versions: their assets, and the scores that decide a promotion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dermatome.classes import NUCLEUS_LABELS, TISSUE_LABELS


@dataclass(frozen=True)
class ModelKind:
    """One kind of network. Its scores are numbers from 0 to 1; higher is better.

    Attributes:
        prefix: prefix of the names of its assets.
        name: name in messages, such as ``tissue network``.
        check: name of the asset check that compares a version with the champion on the hold-out set.
        decisive: scores that may not drop by more than the margin: name in the record → name in messages.
        best_by: score that chooses the champion by default.
    """

    prefix: str
    name: str
    check: str
    decisive: Mapping[str, str] = field(hash=False)
    best_by: str

    @property
    def weights(self) -> str:
        """Name of the asset of the training versions."""
        return f"{self.prefix}_weights"

    @property
    def hold_out(self) -> str:
        """Name of the asset of the hold-out set."""
        return f"{self.prefix}_hold_out"

    @property
    def hold_out_scores(self) -> str:
        """Name of the asset of each version's scores on the hold-out set."""
        return f"{self.prefix}_hold_out_scores"

    @property
    def champion(self) -> str:
        """Name of the asset of the version in use."""
        return f"{self.prefix}_champion"


TISSUE = ModelKind(
    prefix="tissue",
    name="tissue network",
    check="no_class_drops",
    decisive={f"iou_{label}": f"IoU of {label}" for label in TISSUE_LABELS},
    best_by="mean_iou",
)
CELLS = ModelKind(
    prefix="cell",
    name="cell network",
    check="no_precision_drops",
    decisive={"ap_50": "AP at IoU 0.5", "ap_75": "AP at IoU 0.75", "ap_90": "AP at IoU 0.9"},
    best_by="ap_50",
)
NUCLEI = ModelKind(
    prefix="nuclei",
    name="nucleus network",
    check="no_score_drops",
    decisive={
        "pq_binary": "PQ",
        "aji": "AJI",
        **{f"dice_{label}_micro": f"F1 of {label}" for label in NUCLEUS_LABELS[1:]},
    },
    best_by="pq_classes",
)
