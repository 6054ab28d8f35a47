"""The champion: the version of a kind of network that is in use. This module chooses, records and finds it.

The champion is one small record file that is replaced by a rename, so a reader finds either the old or the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dermatome.errors import BadSetting, BadWeights, MissingInput, StorageFailed
from dermatome.registry.model_kinds import ModelKind
from dermatome.registry.promotion import PromotionSettings, check_promotion, hold_out_record
from dermatome.storage.files import sha256_file
from dermatome.storage.layout import CHAMPION, WEIGHTS_FILE, DataRoot
from dermatome.storage.record import Scalar, StageRecord, StageResult, read_record, write_record

SETTINGS = "settings"
"""Version name that stands for the network that settings.toml names."""
NOT_MATERIALIZED = "NULL"
"""Dagster's data version of an asset that was never materialized."""
_ON_HOLD_OUT = "hold_out_"


class Loaded(Protocol):
    """Weights that were read from a file."""

    @property
    def sha256(self) -> str: ...  # noqa: D102


L = TypeVar("L", bound=Loaded)


@dataclass(frozen=True)
class Weights:
    """The weights that a stage uses. The object is small and picklable; each worker loads the file itself.

    Attributes:
        kind: kind of network.
        name: training version, or the file or network that the settings name.
        sha256: expected sha256 of the weights file.
        file: the weights file (for ``cyto2`` its folder); None for a training version of the data root.
    """

    root: DataRoot
    kind: ModelKind
    name: str
    sha256: str
    data_version: str = NOT_MATERIALIZED
    file: Path | None = None

    def load(self, read: Callable[[Path], L]) -> L:
        """Reads the weights file with ``read`` and checks its sha256.

        Raises:
            BadWeights: the file is missing or damaged, or its sha256 differs.
        """
        found = read(self.file or self.root.folder(self.kind.weights, self.name) / WEIGHTS_FILE)
        if found.sha256 != self.sha256:
            raise BadWeights(
                f"The weights {self.name} are not those that were chosen (sha256 {found.sha256[:12]}… instead of "
                f"{self.sha256[:12]}…): materialize {self.kind.champion} to promote them as they are now, or run again."
            )
        return found


def find_champion(root: DataRoot, kind: ModelKind, from_settings: Callable[[], Weights] | None = None) -> Weights:
    """The champion's weights; those that the settings name if there is no champion, or if it is ``settings``.

    Args:
        root: the data root.
        kind: kind of network.
        from_settings: finds the weights that the settings name; None if this kind has no such setting.

    Raises:
        MissingInput: there is no champion, and the settings name no weights.
    """
    record = read_record(root.record(kind.champion, CHAMPION))
    if record is not None and record.values["version"] != SETTINGS:
        values = record.values
        return Weights(root, kind, str(values["version"]), str(values["weights_sha256"]), record.data_version)
    if from_settings is None:
        raise MissingInput(
            f"There is no champion yet, the {kind.name} to use: materialize {kind.weights} for a training version, "
            f"then {kind.champion}."
        )
    return replace(from_settings(), data_version=record.data_version) if record is not None else from_settings()


@dataclass(frozen=True)
class Choice:
    """The version to promote, and why.

    Attributes:
        chosen_by: the score, or ``hand``.
        warning: description of the failed check, if it was chosen by hand in spite of it, and of versions that were
            left out because their records cannot be read.
    """

    version: str
    weights_sha256: str
    chosen_by: str
    score: float | None
    despite_drop: bool = False
    warning: str | None = None


def choose_champion(
    root: DataRoot,
    kind: ModelKind,
    by: str | None = None,
    version: str | None = None,
    *,
    margin: float = PromotionSettings().margin,
    despite_drop: bool = False,
    from_settings: Callable[[], Weights] | None = None,
) -> Choice:
    """Chooses the version named by hand, or the one with the highest score; the earlier one if two are equal.

    A version that was scored on its own training data can only be chosen by hand. Versions validated on different data
    are not compared by their validation scores.

    Args:
        root: the data root.
        kind: kind of network.
        by: score in the versions' records, such as ``mean_iou``; with the prefix ``hold_out_``, the score on the
            hold-out set; by default the kind's own.
        version: version chosen by hand; ``settings`` for the network that the settings name.
        margin: how far each decisive score may lie below the champion's, 0 to 1.
        despite_drop: whether to promote the version without comparing it with the champion.
        from_settings: finds the weights that the settings name; None if this kind has no such setting.

    Raises:
        MissingInput: no version is trained, the named one is not, its file is missing, or it has no hold-out scores.
        BadSetting: no version has that score, the scores cannot be compared, or the version is worse than the champion.
        BadWeights: the weights file is not the one that was trained.
    """
    if version == SETTINGS and from_settings is not None:
        sha256 = from_settings().sha256
        if not despite_drop:
            check_promotion(root, kind, version, sha256, margin)
        return Choice(version, sha256, "hand", None, despite_drop)
    by = by or kind.best_by
    versions, unreadable = _versions(root, kind)
    if version in unreadable:
        raise StorageFailed(unreadable[version])
    if not versions:
        reasons = "".join(f" Left out: {reason}" for reason in unreadable.values())
        raise MissingInput(
            f"No {kind.name} is trained yet: materialize {kind.weights} for a training version first.{reasons}"
        )
    if version is not None and version not in versions:
        raise MissingInput(f"The training version {version!r} is not trained: use one of {', '.join(versions)}.")
    chosen = version or _best(root, kind, versions, by)
    sha256 = sha256_file(root.folder(kind.weights, chosen) / WEIGHTS_FILE)
    if sha256 != versions[chosen].values.get("weights_sha256"):
        raise BadWeights(
            f"The weights file of {chosen} is not the one that its training wrote (its sha256 is not the record's): "
            f"materialize {kind.weights} for {chosen} again, or choose another version."
        )
    if not despite_drop:
        check_promotion(root, kind, chosen, sha256, margin)
    failed = (_failed(versions[chosen], check) for check in ("no_leakage", "trained_enough"))
    warnings = [*failed, *(f"{name} was left out: {why}" for name, why in unreadable.items())]
    warning = " ".join(filter(None, warnings)) or None
    score = _score(root, kind, versions[chosen], by)
    return Choice(chosen, sha256, "hand" if version is not None else by, score, despite_drop, warning)


