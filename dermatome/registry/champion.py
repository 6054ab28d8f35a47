"""The champion: which training version of a kind of network is in use now, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dermatome.errors import BadSetting, BadWeights, MissingInput
from dermatome.registry.model_kinds import TISSUE, ModelKind
from dermatome.registry.promotion import PromotionSettings, check_promotion, hold_out_record
from dermatome.storage.files import sha256_file
from dermatome.storage.layout import WEIGHTS_FILE, DataRoot
from dermatome.storage.record import Scalar, StageRecord, read_record


@dataclass(frozen=True)
class Choice:
    """The version that is in use, and why.

    Attributes:
        version: its name.
        weights_sha256: of its weights file.
        chosen_by: the score, or ``hand``.
        score: that it has by it.
        despite_drop: whether it was promoted however much worse it is on the hold-out set.
        warning: what its failed check of leakage says, where it was chosen by hand all the same.
    """

    version: str
    weights_sha256: str
    chosen_by: str
    score: float | None
    despite_drop: bool = False
    warning: str | None = None


def choose_champion(
    root: DataRoot,
    by: str | None = None,
    version: str | None = None,
    *,
    kind: ModelKind = TISSUE,
    promotion: PromotionSettings | None = None,
    despite_drop: bool = False,
    unversioned: str | None = None,
) -> Choice:
    """The version named by hand, or the one with the highest validation score ``by``; the earlier one where equal.

    A version that saw what it is scored on is chosen by hand only, and versions that were validated on different tiles
    are not held against one another: their scores say nothing of which is better.

    Args:
        root: the data root.
        by: a column of the versions' records, such as ``mean_iou``, ``iou_epidermis`` or, for cells, ``ap_50``; with
            ``hold_out_`` before it, of their scores on the hold-out set; the kind's own where ``None``.
        version: chosen by hand.
        kind: of network.
        promotion: by how much it may be worse than the champion on the hold-out set, where there is one.
        despite_drop: promote it however much worse it is.
        unversioned: sha256 of a network that is no training version and is to take the place, under the name
            ``version``; it is on no hold-out set.

    Raises:
        MissingInput: no version is trained, or not the one named, or its file is gone, or it has no hold-out scores.
        BadSetting: no version has that score, their scores cannot be compared, or the one chosen is worse than the
            champion in some class.
        BadWeights: its file is not the one that was trained.
    """
    by, promotion = by or kind.best_by, promotion or PromotionSettings()
    if version is not None and unversioned is not None:
        if not despite_drop:
            check_promotion(root, version, unversioned, promotion.margin, kind)
        return Choice(version, unversioned, "hand", None, despite_drop)
    versions = _versions(root, kind)
    if not versions:
        raise MissingInput(f"No {kind.name} is trained yet: materialize {kind.weights} for a training version first.")
    if version is not None:
        if version not in versions:
            raise MissingInput(f"The training version {version!r} is not trained: use one of {', '.join(versions)}.")
        chosen, score = version, _score(root, versions[version], by, kind)
    else:
        scored = {
            name: found for name, record in versions.items() if (found := _score(root, record, by, kind)) is not None
        }
        if not scored:
            raise BadSetting(
                f"No training version has the validation score {by!r}: use another score "
                f"({kind.best_by}, {next(iter(kind.judged_by))}, …), hold something out in training, or name a version."
            )
        scored = _comparable({name: versions[name] for name in scored}, scored, by, kind)
        chosen = max(scored, key=lambda name: scored[name])
        score = scored[chosen]
    sha256 = sha256_file(root.folder(kind.weights, chosen) / WEIGHTS_FILE)
    if sha256 != versions[chosen].values.get("weights_sha256"):
        raise BadWeights(
            f"The weights file of {chosen} is not the one that its training wrote (its sha256 is not the record's): "
            f"materialize {kind.weights} for {chosen} again, or choose another version."
        )
    if not despite_drop:
        check_promotion(root, chosen, sha256, promotion.margin, kind)
    warning = _leak(versions[chosen])
    return Choice(chosen, sha256, "hand" if version is not None else by, score, despite_drop, warning)


def _comparable(
    versions: Mapping[str, StageRecord], scored: Mapping[str, float], by: str, kind: ModelKind
) -> dict[str, float]:
    """The scores that can be held against one another.

    Raises:
        BadSetting: there are none such.
    """
    found = {name: score for name, score in scored.items() if _leak(versions[name]) is None}
    if not found:
        raise BadSetting(
            f"No {kind.name} can be chosen by score, as each was scored on what it had seen ({', '.join(scored)}; see "
            f"the check no_leakage): split by slide or patient, or name a version."
        )
    held_out = {versions[name].values.get("validation_sha256") for name in found}
    if len(held_out) > 1 and not by.startswith("hold_out_"):
        raise BadSetting(
            f"{', '.join(found)} were validated on different data, so {by!r} does not say which is better: materialize "
            f"{kind.hold_out} and {kind.hold_out_scores} and choose by 'hold_out_{kind.best_by}', or name a version."
        )
    return found


def _leak(record: StageRecord) -> str | None:
    """What a version's failed check of leakage says."""
    return next((check.description for check in record.checks if check.name == "no_leakage" and not check.passed), None)


def _versions(root: DataRoot, kind: ModelKind) -> dict[str, StageRecord]:
    records = {name: read_record(root.record(kind.weights, name)) for name in root.partitions(kind.weights)}
    return {name: record for name, record in records.items() if record is not None}


def _score(root: DataRoot, record: StageRecord, by: str, kind: ModelKind) -> float | None:
    value: Scalar = None
    if not by.startswith("hold_out_"):
        value = record.values.get(by)
    elif (scored := hold_out_record(root, record.partition, kind)) is not None:
        value = scored.values.get(by.removeprefix("hold_out_"))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
