"""The stage `til_scores`: scores the TIL of a slide from its nuclei, from files to files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from dermatome.geometry import Size
from dermatome.nuclei.maps.files import NUCLEI_TABLE
from dermatome.nuclei.til.figures import til_figure
from dermatome.nuclei.til.score import score_til, square_rows
from dermatome.nuclei.til.settings import TilSettings
from dermatome.pipeline.cached_stage import WaitingStage
from dermatome.pipeline.stage_files import synthetic_warning, timed, versions_of, write_figure, write_rows
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import Scalar, StageResult, content_version, require_record

TIL_MAP = "til_map.parquet"


def til_stage(root: DataRoot, settings: TilSettings, *, figures: bool = True) -> WaitingStage:
    """Computes `til_map.parquet` and `figure.png` of each slide; the scores are in its record."""

    def make(key: str, folder: Path) -> StageResult:
        record, files = require_record(root, "nucleus_maps", key, NUCLEI_TABLE), root.folder("nucleus_maps", key)
        nuclei = pd.read_parquet(io.BytesIO((files / NUCLEI_TABLE).read_bytes()))
        return write_til(folder, key, nuclei, record.values, settings, figure=figures)

    def inputs(key: str) -> dict[str, str]:
        return versions_of(root, key, "nucleus_maps")

    return WaitingStage(root, "til_scores", make, inputs, figures=figures, at_once=2)


def write_til(
    folder: Path,
    slide: str,
    nuclei: pd.DataFrame,
    values: Mapping[str, Scalar],
    settings: TilSettings,
    stem: str = "",
    *,
    figure: bool = True,
) -> StageResult:
    """Scores the nuclei of a slide, and writes its squares and figure.

    ``values`` is what the record of its nuclei has; ``stem`` the start of the names of the files, which otherwise are
    named as in the data root. Without ``figure``, none is drawn.
    """
    seconds: dict[str, float] = {}
    warning = synthetic_warning(values)
    size = Size(int(str(values["height_px"])), int(str(values["width_px"])))
    mpp = float(str(values["mpp"]))
    with timed(seconds, "score"):
        scores = score_til(nuclei, size, mpp, float(str(values["tissue_mm2"])), settings)
    rows = square_rows(scores, settings.square_um)
    with timed(seconds, "write"):
        write_rows(folder / (f"{stem}.parquet" if stem else TIL_MAP), slide, rows, warning=warning)
        if figure:
            write_figure(folder, til_figure(slide, scores, settings.square_um, size, mpp), stem)
    numbers = {
        "lymphocytes_per_mm2": scores.lymphocytes_per_mm2,
        "immune_share": scores.immune_share,
        "near_epithelium_share": scores.near_epithelium_share,
        "infiltrated_share": scores.infiltrated_share,
    }
    outcome, message = "scored", ""
    if nuclei.empty:
        outcome, message = "no_nuclei", f"{slide} has no nuclei to score."
    elif not scores.has_classes:
        outcome = "no_classes"
        message = f"No nucleus of {slide} has a class, so there is no score: use a network that was trained on classes."
    return StageResult(
        outcome=outcome,
        message=message,
        data_version=content_version([repr(numbers).encode(), rows.to_csv(index=False).encode()]),
        values={
            "weights": str(values["weights"]),
            "weights_sha256": str(values["weights_sha256"]),
            "synthetic": bool(warning),
            "mpp": mpp,
            "mpp_source": str(values["mpp_source"]),
            "tissue_mm2": scores.tissue_mm2,
            **(dict.fromkeys(scores.counts) if outcome == "no_classes" else scores.counts),
            **numbers,
        },
        seconds=seconds,
    )