def promote(
    root: DataRoot, kind: ModelKind, choice: Choice, settings: Mapping[str, Any], *, code_version: str, run_id: str
) -> StageRecord:
    """Makes ``choice`` the champion, atomically; the champion's data version is the sha256 of its weights."""
    inputs = {kind.weights: choice.weights_sha256}
    result = StageResult(outcome="chosen", data_version=choice.weights_sha256[:32], values=vars(choice))
    record = StageRecord.of(
        result, code_version=code_version, inputs=inputs, settings=settings,
        asset=kind.champion, partition=CHAMPION, run_id=run_id,
    )  # fmt: skip
    write_record(root.record(kind.champion, CHAMPION), record)
    return record


def _versions(root: DataRoot, kind: ModelKind) -> tuple[dict[str, StageRecord], dict[str, str]]:
    """The readable records of the versions, and for each other version why its record or its scores cannot be read."""
    versions: dict[str, StageRecord] = {}
    unreadable: dict[str, str] = {}
    for name in root.partitions(kind.weights):
        try:
            record = read_record(root.record(kind.weights, name))
            read_record(root.record(kind.hold_out_scores, name))
        except StorageFailed as error:
            unreadable[name] = str(error)
        else:
            versions |= {} if record is None else {name: record}
    return versions, unreadable


def not_made_with(root: DataRoot, kind: ModelKind, asset: str, data_version: str) -> int:
    """Number of partitions of ``asset`` that were computed with another champion than that of ``data_version``."""

    def is_other(key: str) -> bool:
        try:
            record = read_record(root.record(asset, key))
        except StorageFailed:  # a run recomputes it too
            return True
        return record is not None and record.inputs.get(kind.champion) != data_version

    return sum(map(is_other, root.partitions(asset)))


def candidates_markdown(root: DataRoot, kind: ModelKind) -> str:
    """All versions as a Markdown table with their deciding score on validation data and on the hold-out set."""
    by = kind.best_by
    lines = [["version", by, f"{_ON_HOLD_OUT}{by}", "failed checks"], ["---", "---:", "---:", "---"]]
    for name, record in _versions(root, kind)[0].items():
        scores = (_score(root, kind, record, column) for column in (by, f"{_ON_HOLD_OUT}{by}"))
        shown = ("" if score is None else f"{score:.4f}" for score in scores)
        lines.append([name, *shown, ", ".join(check.name for check in record.checks if not check.passed)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _best(root: DataRoot, kind: ModelKind, versions: Mapping[str, StageRecord], by: str) -> str:
    """The version with the highest score among those that can be compared.

    Raises:
        BadSetting: no version has that score, or the scores cannot be compared.
    """
    found = {name: score for name in versions if (score := _score(root, kind, versions[name], by)) is not None}
    if not found:
        raise BadSetting(
            f"No training version has the validation score {by!r}: use another score "
            f"({kind.best_by}, {next(iter(kind.decisive))}, …), hold something out in training, or name a version."
        )
    useful = {name: score for name, score in found.items() if _failed(versions[name], "trained_enough") is None}
    if not useful:
        raise BadSetting(
            f"No {kind.name} can be chosen by score, as none is trained enough ({', '.join(found)}; see the check "
            "trained_enough): train a version for longer or on other data, or name a version."
        )
    fair = {name: score for name, score in useful.items() if _failed(versions[name], "no_leakage") is None}
    if not fair:
        raise BadSetting(
            f"No {kind.name} can be chosen by score, as each was scored on its own training data ({', '.join(useful)}; "
            f"see the check no_leakage): split by slide or patient, or name a version."
        )
    validated_on = {versions[name].values.get("validation_sha256") for name in fair}
    if len(validated_on) > 1 and not by.startswith(_ON_HOLD_OUT):
        raise BadSetting(
            f"{', '.join(fair)} were validated on different data, so {by!r} does not say which is better: materialize "
            f"{kind.hold_out} and {kind.hold_out_scores} and choose by '{_ON_HOLD_OUT}{kind.best_by}', or name one."
        )
    return max(fair, key=lambda name: fair[name])


def _score(root: DataRoot, kind: ModelKind, record: StageRecord, by: str) -> float | None:
    value: Scalar = None
    if not by.startswith(_ON_HOLD_OUT):
        value = record.values.get(by)
    elif (scored := hold_out_record(root, kind, record.partition)) is not None:
        value = scored.values.get(by.removeprefix(_ON_HOLD_OUT))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _failed(record: StageRecord, check: str) -> str | None:
    return next((each.description for each in record.checks if each.name == check and not each.passed), None)
