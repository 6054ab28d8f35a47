"""Whether a challenger may take the champion's place: no class may drop on the frozen panel by more than a margin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dermatome.classes import TISSUE_LABELS
from dermatome.data_root import CHAMPION, DataRoot
from dermatome.errors import BadSetting, MissingInput
from dermatome.stage_record import Check, Scalar, StageRecord, read_record

PANEL = "tissue_panel"
PANEL_SCORES = "tissue_panel_scores"


@dataclass(frozen=True)
class PromotionSettings:
    """When a challenger may take the champion's place.

    Attributes:
        margin: how much lower than the champion's its IoU on the panel may be, of any class.
    """

    margin: float = 0.02

    def __post_init__(self) -> None:
        """Checks the settings."""
        if not 0 <= self.margin <= 1:
            raise BadSetting(f"The margin of promotion is {self.margin}: set it from 0 to 1.")


def drop_check(root: DataRoot, version: str, scores: Mapping[str, Scalar], margin: float) -> Check:
    """Whether no class of ``version`` is more than ``margin`` of IoU below the champion of now, on the same panel."""
    record = read_record(root.record("tissue_champion", CHAMPION))
    if record is None or record.values["version"] == version:
        return Check("no_class_drops", True, "There is no other champion to be held against.")
    champion = str(record.values["version"])
    theirs = panel_record(root, champion)
    if theirs is None or theirs.values.get("weights_sha256") != record.values["weights_sha256"]:
        said = f"The champion {champion} is not scored on this panel yet: materialize {PANEL_SCORES} for it first."
        return Check("no_class_drops", False, said, {"champion": champion})
    drops: dict[str, Scalar] = {}
    for label in TISSUE_LABELS:
        before, now = theirs.values.get(f"iou_{label}"), scores.get(f"iou_{label}")
        if isinstance(before, float):
            drops[label] = before - (now if isinstance(now, float) else 0.0)
    worse = {label: drop for label, drop in drops.items() if isinstance(drop, float) and drop > margin}
    if worse:
        listed = ", ".join(f"{label} by {drop:.3f}" for label, drop in worse.items())
        said = f"{version} is worse than the champion {champion} on the panel: {listed} IoU (allowed is {margin:g})."
    else:
        said = f"No class is more than {margin:g} IoU below the champion {champion} on the panel."
    values: dict[str, Scalar] = {"champion": champion, **{f"drop_{label}": drop for label, drop in drops.items()}}
    return Check("no_class_drops", not worse, said, values)


def panel_record(root: DataRoot, version: str) -> StageRecord | None:
    """The record of a version's scores on the panel of now; ``None`` where it has none on this panel."""
    panel = read_record(root.record(PANEL, CHAMPION))
    record = read_record(root.record(PANEL_SCORES, version))
    if panel is None or record is None or record.values.get("panel_sha256") != panel.values["panel_sha256"]:
        return None
    return record


def check_promotion(root: DataRoot, version: str, weights_sha256: str, margin: float) -> None:
    """Refuses a version that may not become champion; where there is no panel, any may.

    Raises:
        MissingInput: it is not scored on the panel.
        BadSetting: a class drops by more than the margin.
    """
    if read_record(root.record(PANEL, CHAMPION)) is None:
        return
    record = panel_record(root, version)
    if record is None or record.values.get("weights_sha256") != weights_sha256:
        raise MissingInput(f"{version} is not scored on the panel yet: materialize {PANEL_SCORES} for it first.")
    check = drop_check(root, version, record.values, margin)
    if not check.passed:
        raise BadSetting(f"{check.description} To promote it all the same, set despite_drop in the run config.")
