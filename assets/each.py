"""Many partitions in one run, each with its own event, its own checks, its own failure and its own retry.

A run costs seconds before its first line, so per-slide assets take hundreds of slides a run. Dagster has no
per-partition result for such a run; the pattern here is to yield one `AssetMaterialization` for each partition that
worked, write a failure file for each that did not, and fail the step at the end naming them. The step never yields an
Output: that would mark every partition as made. A backfill re-run from failure then asks for exactly the failed ones.
"""

import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets.metadata import record_metadata, version_tags
from dermatome.data_root import RECORD_FILE, DataRoot
from dermatome.errors import DermatomeError
from dermatome.stage_record import (
    StageRecord,
    StageResult,
    clear_failure,
    fingerprint,
    read_record,
    write_failure,
    write_record,
)
from resources.slide_engine import SlideEngineResource

# More would make the failure's metadata unreadable; the failures table of the store holds all.
_FAILURES_SHOWN = 100


def make_each(
    context: dg.AssetExecutionContext,
    root: DataRoot,
    engine: SlideEngineResource,
    *,
    inputs: Callable[[str], Mapping[str, str]],
    make: Callable[[str, Path], StageResult],
    settings: Mapping[str, Any],
    again: Callable[[StageRecord], bool] = lambda record: False,
    at_once: int = 1,
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """Makes every partition of the run and yields its events as it is done.

    A partition whose record on disk carries the fingerprint that its inputs, settings and code have now is already
    made: its event is reported again and the work is not. That is what makes a killed run cheap to start again.

    Args:
        context: of the asset.
        root: the data root.
        engine: maps over the partitions.
        inputs: for a partition, the data version of each upstream asset; raises where one is missing.
        make: makes a partition's files in the folder it is given.
        settings: what decides the numbers, besides inputs and code.
        again: whether a partition must be made although its fingerprint is unchanged.
        at_once: how many partitions at a time, in threads.

    Raises:
        dg.Failure: after all partitions were tried, where any failed.
    """
    asset = context.asset_key.to_user_string()
    code_version = context.assets_def.code_versions_by_key[context.asset_key] or "1"
    keys = list(context.partition_keys)
    pointers = _event_pointers(context, keys)
    checked = {spec.name for spec in context.assets_def.check_specs}

    def one(key: str) -> tuple[StageRecord, bool]:
        folder = root.folder(asset, key)
        current = dict(inputs(key))
        now = fingerprint(code_version, current, settings)
        kept = read_record(folder / RECORD_FILE)
        if kept is not None and kept.fingerprint == now and not again(kept):
            return kept, True
        # Whatever replaces the files must not be vouched for by the record of the old ones.
        (folder / RECORD_FILE).unlink(missing_ok=True)
        made = make(key, folder)
        record = StageRecord(
            asset=asset,
            partition=key,
            fingerprint=now,
            code_version=code_version,
            inputs=current,
            settings=dict(settings),
            run_id=context.run_id,
            **vars(made),
        )
        write_record(folder / RECORD_FILE, record)
        return record, False

    failed: dict[str, str] = {}
    for done, finished in enumerate(engine.map(one, keys, at_once), start=1):
        key = finished.key
        if finished.error is not None:
            failed[key] = _say(finished.error)
            context.log.error(f"{asset} {key}: {failed[key]}")
            write_failure(
                root.failure(asset, key),
                asset=asset,
                partition=key,
                error=failed[key],
                kind=type(finished.error).__name__,
                run_id=context.run_id,
            )
            continue
        assert finished.result is not None
        record, reused = finished.result
        clear_failure(root.failure(asset, key))
        context.log.info(f"{asset} {key}: {record.outcome}{', already made' if reused else ''} ({done} of {len(keys)})")
        yield dg.AssetMaterialization(
            context.asset_key,
            partition=key,
            metadata=record_metadata(record, root.folder(asset, key), reused=reused),
            tags=version_tags(record, pointers[key]),
        )
        for check in record.checks:
            if check.name in checked:
                yield dg.AssetCheckEvaluation(
                    asset_key=context.asset_key,
                    check_name=check.name,
                    passed=check.passed,
                    severity=dg.AssetCheckSeverity.WARN,
                    description=check.description,
                    metadata=check.values,
                    partition=key,
                )
    if failed:
        raise dg.Failure(
            f"{len(failed)} of {len(keys)} failed and the others are made. First: {next(iter(failed.items()))}. "
            "Mend the cause, then re-execute the backfill from failure.",
            allow_retries=False,
            metadata={"failed": dg.MetadataValue.json(dict(list(failed.items())[:_FAILURES_SHOWN]))},
        )


def _say(error: Exception) -> str:
    if isinstance(error, DermatomeError):
        return str(error)
    # Not one of ours: a defect. The traceback is what a person needs to report it.
    return "".join(traceback.format_exception(error))[-4000:]


def _event_pointers(context: dg.AssetExecutionContext, keys: list[str]) -> dict[str, dict[str, int | None]]:
    """For each partition, the storage id of each upstream asset's event that is current for it now.

    That is the latest of the partition of the same key or, where the upstream is partitioned by something else, the
    latest of all.
    """
    pointers: dict[str, dict[str, int | None]] = {key: {} for key in keys}
    for upstream in context.assets_def.asset_deps[context.asset_key]:
        by_key = context.instance.get_latest_storage_id_by_partition(
            upstream, dg.DagsterEventType.ASSET_MATERIALIZATION, set(keys)
        )
        newest = context.instance.fetch_materializations(upstream, limit=1).records
        for key in keys:
            pointers[key][upstream.to_user_string()] = by_key.get(key, newest[0].storage_id if newest else None)
    return pointers
