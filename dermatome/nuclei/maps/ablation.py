"""What the source system's choices are worth: the same training without one of them at a time, and side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dermatome.errors import BadSetting
from dermatome.nuclei.maps.figures import ablation_figure
from dermatome.nuclei.maps.training_settings import NucleusTraining
from dermatome.nuclei.maps.weights_stage import INSTANCE_SCORES, Patch, make_nuclei_weights
from dermatome.reports.panels import preview
from dermatome.storage.files import write_whole
from dermatome.storage.layout import PREVIEW_FILE
from dermatome.storage.record import StageResult, content_version, write_table

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.storage.files import AnyPath

ABLATION_TABLE = "ablation.parquet"

VARIANTS: dict[str, Callable[[NucleusTraining], NucleusTraining]] = {
    "as_given": lambda settings: settings,
    "no_boundary_weighting": lambda settings: replace(settings, loss=replace(settings.loss, boundary_weighting=False)),
    "no_immune_sampling": lambda settings: replace(settings, sampling=replace(settings.sampling, enabled=False)),
    "no_ternary_dice": lambda settings: replace(settings, loss=replace(settings.loss, ternary_dice_weight=0.0)),
    "no_focus": lambda settings: replace(settings, loss=replace(settings.loss, focal_gamma=0.0)),
}
"""Each changes one thing; the first is what the others are held against."""

_SHOWN = ("score", "ternary_dice_inside", "ternary_dice_boundary", *INSTANCE_SCORES)


def make_ablation(
    patches: Sequence[Patch],
    patches_val: Sequence[Patch],
    folder: Path,
    settings: NucleusTraining,
    compute: Compute,
    variants: Sequence[str] = ("as_given", "no_boundary_weighting", "no_immune_sampling"),
    *,
    checkpoints: AnyPath | None = None,
    models_folder: AnyPath | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> StageResult:
    """Trains the variants one after another and compares what they reach on the validation patches.

    Files: a folder for each variant with what a version has (see
    :func:`dermatome.nuclei.maps.weights_stage.make_nuclei_weights`), `ablation.parquet` and `.csv`, a row for each, and
    `ablation.png`. A run that was killed trains no variant again that was done.

    Args:
        patches: to train on.
        patches_val: to validate on, of other patients; every variant is compared on them.
        folder: for the files.
        settings: of ``as_given``.
        compute: device and precision.
        variants: names out of :data:`VARIANTS`, the one that the others are held against first.
        checkpoints: where a run that was killed goes on from.
        models_folder: where the encoder's ready weights are kept, if the settings ask for some.
        say: told what is going on.

    Raises:
        BadSetting: a variant does not exist, or there is nothing to compare them on.
    """
    started = time.perf_counter()
    if unknown := [name for name in variants if name not in VARIANTS]:
        raise BadSetting(f"There is no variant {unknown[0]!r}: use {', '.join(VARIANTS)}.")
    if not variants or len(set(variants)) < len(variants) or not patches_val:
        raise BadSetting("An ablation takes at least one variant, each once, and patches held out to compare them on.")
    rows: list[dict[str, Any]] = []
    for name in variants:
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        made = make_nuclei_weights(
            patches,
            patches_val,
            own,
            name,
            VARIANTS[name](settings),
            compute,
            partial(_tell, say, name),
            checkpoints=None if checkpoints is None else checkpoints / name,
            models_folder=models_folder,
        )
        first = rows[0] if rows else {}
        scores = {score: made.values.get(score) for score in _SHOWN}
        gained = {f"{score}_gain": _difference(value, first.get(score)) for score, value in scores.items()}
        rows.append({"variant": name, "steps": made.values["steps"], "seconds": made.seconds["train"]})
        rows[-1] |= scores | (gained if first else dict.fromkeys(gained))
    table = pa.Table.from_pylist(rows, _schema())
    write_table(folder / ABLATION_TABLE, table)
    write_whole(folder / "ablation.csv", table.to_pandas().to_csv(index=False).encode())
    figure = ablation_figure(rows)
    write_whole(folder / "ablation.png", figure)
    write_whole(folder / PREVIEW_FILE, preview(figure))
    compared = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    return StageResult(
        outcome="compared",
        data_version=content_version([repr(compared).encode()]),
        values={"variants": ", ".join(variants), **{f"score_{row['variant']}": row["score"] for row in rows}},
        seconds={"all": time.perf_counter() - started},
    )


def _tell(say: Callable[[str], None], name: str, row: dict[str, Any], share: float) -> None:
    say(f"{name}: epoch {row['epoch']}, {share:.0%} done")


def _difference(value: Any, first: Any) -> float | None:
    return None if value is None or first is None else float(value) - float(first)


def _schema() -> pa.Schema:
    numbers = [f"{score}{end}" for end in ("", "_gain") for score in _SHOWN]
    whole = [("variant", pa.string()), ("steps", pa.int64()), ("seconds", pa.float64())]
    return pa.schema([*whole, *((name, pa.float64()) for name in numbers)])
