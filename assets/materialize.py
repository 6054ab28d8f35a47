"""Materializing one partition in a run, and what every asset of this package shares: records as the UI shows them.

Belongs here: the record, failure file and metadata of any asset. Runs over many slides are in `assets.slide_asset`.
"""

import base64
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from dermatome.errors import DermatomeError, StorageFailed
from dermatome.settings import Settings, deciding_settings
from dermatome.storage.files import atomic_folder
from dermatome.storage.layout import PREVIEW_FILE, RECORD_FILE, DataRoot
from dermatome.storage.record import (
    Check,
    StageRecord,
    StageResult,
    clear_failure,
    file_facts,
    fingerprint,
    write_failure,
    write_record,
)
from resources.settings import decided_names


def materialize_one(
    context: dg.AssetExecutionContext,
    root: DataRoot,
    partition: str,
    *,
    make: Callable[[Path], StageResult],
    inputs: Mapping[str, str],
    settings: Mapping[str, Any],
    more: Callable[[Path], Mapping[str, dg.MetadataValue]] = lambda folder: {},
    warn: Callable[[StageResult], bool] = lambda result: False,
) -> dg.MaterializeResult:
    """Fills an empty folder that then replaces the partition's folder, and records it.

    Args:
        context: of the asset.
        root: the data root.
        partition: its key; for an unpartitioned asset the name of its one folder.
        make: writes the files into the folder it is given.
        inputs: the data version of each input.
        settings: what decides the result besides inputs and code.
        more: further metadata, from the finished files.
        warn: whether checks that fail are a warning for this result, not an error.
    """
    asset, version, run_id = context.asset_key.to_user_string(), code_version(context), context.run.run_id
    try:
        with atomic_folder(root.folder(asset, partition)) as folder:
            result = make(folder)
            record = StageRecord(
                asset=asset,
                partition=partition,
                fingerprint=fingerprint(version, inputs, settings),
                code_version=version,
                inputs=dict(inputs),
                settings=dict(settings),
                run_id=run_id,
                files=file_facts(folder),
                **vars(result),
            )
            write_record(folder / RECORD_FILE, record)
            metadata = {**record_metadata(record, folder, reused=False), **more(folder)}
    except Exception as error:
        note_failure(context, root, asset, partition, error)
        raise
    clear_failure(root.failure(asset, partition))
    metadata["folder"] = dg.MetadataValue.path(str(root.folder(asset, partition)))
    severity = dg.AssetCheckSeverity.WARN if warn(result) else dg.AssetCheckSeverity.ERROR
    return dg.MaterializeResult(
        metadata=metadata,
        data_version=dg.DataVersion(record.data_version),
        check_results=[dg.AssetCheckResult(**check_fields(check, severity)) for check in record.checks],
    )


def code_version(context: dg.AssetExecutionContext) -> str:
    """The asset's code version, which counts in the settings that decide its results."""
    return context.assets_def.code_versions_by_key[context.asset_key] or "1"


def deciding(context: dg.AssetExecutionContext, settings: Settings, root: DataRoot) -> dict[str, Any]:
    """The settings that decide the asset's results, as its declaration names them."""
    return deciding_settings(settings, decided_names(context.assets_def.metadata_by_key[context.asset_key]), root)


def check_fields(check: Check, severity: dg.AssetCheckSeverity) -> dict[str, Any]:
    """A check's outcome as the fields of a Dagster check result."""
    return {
        "check_name": check.name,
        "passed": check.passed,
        "severity": severity,
        "description": check.description,
        "metadata": check.values,
    }


def note_failure(
    context: dg.AssetExecutionContext, root: DataRoot, asset: str, partition: str, error: Exception
) -> None:
    """Writes the failure file of a partition."""
    try:
        write_failure(
            root.failure(asset, partition),
            asset=asset,
            partition=partition,
            error=error_text(error),
            kind=type(error).__name__,
            run_id=context.run.run_id,
        )
    except StorageFailed as unwritten:
        # A full disk, most likely: the event log still says what failed, and other partitions are still tried.
        context.log.error(f"The failure of {partition} could not be noted: {unwritten}")


def record_metadata(record: StageRecord, folder: Path, *, reused: bool) -> dict[str, dg.MetadataValue]:
    """The metadata of a materialization.

    Args:
        record: of the partition.
        folder: of the partition.
        reused: whether an earlier run computed it; that run's event has the preview, and another would only fill
            Dagster's storage.
    """
    shown: dict[str, dg.MetadataValue] = {"outcome": dg.MetadataValue.text(record.outcome)}
    if record.message:
        shown["message"] = dg.MetadataValue.text(record.message)
    if not reused and (preview := _preview(folder)):
        encoded = base64.b64encode(preview).decode()
        shown["preview"] = dg.MetadataValue.md(f"![preview](data:image/webp;base64,{encoded})")
    for name, value in record.values.items():
        shown[name] = _scalar(value)
    shown |= {
        "inputs": dg.MetadataValue.json(record.inputs),
        "settings": dg.MetadataValue.json(record.settings),
        "seconds": dg.MetadataValue.json({name: round(value, 3) for name, value in record.seconds.items()}),
        "libraries": dg.MetadataValue.json(record.libraries),
        "folder": dg.MetadataValue.path(str(folder)),
        "reused": dg.MetadataValue.bool(reused),
    }
    return shown


def _preview(folder: Path) -> bytes | None:
    try:
        return (folder / PREVIEW_FILE).read_bytes()
    except FileNotFoundError:  # not every asset has one
        return None


def _scalar(value: object) -> dg.MetadataValue:
    if value is None:
        return dg.MetadataValue.null()
    if isinstance(value, bool):
        return dg.MetadataValue.bool(value)
    if isinstance(value, int):
        return dg.MetadataValue.int(value)
    if isinstance(value, float):
        return dg.MetadataValue.float(round(value, 6))
    return dg.MetadataValue.text(str(value))


def error_text(error: Exception) -> str:
    """What a failure says: the sentence of an error that a user can act on, the traceback of any other."""
    if isinstance(error, DermatomeError):
        return str(error)
    return "".join(traceback.format_exception(error))[-4000:]
