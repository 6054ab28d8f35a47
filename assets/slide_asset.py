"""Many partitions in one run, each with its own event, its own checks, its own failure and its own retry.

A run costs seconds before its first line, so per-slide assets take hundreds of slides a run. Dagster has no
per-partition result for such a run; the pattern here is to yield one `AssetMaterialization` for each partition that
worked, write a failure file for each that did not, and fail the step at the end naming them. The step yields no result
of its own: that would mark every partition as made. A backfill re-run from failure then asks for exactly the failed.

A run of one partition has a result of its own, and yields it: assets after it in the same run then run too.
"""

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import dagster as dg

from assets.connections import keep_connections, sqlite_held
from assets.metadata import error_text, kept_version_tags, record_metadata, version_tags
from assets.partitions import BY_INFER, BY_INFER_NUCLEI, REQUESTED_BY
from dermatome.errors import StorageFailed
from dermatome.pipeline.batch import InFlight, run_batch
from dermatome.pipeline.cached_stage import Stage, cached_stage
from dermatome.settings import deciding_settings
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import Check, StageRecord, clear_failure, write_failure
from resources import SettingsResource
from resources.settings import DECIDED_BY, decided_names

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.MaterializeResult

# More would make the failure's metadata unreadable; the failures table of the store holds all.
_FAILURES_SHOWN = 100
# Each line in the event log costs about as much as a materialization.
_LOG_EVERY_S = 5.0


def slide_asset(
    *,
    partitions_def: dg.DynamicPartitionsDefinition,
    partitions_a_run: int,
    group_name: str,
    kind: str,
    code_version: str,
    decided_by: Sequence[str] = (),
    deps: Sequence[Any] = (),
    pool: str | None = None,
    checks: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Iterator[Event]]], dg.AssetsDefinition]:
    """Declares an asset whose body is one call of :func:`materialize_slides`, named and described by that function.

    It is a multi-asset of one, because only those may leave out their result and those of their checks.

    Args:
        partitions_def: what one unit of work is.
        partitions_a_run: how many of them a backfill puts into a run. Different for each per-slide asset: assets of one
            backfill policy share runs, and there one bad slide would stop the next asset for all.
        group_name: in the UI's graph.
        kind: in the UI's graph.
        code_version: to be raised by hand when the code gives other numbers.
        decided_by: the settings that decide its results; see :func:`dermatome.settings.deciding_settings`.
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
                    metadata={DECIDED_BY: ", ".join(decided_by)},
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


def materialize_slides(
    context: dg.AssetExecutionContext,
    settings: SettingsResource,
    stage: Stage[Any, Any],
    *,
    check_now: Callable[[str], Sequence[Check]] = lambda key: (),
) -> Iterator[Event]:
    """Materializes every partition of the run and yields its events as it finishes.

    A partition whose record carries the fingerprint that its inputs, settings and code have now is reused: its event is
    reported again and nothing is computed.

    Args:
        context: of the asset.
        settings: of the run.
        stage: the asset's stage.
        check_now: checks of a partition whose outcome can change while its results do not.

    Raises:
        dg.Failure: after all partitions were tried, if any failed.
    """
    asset, root = stage.asset, stage.root
    code_version = context.assets_def.code_versions_by_key[context.asset_key] or "1"
    decided_by = context.assets_def.metadata_by_key[context.asset_key]
    deciding = deciding_settings(settings.value, decided_names(decided_by), root)
    keep_connections(context.instance)
    keys = list(context.partition_keys)
    pointers = _event_pointers(context, keys)
    fillers = _gap_fillers(context, root, keys)
    batch = settings.value.batch
    if stage.at_once is not None:
        batch = batch.changed(writers=stage.at_once, readers=1, waiting=2 * stage.at_once)
    work = cached_stage(stage, deciding, code_version, context.run.run_id, keep=fillers.keys())
    in_flight = InFlight(root, asset, context.run.run_id, lambda run_id: _has_ended(context.instance, run_id))
    failed: dict[str, str] = {}
    reused, logged = 0, time.monotonic()
    # Closed at once if the run is cancelled, wherever that strikes.
    with sqlite_held(context.instance, context.run.run_id), closing(run_batch(work, keys, batch, in_flight)) as results:
        for done, finished in enumerate(results, start=1):
            key, made, error = finished.key, finished.result, finished.error
            metadata: dict[str, dg.MetadataValue] = {}
            checks: list[Check] = []
            if made is not None:
                try:
                    clear_failure(root.failure(asset, key))
                    metadata = record_metadata(made.record, root.folder(asset, key), reused=made.reused)
                    checks = [*made.record.checks, *check_now(key)]
                except Exception as late:  # of this slide alone: the others go on
                    error = late
            if error is not None or made is None:
                assert error is not None
                failed[key] = error_text(error)
                context.log.error(f"{asset} {key}: {failed[key]}")
                _note_failure(context, root, asset, key, error)
                continue
            reused += made.reused
            if time.monotonic() - logged >= _LOG_EVERY_S or done == len(keys):
                logged = time.monotonic()
                context.log.info(f"{asset}: {done} of {len(keys)} done, {reused} of them reused, {len(failed)} failed.")
            tags = fillers.get(key) or version_tags(made.record, pointers[key])
            yield from _events(context, made.record, metadata, tags, checks, alone=len(keys) == 1)
    if failed:
        raise dg.Failure(
            f"{len(failed)} of {len(keys)} failed; the others are materialized. First: {next(iter(failed.items()))}. "
            "Fix the cause, then re-execute the backfill from failure.",
            allow_retries=False,
            metadata={"failed": dg.MetadataValue.json(dict(list(failed.items())[:_FAILURES_SHOWN]))},
        )


def _has_ended(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is None or run.is_finished


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
            error=error_text(error),
            kind=type(error).__name__,
            run_id=context.run.run_id,
        )
    except StorageFailed as unwritten:
        # A full disk, most likely: the event log still says what failed, and the other partitions are still tried.
        context.log.error(f"The failure of {key} could not be noted: {unwritten}")


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
