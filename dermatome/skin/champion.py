"""The champion: which training version masks are made with now, and why."""

from __future__ import annotations

from dataclasses import dataclass

from dermatome.data_root import WEIGHTS_FILE, DataRoot
from dermatome.errors import BadSetting, BadWeights, MissingInput
from dermatome.files import sha256_file
from dermatome.skin.promotion import PromotionSettings, check_promotion, panel_record
from dermatome.stage_record import Scalar, StageRecord, read_record


@dataclass(frozen=True)
class Choice:
    """The version that masks are made with, and why."""

    version: str
    weights_sha256: str
    chosen_by: str
    score: float | None
    despite_drop: bool = False


def choose_champion(
    root: DataRoot,
    by: str = "mean_iou",
    version: str | None = None,
    *,
    promotion: PromotionSettings | None = None,
    despite_drop: bool = False,
) -> Choice:
    """The version named by hand, or the one with the highest validation score ``by``; the earlier one where equal.

    Args:
        root: the data root.
        by: a column of the versions' records: ``mean_iou``, ``mean_f1``, ``iou_epidermis``, …; with ``panel_`` before
            it, of their scores on the panel.
        version: chosen by hand.
        promotion: by how much it may be worse than the champion on the panel, where there is one.
        despite_drop: promote it however much worse it is.

    Raises:
        MissingInput: no version is trained, or not the one named, or its file is gone, or the panel lacks its scores.
        BadSetting: no version has that score, or the one chosen is worse than the champion in some class.
        BadWeights: its file is not the one that was trained.
    """
    versions = _versions(root)
    if not versions:
        raise MissingInput("No weights are trained yet: materialize tissue_weights for a training version first.")
    if version is not None:
        if version not in versions:
            raise MissingInput(f"The training version {version!r} is not trained: use one of {', '.join(versions)}.")
        chosen, score = version, _score(root, versions[version], by)
    else:
        scored = {name: found for name, record in versions.items() if (found := _score(root, record, by)) is not None}
        if not scored:
            raise BadSetting(
                f"No training version has the validation score {by!r}: use another score (mean_iou, iou_epidermis, …), "
                "train with tiles to validate on, or name a version."
            )
        chosen = max(scored, key=lambda name: scored[name])
        score = scored[chosen]
    with root.local("tissue_weights", chosen, WEIGHTS_FILE) as folder:
        sha256 = sha256_file(folder / WEIGHTS_FILE)
    if sha256 != versions[chosen].values.get("weights_sha256"):
        raise BadWeights(
            f"The weights file of {chosen} is not the one that its training wrote (its sha256 is not the record's): "
            f"materialize tissue_weights for {chosen} again, or choose another version."
        )
    if not despite_drop:
        check_promotion(root, chosen, sha256, (promotion or PromotionSettings()).margin)
    return Choice(chosen, sha256, "hand" if version is not None else by, score, despite_drop)


def _versions(root: DataRoot) -> dict[str, StageRecord]:
    records = {name: read_record(root.record("tissue_weights", name)) for name in root.made("tissue_weights")}
    return {name: record for name, record in records.items() if record is not None}


def _score(root: DataRoot, record: StageRecord, by: str) -> float | None:
    value: Scalar = None
    if not by.startswith("panel_"):
        value = record.values.get(by)
    elif (scored := panel_record(root, record.partition)) is not None:
        value = scored.values.get(by.removeprefix("panel_"))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
