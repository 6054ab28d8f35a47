"""Assets made one partition a run: training, hold-out sets, comparisons."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets.metadata import error_text, record_metadata
from dermatome.storage.files import atomic_folder
from dermatome.storage.layout import RECORD_FILE, DataRoot
from dermatome.storage.record import (
    StageRecord,
    StageResult,
    clear_failure,
    fingerprint,
    write_failure,
    write_record,
)


def make_one(
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
    """Makes the partition in an empty folder that takes its place when it is whole, and says what was made.

    Args:
        context: of the asset.
        root: the data root.
        partition: its key; of an unpartitioned asset the name of its one folder.
        make: makes the files in the folder it is given.
        inputs: the data version of each thing it is made of.
        settings: what decides the result, besides inputs and code.
        more: further metadata, from the finished files.
        warn: whether checks that fail are a warning for this result, and no error.
    """
    asset = context.asset_key.to_user_string()
    code_version = context.assets_def.code_versions_by_key[context.asset_key] or "1"
    failure = root.failure(asset, partition)
    try:
        with atomic_folder(root.folder(asset, partition)) as folder:
            result = make(folder)
            record = StageRecord(
                asset=asset,
                partition=partition,
                fingerprint=fingerprint(code_version, inputs, settings),
                code_version=code_version,
                inputs=dict(inputs),
                settings=dict(settings),
                run_id=context.run_id,
                **vars(result),
            )
            write_record(folder / RECORD_FILE, record)
            metadata = {**record_metadata(record, folder, reused=False), **more(folder)}
    except Exception as error:
        write_failure(
            failure,
            asset=asset,
            partition=partition,
            error=error_text(error),
            kind=type(error).__name__,
            run_id=context.run_id,
        )
        raise
    clear_failure(failure)
    metadata["folder"] = dg.MetadataValue.path(str(root.folder(asset, partition)))
    severity = dg.AssetCheckSeverity.WARN if warn(result) else dg.AssetCheckSeverity.ERROR
    return dg.MaterializeResult(
        metadata=metadata,
        data_version=dg.DataVersion(record.data_version),
        check_results=[
            dg.AssetCheckResult(
                check_name=check.name,
                passed=check.passed,
                severity=severity,
                description=check.description,
                metadata=check.values,
            )
            for check in record.checks
        ],
    )
