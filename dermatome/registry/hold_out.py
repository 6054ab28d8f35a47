"""The hold-out set of a kind of network: frozen samples that no version trains on, and the versions' scores."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dermatome.errors import BadSetting, BadWeights, MissingInput
from dermatome.registry.leakage import find_leaks
from dermatome.registry.lineage import ancestors_of
from dermatome.registry.manifest import ManifestRow, read_manifest, write_manifest
from dermatome.registry.model_kinds import ModelKind
from dermatome.registry.promotion import compare_with_champion
from dermatome.registry.report import SAMPLES_FIGURE
from dermatome.slides.preview import preview
from dermatome.storage.files import sha256_file, write_atomic
from dermatome.storage.layout import CHAMPION, PREVIEW_FILE, RECORD_FILE, WEIGHTS_FILE, DataRoot
from dermatome.storage.record import Check, Scalar, StageResult, read_record, require_record

MANIFEST_FILE = "hold_out.parquet"
SAMPLES_FOLDER = "samples"
"""Folder of the copied samples, with a subfolder for each source."""

Score = Callable[[Path, list[Path], Path], tuple[Mapping[str, Scalar], bytes | None]]
"""Scores a weights file on the folders of the hold-out set, and draws samples (PNG); it may write into a folder."""


def freeze_hold_out(
    root: DataRoot,
    kind: ModelKind,
    sources: Sequence[Path],
    folder: Path,
    rows_of: Callable[[list[Path]], list[ManifestRow]],
    *,
    setting: str,
    replace: bool = False,
) -> StageResult:
    """Copies the folders of a hold-out set, with a manifest.

    Args:
        root: the data root.
        kind: kind of network.
        sources: folders of slides, sets or cases; their names are the names of the sources.
        folder: folder for the copies.
        rows_of: returns the manifest rows of the samples in copied folders.
        setting: setting of the run config that names the sources, for error messages.
        replace: whether an existing, different hold-out set may be replaced; scores on the two cannot be compared.

    Raises:
        BadSetting: no source is named, or there is another hold-out set.
        MissingInput: a source does not exist.
    """
    if not sources:
        raise BadSetting(f"Name what the hold-out set consists of: set {setting} in the run config.")
    if missing := [source for source in sources if not source.is_dir()]:
        raise MissingInput(f"There is no folder {missing[0]} to hold out: materialize or add it first.")
    left_out = shutil.ignore_patterns(RECORD_FILE, PREVIEW_FILE)
    copies = [shutil.copytree(source, folder / SAMPLES_FOLDER / source.name, ignore=left_out) for source in sources]
    rows = rows_of(copies)
    sha256 = write_manifest(folder / MANIFEST_FILE, rows)
    before = read_record(root.record(kind.hold_out, CHAMPION))
    if before is not None and before.values["hold_out_sha256"] != sha256 and not replace:
        raise BadSetting(
            f"There is another hold-out set already, of {before.values['sources']}; scores on two sets cannot be "
            "compared. Set replace to replace it, and score every version again."
        )
    names = ", ".join(source.name for source in sources)
    return StageResult(
        outcome="frozen",
        data_version=sha256[:32],
        values={"hold_out_sha256": sha256, "samples": len(rows), "sources": names},
    )


def hold_out_rows(root: DataRoot, kind: ModelKind) -> list[ManifestRow]:
    """The manifest of the hold-out set; empty if there is none."""
    if read_record(root.record(kind.hold_out, CHAMPION)) is None:
        return []
    return read_manifest(root.folder(kind.hold_out, CHAMPION) / MANIFEST_FILE)


def hold_out_sources(root: DataRoot, kind: ModelKind) -> set[str]:
    """The slides, sets or cases of the hold-out set, which training excludes; empty if there is none."""
    record = read_record(root.record(kind.hold_out, CHAMPION))
    return set() if record is None else set(str(record.values["sources"]).split(", "))


def score_on_hold_out(
    root: DataRoot, kind: ModelKind, version: str, folder: Path, margin: float, score: Score
) -> StageResult:
    """Scores a version on the hold-out set and checks whether it may become champion.

    Raises:
        MissingInput: the version is not trained.
        BadWeights: its weights file is not the one that was trained.
    """
    started = time.perf_counter()
    trained = require_record(root, kind.weights, version)
    hold_out = read_record(root.record(kind.hold_out, CHAMPION))
    if hold_out is None:
        text = f"There is no hold-out set to score on: materialize {kind.hold_out} to compare with the champion."
        return StageResult(
            outcome="no_hold_out",
            data_version=trained.data_version,
            values={"weights_sha256": trained.values["weights_sha256"]},
            message=text,
            checks=(Check(kind.check, True, text),),
        )
    weights = root.folder(kind.weights, version) / WEIGHTS_FILE
    sha256 = sha256_file(weights)
    if sha256 != trained.values["weights_sha256"]:
        raise BadWeights(f"The weights of {version} have changed since they were trained: materialize it again.")
    samples = root.folder(kind.hold_out, CHAMPION) / SAMPLES_FOLDER
    scores, figure = score(weights, sorted(samples.iterdir()), folder)
    if figure:
        write_atomic(folder / SAMPLES_FIGURE, figure)
        write_atomic(folder / PREVIEW_FILE, preview(figure))
    leaks = find_leaks(hold_out_rows(root, kind), ancestors_of(root, kind, version)[0])
    values: dict[str, Scalar] = {
        "weights_sha256": sha256,
        "hold_out_sha256": hold_out.values["hold_out_sha256"],
        "hold_out_leaks": len({leak.tested for leak in leaks}),
        "margin": margin,
        **scores,
    }
    return StageResult(
        outcome="scored",
        data_version=f"{sha256[:16]}{str(hold_out.values['hold_out_sha256'])[:16]}",
        values=values,
        seconds={"score": time.perf_counter() - started},
        checks=(compare_with_champion(root, kind, version, values, margin),),
    )
