"""Decides whether a version may become champion: no decisive hold-out score may drop by more than a margin."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from dermatome.errors import BadSetting, MissingInput
from dermatome.registry.model_kinds import ModelKind
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import Check, Scalar, StageRecord, read_record
from dermatome.storage.settings_model import SettingsModel


class PromotionSettings(SettingsModel):
    """When a version may replace the champion.

    Attributes:
        margin: how far each decisive score on the hold-out set may lie below the champion's, 0 to 1.
    """

    margin: float = Field(default=0.02, ge=0, le=1)


def hold_out_record(root: DataRoot, kind: ModelKind, version: str) -> StageRecord | None:
    """The record of a version's scores on the present hold-out set; None if it has none on this set."""
    hold_out = read_record(root.record(kind.hold_out, CHAMPION))
    record = read_record(root.record(kind.hold_out_scores, version))
    if hold_out is None or record is None or record.values.get("hold_out_sha256") != hold_out.values["hold_out_sha256"]:
        return None
    return record


def compare_with_champion(
    root: DataRoot, kind: ModelKind, version: str, scores: Mapping[str, Scalar], margin: float
) -> Check:
    """Checks that ``version`` was not trained on hold-out samples and that its scores are within ``margin``."""
    if leaks := scores.get("hold_out_leaks"):
        text = f"{version} or an ancestor was trained on {leaks} of the hold-out samples, so its scores are too good."
        return Check(kind.check, False, text)
    record = read_record(root.record(kind.champion, CHAMPION))
    if record is None or record.values["version"] == version:
        return Check(kind.check, True, "There is no other champion to compare with.")
    champion = str(record.values["version"])
    theirs = hold_out_record(root, kind, champion)
    if theirs is None or theirs.values.get("weights_sha256") != record.values["weights_sha256"]:
        text = f"The champion {champion} is not scored on this hold-out set yet: materialize {kind.hold_out_scores}."
        return Check(kind.check, False, text, {"champion": champion})
    drops: dict[str, float] = {}
    for name in kind.decisive:
        before, now = theirs.values.get(name), scores.get(name)
        if isinstance(before, float):
            drops[name] = before - (now if isinstance(now, float) else 0.0)
    worse = [f"{kind.decisive[name]} by {drop:.3f}" for name, drop in drops.items() if drop > margin]
    text = f"No score is more than {margin:g} below the champion {champion} on the hold-out set."
    if worse:
        text = f"{version} is worse than the champion {champion} on the hold-out set: {', '.join(worse)} "
        text += f"(allowed: {margin:g})."
    values: dict[str, Scalar] = {"champion": champion}
    return Check(kind.check, not worse, text, values | {f"drop_{name}": drop for name, drop in drops.items()})


def check_promotion(root: DataRoot, kind: ModelKind, version: str, weights_sha256: str, margin: float) -> None:
    """Refuses a version that may not become champion; without a hold-out set, every version may.

    Raises:
        MissingInput: the version has no scores on the hold-out set.
        BadSetting: a score drops by more than ``margin``, or the version was trained on the hold-out set.
    """
    if read_record(root.record(kind.hold_out, CHAMPION)) is None:
        return
    record = hold_out_record(root, kind, version)
    if record is None or record.values.get("weights_sha256") != weights_sha256:
        raise MissingInput(
            f"{version} is not scored on the hold-out set yet: materialize {kind.hold_out_scores} for it first."
        )
    check = compare_with_champion(root, kind, version, record.values, margin)
    if not check.passed:
        raise BadSetting(f"{check.description} To promote it all the same, set despite_drop in the run config.")
