"""Many partitions in one run, each with its own event, its own checks, its own failure and its own retry.

A run costs seconds before its first line, so per-slide assets take hundreds of slides a run. Dagster has no
per-partition result for such a run; the pattern here is to yield one `AssetMaterialization` for each partition that
worked, write a failure file for each that did not, and fail the step at the end naming them. The step yields no result
of its own: that would mark every partition as made. A backfill re-run from failure then asks for exactly the failed.

A run of one partition has a result of its own, and yields it: assets after it in the same run then run too.
"""

import inspect
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import dagster as dg

from assets.connections import keep_connections, sqlite_held
from assets.metadata import kept_version_tags, record_metadata, version_tags
from assets.partitions import BY_INFER, BY_INFER_NUCLEI, REQUESTED_BY
from dermatome.errors import DermatomeError, StorageFailed
from dermatome.pipeline.cached_stage import Making, Stage
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import Check, StageRecord, clear_failure, write_failure
from resources.slide_engine import SlideEngineResource

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.MaterializeResult

# More would make the failure's metadata unreadable; the failures table of the store holds all.
_FAILURES_SHOWN = 100
# Each line in the event log costs about as much as a materialization.
_SAY_EVERY_S = 5.0


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
    engine: SlideEngineResource,
    stage: Stage[Any, Any],
    *,
    check_now: Callable[[str], Sequence[Check]] = lambda key: (),
    at_once: int | None = None,
) -> Iterator[Event]:
    """Makes every partition of the run and yields its events as it is done.

    A partition whose record on disk carries the fingerprint that its inputs, settings and code have now is already
    made: its event is reported again and the work is not.

    Args:
        context: of the asset.
        engine: works on the partitions.
        stage: the asset's own work.
        check_now: checks of a partition whose outcome can change while its results do not.
        at_once: for a stage that only waits for others: how many partitions at a time, in threads of this process.

    Raises:
        dg.Failure: after all partitions were tried, where any failed.
    """
    asset, root = stage.asset, stage.root
    code_version = context.assets_def.code_versions_by_key[context.asset_key] or "1"
    keep_connections(context.instance)
    keys = list(context.partition_keys)
    pointers = _event_pointers(context, keys)
    fillers = _gap_fillers(context, root, keys)
    making = Making(stage, code_version, context.run_id, frozenset(fillers))
    failed: dict[str, str] = {}
    reused, said = 0, time.monotonic()
    # Closed at once where the run is cancelled, wherever that strikes.
    with (
        sqlite_held(context.instance, context.run_id),
        closing(engine.map(making, keys) if at_once is None else engine.here(making, keys, at_once)) as results,
    ):
        for done, finished in enumerate(results, start=1):
            key = finished.key
            if finished.error is not None:
                failed[key] = _say(finished.error)
                context.log.error(f"{asset} {key}: {failed[key]}")
                _note_failure(context, root, asset, key, finished.error)
                continue
            made = finished.result
            assert made is not None
            try:
                clear_failure(root.failure(asset, key))
                metadata = record_metadata(made.record, root.folder(asset, key), reused=made.reused)
                checks = [*made.record.checks, *check_now(key)]
            except Exception as error:
                # Of this slide alone, such as one request that a bucket refused: the others go on.
                failed[key] = _say(error)
                context.log.error(f"{asset} {key}: {failed[key]}")
                _note_failure(context, root, asset, key, error)
                continue
            reused += made.reused
            if time.monotonic() - said >= _SAY_EVERY_S or done == len(keys):
                said = time.monotonic()
                context.log.info(
                    f"{asset}: {done} of {len(keys)} are done, {reused} of them made before, {len(failed)} failed."
                )
            yield from _events(
                context,
                made.record,
                metadata,
                fillers.get(key) or version_tags(made.record, pointers[key]),
                checks,
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


def _gap_fillers(context: dg.AssetExecutionContext, root: DataRoot, keys: list[str]) -> dict[str, Mapping[str, str]]:
    """Partitions that `infer` asked for only to have few runs: they are made, and nobody wants them made again.

    A backfill waits for an event of each. With it are the tags of the one before, as what is stale must stay so.
    """
    if context.run.tags.get(REQUESTED_BY) not in (BY_INFER, BY_INFER_NUCLEI) or len(keys) == 1:
        return {}
    latest = context.instance.get_latest_storage_id_by_partition(
        context.asset_key, dg.DagsterEventType.ASSET_MATERIALIZATION, set(keys)
    )
    if not latest:
        return {}
    wanted = dg.AssetRecordsFilter(context.asset_key, storage_ids=list(latest.values()))
    told = [one.asset_materialization for one in context.instance.fetch_materializations(wanted, len(latest)).records]
    failed = root.failed(context.asset_key.to_user_string())
    return {
        str(event.partition): kept_version_tags(event.tags or {})
        for event in told
        if event is not None and event.partition not in failed
    }


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
