"""Whether a challenger may replace the champion: no score on the hold-out set may drop by more than a margin."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from dermatome.errors import BadSetting, MissingInput
from dermatome.registry.model_kinds import TISSUE, ModelKind
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import Check, Scalar, StageRecord, read_record
from dermatome.storage.settings_model import SettingsModel


class PromotionSettings(SettingsModel):
    """When a challenger may replace the champion.

    Attributes:
        margin: how far its scores on the hold-out set may lie below the champion's: the IoU of any class of tissue, or
            the average precision of cells at any IoU.
    """

    margin: float = Field(default=0.02, ge=0, le=1)


def drop_check(
    root: DataRoot, version: str, scores: Mapping[str, Scalar], margin: float, kind: ModelKind = TISSUE
) -> Check:
    """Whether no score of ``version`` is more than ``margin`` below the champion's of now, on the same hold-out set."""
    record = read_record(root.record(kind.champion, CHAMPION))
    if record is None or record.values["version"] == version:
        return Check(kind.check, True, "There is no other champion to be held against.")
    champion = str(record.values["version"])
    theirs = hold_out_record(root, champion, kind)
    if theirs is None or theirs.values.get("weights_sha256") != record.values["weights_sha256"]:
        said = f"The champion {champion} is not scored on this hold-out set yet: materialize {kind.hold_out_scores}."
        return Check(kind.check, False, said, {"champion": champion})
    drops: dict[str, float] = {}
    for name in kind.judged_by:
        before, now = theirs.values.get(name), scores.get(name)
        if isinstance(before, float):
            drops[name] = before - (now if isinstance(now, float) else 0.0)
    worse = {kind.judged_by[name]: drop for name, drop in drops.items() if drop > margin}
    if worse:
        listed = ", ".join(f"{what} by {drop:.3f}" for what, drop in worse.items())
        said = f"{version} is worse than the champion {champion} on the hold-out set: {listed} {kind.unit} (allowed is "
        said += f"{margin:g})."
    else:
        said = f"Nothing is more than {margin:g} {kind.unit} below the champion {champion} on the hold-out set."
    values: dict[str, Scalar] = {"champion": champion}
    return Check(
        kind.check, not worse, said, values | {f"drop_{name.removeprefix('iou_')}": d for name, d in drops.items()}
    )


def hold_out_record(root: DataRoot, version: str, kind: ModelKind = TISSUE) -> StageRecord | None:
    """The record of a version's scores on the hold-out set of now; ``None`` where it has none on this hold-out set."""
    hold_out = read_record(root.record(kind.hold_out, CHAMPION))
    record = read_record(root.record(kind.hold_out_scores, version))
    if hold_out is None or record is None or record.values.get("hold_out_sha256") != hold_out.values["hold_out_sha256"]:
        return None
    return record


def check_promotion(root: DataRoot, version: str, weights_sha256: str, margin: float, kind: ModelKind = TISSUE) -> None:
    """Refuses a version that may not become champion; where there is no hold-out set, any may.

    Raises:
        MissingInput: it is not scored on the hold-out set.
        BadSetting: a score drops by more than the margin.
    """
    if read_record(root.record(kind.hold_out, CHAMPION)) is None:
        return
    record = hold_out_record(root, version, kind)
    if record is None or record.values.get("weights_sha256") != weights_sha256:
        raise MissingInput(
            f"{version} is not scored on the hold-out set yet: materialize {kind.hold_out_scores} for it first."
        )
    check = drop_check(root, version, record.values, margin, kind)
    if not check.passed:
        raise BadSetting(f"{check.description} To promote it all the same, set despite_drop in the run config.")
