"""The frozen hold-out set: tiles that no version trains on, by which a challenger is held against the champion."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from dermatome.errors import BadSetting, BadWeights
from dermatome.registry.manifest import ManifestRow, manifest_rows, read_manifest, write_manifest
from dermatome.registry.model_kinds import TISSUE, ModelKind
from dermatome.registry.promotion import PromotionSettings, drop_check
from dermatome.skin.tiles.crops import load_tiles
from dermatome.skin.tissue.evaluate import evaluate
from dermatome.skin.tissue.figures import samples_figure
from dermatome.skin.tissue.report import report_values, score_rows
from dermatome.skin.tissue.tile_probabilities import tile_probabilities
from dermatome.slides.preview import preview
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import CHAMPION, PREVIEW_FILE, WEIGHTS_FILE, DataRoot
from dermatome.storage.record import (
    Check,
    Scalar,
    StageRecord,
    StageResult,
    read_record,
    require_record,
    write_table,
)
from dermatome.training.weights import load_weights

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute

MANIFEST_FILE = "hold_out.parquet"
TILES_FOLDER = "tiles"
NO_HOLD_OUT = "no_hold_out"


def freeze_hold_out(root: DataRoot, slides: Sequence[str], folder: Path, *, replace: bool = False) -> StageResult:
    """Copies the tiles of annotated slides into ``folder``, with a manifest.

    Args:
        root: the data root.
        slides: annotated slides whose tiles are cut.
        folder: for the copies.
        replace: whether an existing hold-out set may be replaced; its scores do not compare with new ones.

    Raises:
        BadSetting: no slide is named, or there is another hold-out set.
        MissingInput: a slide's tiles are not cut.
    """
    if not slides:
        raise BadSetting("Name the annotated slides of the hold-out set: set annotated_slides in the run config.")
    for slide in slides:
        _, files = require_record(root, "training_tiles", slide), root.folder("training_tiles", slide)
        for name in ("images", "masks", "ihc"):
            if (files / name).is_dir():
                shutil.copytree(files / name, folder / TILES_FOLDER / slide / name)
        for name in ("palette.json", "tiles.json"):
            shutil.copyfile(files / name, folder / TILES_FOLDER / slide / name)
    rows = manifest_rows(load_tiles(*(folder / TILES_FOLDER / slide for slide in slides)), "hold_out")
    return frozen(root, TISSUE, folder, rows, slides, replace=replace)


def frozen(
    root: DataRoot,
    kind: ModelKind,
    folder: Path,
    rows: Sequence[ManifestRow],
    names: Sequence[str],
    *,
    replace: bool,
) -> StageResult:
    """Writes a hold-out set's manifest and says what it is.

    Args:
        root: the data root.
        kind: of network.
        folder: of the hold-out set.
        rows: of its tiles or images.
        names: of the slides or folders it is of.
        replace: whether a hold-out set that is there may be replaced.

    Raises:
        BadSetting: there is another hold-out set.
    """
    sha256 = write_manifest(folder / MANIFEST_FILE, rows)
    before = read_record(root.record(kind.hold_out, CHAMPION))
    if before is not None and before.values["hold_out_sha256"] != sha256 and not replace:
        raise BadSetting(
            f"There is another hold-out set already, of {before.values['slides']}: scores on two sets do not compare; "
            "set replace to give it up, and score every version again."
        )
    return StageResult(
        outcome="frozen",
        data_version=sha256[:32],
        values={"hold_out_sha256": sha256, "tiles": len(rows), "slides": ", ".join(names)},
    )


def hold_out_rows(root: DataRoot, kind: ModelKind = TISSUE) -> list[ManifestRow]:
    """The manifest of the hold-out set; empty where there is none."""
    if read_record(root.record(kind.hold_out, CHAMPION)) is None:
        return []
    folder = root.folder(kind.hold_out, CHAMPION)
    return read_manifest(folder / MANIFEST_FILE)


def score_on_hold_out(
    root: DataRoot, version: str, compute: Compute, mpp: float, folder: Path, settings: PromotionSettings
) -> StageResult:
    """Scores a version on the hold-out set, and says whether it may become champion.

    Files: `scores.parquet` by class, `samples.png`.

    Args:
        root: the data root.
        version: the challenger.
        compute: device and precision.
        mpp: microns per pixel of the hold-out set's tiles.
        folder: for the files.
        settings: the margin.

    Raises:
        MissingInput: the version is not trained.
        BadWeights: its file is not the one that was trained.
    """
    started = time.perf_counter()
    trained = require_record(root, TISSUE.weights, version)
    hold_out = read_record(root.record(TISSUE.hold_out, CHAMPION))
    if hold_out is None:
        write_table(folder / "scores.parquet", pa.Table.from_pylist([], schema=pa.schema([("version", pa.string())])))
        return without_hold_out(TISSUE, trained)
    files = root.folder(TISSUE.weights, version)
    loaded = load_weights(files / WEIGHTS_FILE)
    check_trained(trained, loaded.sha256)
    card = loaded.card
    files = root.folder(TISSUE.hold_out, CHAMPION)
    tiles = load_tiles(*sorted((files / TILES_FOLDER).iterdir()))
    network = loaded.network.to(compute.torch_device)
    run = tile_probabilities(network, compute, card.mean, card.std, mpp / card.mpp, tile_px=card.tile_px, batch=8)
    found = evaluate(tiles, run, mpp)
    samples = samples_figure(found.tiles)
    if samples:
        write_atomic(folder / "samples.png", samples)
        write_atomic(folder / PREVIEW_FILE, preview(samples))
    write_table(folder / "scores.parquet", pa.Table.from_pylist(score_rows(version, found)))
    values: dict[str, Scalar] = {
        "weights_sha256": loaded.sha256,
        "hold_out_sha256": hold_out.values["hold_out_sha256"],
        "margin": settings.margin,
        **report_values(found),
    }
    drop = drop_check(root, version, values, settings.margin)
    return StageResult(
        outcome="scored",
        data_version=f"{loaded.sha256[:16]}{str(hold_out.values['hold_out_sha256'])[:16]}",
        values=values,
        seconds={"score": time.perf_counter() - started},
        checks=(drop,),
    )


def without_hold_out(kind: ModelKind, trained: StageRecord) -> StageResult:
    """What is said of a version where there is no hold-out set to score it on."""
    said = (
        f"There is no hold-out set to score on: materialize {kind.hold_out} to have versions held against the champion."
    )
    return StageResult(
        outcome=NO_HOLD_OUT,
        data_version=trained.data_version,
        values={"weights_sha256": trained.values["weights_sha256"]},
        message=said,
        checks=(Check(kind.check, True, said),),
    )


def check_trained(trained: StageRecord, sha256: str) -> None:
    """Refuses weights of another sha256 than the version was trained to.

    Raises:
        BadWeights: they are others.
    """
    if sha256 != trained.values["weights_sha256"]:
        raise BadWeights(f"The weights of {trained.partition} are not those it was trained to: materialize it again.")
