"""Many partitions in one run, each with its own event, its own checks, its own failure and its own retry.

A run costs seconds before its first line, so per-slide assets take hundreds of slides a run. Dagster has no
per-partition result for such a run; the pattern here is to yield one `AssetMaterialization` for each partition that
worked, write a failure file for each that did not, and fail the step at the end naming them. The step yields no result
of its own: that would mark every partition as made. A backfill re-run from failure then asks for exactly the failed.

A run of one partition has a result of its own, and yields it: assets after it in the same run then run too.
"""

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from assets.metadata import record_metadata, version_tags
from dermatome.data_root import RECORD_FILE, DataRoot
from dermatome.errors import DermatomeError, StorageFailed
from dermatome.files import whole_folder
from dermatome.stage_record import (
    Check,
    StageRecord,
    StageResult,
    clear_failure,
    fingerprint,
    read_record,
    write_failure,
    write_record,
)
from resources.slide_engine import SlideEngineResource

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.MaterializeResult

# More would make the failure's metadata unreadable; the failures table of the store holds all.
_FAILURES_SHOWN = 100


def partitioned(
    *,
    partitions_def: dg.DynamicPartitionsDefinition,
    partitions_a_run: int,
    group_name: str,
    kind: str,
    code_version: str,
    deps: Sequence[Any] = (),
    pool: str | None = None,
    checks: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Iterator[Event]]], dg.AssetsDefinition]:
    """Declares an asset whose body is one call of :func:`make_each`; the function's name and docstring are the asset's.

    It is a multi-asset of one, because only those may leave out their result and those of their checks.

    Args:
        partitions_def: what one unit of work is.
        partitions_a_run: how many of them a backfill puts into a run. Different for each per-slide asset: assets of one
            backfill policy share runs, and there one bad slide would stop the next asset for all.
        group_name: in the UI's graph.
        kind: in the UI's graph.
        code_version: to be raised by hand when the code gives other numbers.
        deps: upstream assets.
        pool: of the deployment's concurrency limits.
        checks: description by name, evaluated for each partition.
    """

    def declare(body: Callable[..., Iterator[Event]]) -> dg.AssetsDefinition:
        name = body.__name__
        return dg.multi_asset(
            name=name,
            specs=[
                dg.AssetSpec(
                    name,
                    description=inspect.getdoc(body),
                    partitions_def=partitions_def,
                    deps=deps,
                    skippable=True,
                    code_version=code_version,
                    group_name=group_name,
                    kinds={kind},
                )
            ],
            check_specs=[
                dg.AssetCheckSpec(check, asset=name, partitions_def=partitions_def, description=description)
                for check, description in (checks or {}).items()
            ],
            can_subset=True,
            pool=pool,
            backfill_policy=dg.BackfillPolicy.multi_run(partitions_a_run),
        )(body)

    return declare


