"""The trainings of networks of nuclei, side by side: what each was, what it reached, and all of them in numbers."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.errors import MissingInput
from dermatome.nuclei.maps.network import NucleusCard
from dermatome.nuclei.maps.weights_stage import CLASSES_FILE, HISTORY_FILE, INSTANCE_SCORES, SAMPLES_FIGURE
from dermatome.storage.layout import RECORD_FILE, WEIGHTS_FILE, DataRoot
from dermatome.storage.record import StageRecord, read_record
from dermatome.training.weights import read_card

if TYPE_CHECKING:
    import pandas as pd

MAIN_SCORES = {
    "score": "Score by which epochs are chosen",
    "ternary_dice_inside": "Dice of the inside",
    "ternary_dice_boundary": "Dice of the boundary",
    "dice_mean_micro": "Mean Dice of classes, over pixels",
    "pq_binary": "PQ of nuclei",
    "pq_classes": "Mean PQ of classes",
    "aji": "AJI",
    "f1_detection": "F1 of detection",
    "class_accuracy": "Accuracy of nuclei's classes",
}
"""The scores that reports show first, with their names for people."""
_DONE_WITH = ("encoder", "boundary_weighting", "immune_sampling", "seed", "epochs", "steps", "mpp")
_ON = ("patches", "patches_validated", "images_validated", "nuclei_validated", "validation", "device")


@dataclass(frozen=True)
class NucleiRun:
    """One training as it lies in its folder.

    Attributes:
        version: its name.
        record: what made it and its scores.
        settings: of the training, all of them, nested.
        history: a row for each epoch.
        classes: a row for each class of both maps, with its scores.
        samples: patches with truth and prediction, PNG bytes; None without validation patches.
    """

    version: str
    record: StageRecord
    settings: Mapping[str, Any]
    history: pd.DataFrame
    classes: pd.DataFrame
    samples: bytes | None

    def score(self, name: str) -> float | None:
        """One of its scores; None where it is undefined."""
        value = self.record.values.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class ScoreSummary:
    """A score over runs.

    Attributes:
        score: its name.
        runs: that have it; the numbers are None where none has.
        mean: of them.
        sd: their standard deviation, as of a sample; None for one run.
        lowest: of them.
        highest: of them.
        best_version: the run with the highest.
    """

    score: str
    runs: int
    mean: float | None
    sd: float | None
    lowest: float | None
    highest: float | None
    best_version: str

    @property
    def title(self) -> str:
        """Its name for people."""
        return MAIN_SCORES.get(self.score, self.score.replace("_", " "))

    @property
    def numbers(self) -> tuple[float | None, ...]:
        """Mean, standard deviation, lowest, highest."""
        return self.mean, self.sd, self.lowest, self.highest


def read_runs(root: DataRoot, versions: Sequence[str]) -> list[NucleiRun]:
    """The versions of `nuclei_weights` in a data root.

    Raises:
        MissingInput: there are none, or one is not trained.
    """
    if not versions:
        raise MissingInput("No network of nuclei is trained yet: materialize nuclei_weights for a version first.")
    runs = []
    for version in versions:
        runs.append(read_run(root.folder("nuclei_weights", version)))
    return runs


def read_run(folder: Path) -> NucleiRun:
    """The version in ``folder``.

    Raises:
        MissingInput: there is none.
    """
    import pandas as pd

    record = read_record(folder / RECORD_FILE)
    if record is None:
        raise MissingInput(f"There is no trained version in {folder}: give a folder below nuclei_weights/.")
    samples = folder / SAMPLES_FIGURE
    return NucleiRun(
        record.partition,
        record,
        read_card(folder / WEIGHTS_FILE, NucleusCard).settings,
        pd.read_parquet(io.BytesIO((folder / HISTORY_FILE).read_bytes())),
        pd.read_parquet(io.BytesIO((folder / CLASSES_FILE).read_bytes())),
        samples.read_bytes() if samples.is_file() else None,
    )


def run_rows(runs: Sequence[NucleiRun]) -> pd.DataFrame:
    """A row for each run: what it was done with and on, and every score."""
    import pandas as pd

    names = dict.fromkeys((*MAIN_SCORES, *INSTANCE_SCORES))
    return pd.DataFrame(
        [
            {
                "version": run.version,
                "made_at": run.record.made_at,
                "minutes": run.record.seconds.get("train", float("nan")) / 60,
                **{name: run.record.values.get(name) for name in (*_DONE_WITH, *_ON)},
                **{name: run.score(name) for name in names},
            }
            for run in runs
        ]
    )


def summarised(runs: Sequence[NucleiRun]) -> list[ScoreSummary]:
    """Each score over all runs that have it."""
    found = []
    for name in dict.fromkeys((*MAIN_SCORES, *INSTANCE_SCORES)):
        known = {run.version: value for run in runs if (value := run.score(name)) is not None}
        if not known:
            found.append(ScoreSummary(name, 0, None, None, None, None, ""))
            continue
        values, best = list(known.values()), max(known, key=lambda version: known[version])
        spread = statistics.stdev(values) if len(values) > 1 else None
        found.append(ScoreSummary(name, len(values), statistics.fmean(values), spread, min(values), max(values), best))
    return found


def plain_settings(settings: Mapping[str, Any], within: str = "") -> dict[str, str]:
    """Nested settings as flat names and texts: ``loss.focal_gamma`` → ``2.0``."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= plain_settings(value, f"{within}{name}.")
        else:
            flat[f"{within}{name}"] = "none" if value is None else str(value)
    return flat