def make_each(
    context: dg.AssetExecutionContext,
    root: DataRoot,
    engine: SlideEngineResource,
    *,
    inputs: Callable[[str], Mapping[str, str]],
    make: Callable[[str, Path], StageResult],
    settings: Mapping[str, Any],
    always: bool = False,
    check_now: Callable[[str], Sequence[Check]] = lambda key: (),
    at_once: int = 1,
) -> Iterator[Event]:
    """Makes every partition of the run and yields its events as it is done.

    A partition whose record on disk carries the fingerprint that its inputs, settings and code have now is already
    made: its event is reported again and the work is not. That is what makes a killed run cheap to start again.

    Args:
        context: of the asset.
        root: the data root.
        engine: maps over the partitions.
        inputs: for a partition, the data version of each upstream asset; raises where one is missing.
        make: makes a partition's files in the empty folder it is given, which then replaces the partition's.
        settings: what decides the numbers, besides inputs and code.
        always: make partitions although their fingerprints are unchanged.
        check_now: checks of a partition whose outcome can change while its results do not.
        at_once: how many partitions at a time, in threads.

    Raises:
        dg.Failure: after all partitions were tried, where any failed.
    """
    asset = context.asset_key.to_user_string()
    code_version = context.assets_def.code_versions_by_key[context.asset_key] or "1"
    keys = list(context.partition_keys)
    pointers = _event_pointers(context, keys)

    def one(key: str) -> tuple[StageRecord, bool]:
        final = root.folder(asset, key)
        current = dict(inputs(key))
        now = fingerprint(code_version, current, settings)
        kept = _kept(context, final / RECORD_FILE)
        if kept is not None and kept.fingerprint == now and not always:
            return kept, True
        with whole_folder(final) as folder:
            record = StageRecord(
                asset=asset,
                partition=key,
                fingerprint=now,
                code_version=code_version,
                inputs=current,
                settings=dict(settings),
                run_id=context.run_id,
                **vars(make(key, folder)),
            )
            write_record(folder / RECORD_FILE, record)
        return record, False

    failed: dict[str, str] = {}
    for done, finished in enumerate(engine.map(one, keys, at_once), start=1):
        key = finished.key
        if finished.error is not None:
            failed[key] = _say(finished.error)
            context.log.error(f"{asset} {key}: {failed[key]}")
            _note_failure(context, root, asset, key, finished.error)
            continue
        assert finished.result is not None
        record, reused = finished.result
        clear_failure(root.failure(asset, key))
        context.log.info(f"{asset} {key}: {record.outcome}{', already made' if reused else ''} ({done} of {len(keys)})")
        yield from _events(
            context,
            record,
            record_metadata(record, root.folder(asset, key), reused=reused),
            version_tags(record, pointers[key]),
            [*record.checks, *check_now(key)],
            alone=len(keys) == 1,
        )
    if failed:
        raise dg.Failure(
            f"{len(failed)} of {len(keys)} failed and the others are made. First: {next(iter(failed.items()))}. "
            "Mend the cause, then re-execute the backfill from failure.",
            allow_retries=False,
            metadata={"failed": dg.MetadataValue.json(dict(list(failed.items())[:_FAILURES_SHOWN]))},
        )


def _events(
    context: dg.AssetExecutionContext,
    record: StageRecord,
    metadata: Mapping[str, dg.MetadataValue],
    tags: Mapping[str, str],
    checks: Sequence[Check],
    *,
    alone: bool,
) -> Iterator[Event]:
    selected = {key.name for key in context.selected_asset_check_keys}
    verdicts: list[dict[str, Any]] = [
        {
            "asset_key": context.asset_key,
            "check_name": check.name,
            "passed": check.passed,
            "severity": dg.AssetCheckSeverity.WARN,
            "description": check.description,
            "metadata": check.values,
        }
        for check in checks
        if check.name in selected
    ]
    if alone:
        yield dg.MaterializeResult(
            asset_key=context.asset_key,
            metadata=metadata,
            data_version=dg.DataVersion(record.data_version),
            check_results=[dg.AssetCheckResult(**verdict) for verdict in verdicts],
        )
        return
    yield dg.AssetMaterialization(context.asset_key, partition=record.partition, metadata=metadata, tags=tags)
    for verdict in verdicts:
        yield dg.AssetCheckEvaluation(**verdict, partition=record.partition)


def _kept(context: dg.AssetExecutionContext, path: Path) -> StageRecord | None:
    try:
        return read_record(path)
    except StorageFailed as error:
        context.log.warning(f"{error} It is made again now.")
        return None


def _note_failure(context: dg.AssetExecutionContext, root: DataRoot, asset: str, key: str, error: Exception) -> None:
    try:
        write_failure(
            root.failure(asset, key),
            asset=asset,
            partition=key,
            error=_say(error),
            kind=type(error).__name__,
            run_id=context.run_id,
        )
    except StorageFailed as unwritten:
        # A full disk, most likely: the event log still says what failed, and the other partitions are still tried.
        context.log.error(f"The failure of {key} could not be noted: {unwritten}")


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
        newest = None
        if not by_key and (latest := context.instance.fetch_materializations(upstream, limit=1).records):
            newest = latest[0].storage_id
        for key in keys:
            pointers[key][upstream.to_user_string()] = by_key.get(key, newest)
    return pointers
