"""Assets of slides: many partitions in one run, each with its own event, checks, failure and retry.

A run costs seconds before its first line, so an asset of slides processes hundreds of them in one run. Dagster has no
result for a single partition of such a run. So the step yields an `AssetMaterialization` for each partition that
succeeds, writes a failure file for each that fails, and fails at the end, listing these. It yields no Output: that
would mark every partition as materialized. A backfill re-executed from failure then requests exactly the failed ones.

A run of one partition yields a result, so that the assets downstream in the same run are materialized too.
"""

import inspect
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from sqlalchemy import event, exc
from sqlalchemy.pool import QueuePool

from assets.inputs_now import inputs_now
from assets.materialize import (
    check_fields,
    code_reference,
    code_version,
    deciding,
    error_text,
    note_failure,
    record_metadata,
)
from assets.partitions import BY_INFER, BY_INFER_NUCLEI, REQUESTED_BY, STALE
from assets.sources import EXTERNAL, EXTERNAL_VERSION
from dermatome.pipeline.batch import InFlight, run_batch
from dermatome.pipeline.cached_stage import AnyStage, cached_stage
from dermatome.pipeline.staleness import stale_partitions
from dermatome.settings import Settings, deciding_settings
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import Check, StageRecord, clear_failure
from resources import PathsResource, SettingsResource
from resources.dagster_private import latest_materialization
from resources.settings import DECIDED_BY, decided_names, versioned_by_settings

if TYPE_CHECKING:
    from dermatome.hpa.client import HpaClient

Event = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation | dg.MaterializeResult

FindMetadata = Callable[[DataRoot, Sequence[str]], Callable[[str], Mapping[str, Any]]]

# More would make the failure's metadata unreadable; the table of failures in the store has all of them.
_FAILURES_SHOWN = 100
# Each line in the event log costs about as much as a materialization.
_LOG_EVERY_S = 5.0
_NOT_DRAWN = "Not drawn: `figures` is false in the settings. The atlas draws the slide when it is opened."
_UP_TO_DATE = "up_to_date"
_NOT_BY_PERSON = (REQUESTED_BY, "dagster/sensor_name", "dagster/schedule_name")
_VERSION_TAGS = (
    "dagster/code_version",
    "dagster/data_version",
    "dagster/input_data_version/",
    "dagster/input_event_pointer/",
)


class Run:
    """The run of an asset: its data root, settings and partition keys."""

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self.context = context
        self.root: DataRoot = context.resources.paths.data_root
        self.settings: Settings = context.resources.settings.value
        self.keys: list[str] = list(context.partition_keys)

    @property
    def client(self) -> "HpaClient":
        """The client of the Human Protein Atlas, for assets of the pool ``hpa``."""
        client: HpaClient = self.context.resources.hpa.client
        return client


def slide_asset(
    partitions_def: dg.DynamicPartitionsDefinition,
    group_name: str,
    *,
    kind: str,
    code_version: str,
    partitions_a_run: int,
    decided_by: Sequence[str] = (),
    deps: Sequence[Any] = (),
    pool: str | None = None,
    checks: Mapping[str, str] | None = None,
    freshness_policy: dg.FreshnessPolicy | None = None,
    check_now: Callable[[DataRoot, str], Check] | None = None,
    more: FindMetadata | None = None,
    summaries: Callable[[], Sequence[dg.AssetsDefinition]] = tuple,
) -> Callable[[Callable[[Run], AnyStage]], dg.AssetsDefinition]:
    """Declares an asset from the function that returns its stage; the function's name and docstring are the asset's.

    It is a multi-asset of one, as only a multi-asset may omit its result and those of its checks.

    Args:
        partitions_def: partitions of the asset.
        group_name: group in the UI's graph.
        kind: kind in the UI's graph.
        code_version: raise it by hand when the code gives other numbers.
        partitions_a_run: number of partitions in each run of a backfill. It differs between assets: those with the
            same backfill policy share runs, in which one bad slide would stop the next asset for all.
        decided_by: settings that decide the results; see :func:`dermatome.settings.deciding_settings`.
        deps: upstream assets.
        pool: concurrency pool; assets of the pool ``hpa`` are given the client.
        checks: description of each check by name; they are evaluated for each partition.
        freshness_policy: how long the latest materialization counts as fresh.
        check_now: a check of a partition whose outcome can change while its results do not.
        more: finds further metadata of each partition, shown after its outcome.
        summaries: gives the assets made of all partitions; their check `up_to_date` is evaluated at the end. Dagster
            itself does not compare an asset with 100 upstream partitions or more.
    """

    def declare(stage_of: Callable[[Run], AnyStage]) -> dg.AssetsDefinition:
        name = stage_of.__name__

        @dg.multi_asset(
            name=name,
            specs=[
                dg.AssetSpec(
                    name,
                    description=inspect.getdoc(stage_of),
                    partitions_def=partitions_def,
                    deps=deps,
                    skippable=True,
                    code_version=code_version,
                    group_name=group_name,
                    kinds={kind},
                    metadata={DECIDED_BY: ", ".join(decided_by), **code_reference(stage_of)},
                    freshness_policy=freshness_policy,
                )
            ],
            check_specs=[
                dg.AssetCheckSpec(check, asset=name, partitions_def=partitions_def, description=description)
                for check, description in (checks or {}).items()
            ],
            can_subset=True,
            pool=pool,
            backfill_policy=dg.BackfillPolicy.multi_run(partitions_a_run),
            required_resource_keys={"paths", "settings"} | ({"hpa"} if pool == "hpa" else set()),
        )
        def materialize(context: dg.AssetExecutionContext) -> Iterator[Event]:
            run = Run(context)
            metadata_of = more(run.root, run.keys) if more else None
            yield from _materialize_slides(run, stage_of(run), check_now, metadata_of, summaries())

        return materialize

    return declare


def _materialize_slides(
    run: Run,
    stage: AnyStage,
    check_now: Callable[[DataRoot, str], Check] | None,
    metadata_of: Callable[[str], Mapping[str, Any]] | None,
    summaries: Sequence[dg.AssetsDefinition],
) -> Iterator[Event]:
    """Materializes every partition of the run and yields the events of each as it finishes.

    A partition is reused if the fingerprint in its record equals that of its present inputs, settings and code: its
    event is reported again and nothing is computed. It is recomputed if one of its files is missing or has another size
    or, in a run that a person started, another sha256.

    Raises:
        dg.Failure: some partitions failed; all have been tried.
    """
    context, settings, keys = run.context, run.settings, run.keys
    asset, root = stage.asset, stage.root
    keep_connections(context.instance)
    pointers = _event_pointers(context, keys)
    fillers = _gap_fillers(context, root, keys)
    batch = settings.batch
    if stage.at_once is not None:
        batch = batch.changed(writers=stage.at_once, readers=1, waiting=2 * stage.at_once)
    run_id = context.run.run_id
    decided = deciding(context, settings, root)
    by_person = not any(tag in context.run.tags for tag in _NOT_BY_PERSON)
    work = cached_stage(stage, decided, code_version(context), run_id, fillers.keys(), hashes=by_person)
    in_flight = InFlight(root, asset, run_id, lambda other: _has_ended(context.instance, other))
    # A preview that exists replaces this text.
    not_drawn = {"preview": dg.MetadataValue.text(_NOT_DRAWN)} if stage.figures is False else {}
    failed: dict[str, str] = {}
    reused, logged = 0, time.monotonic()
    # `closing` ends the batch at once when the run is cancelled, at whatever line.
    with sqlite_held(context.instance, run_id), closing(run_batch(work, keys, batch, in_flight)) as results:
        for done, finished in enumerate(results, start=1):
            key, made, error = finished.key, finished.result, finished.error
            metadata: dict[str, Any] = {}
            checks: list[Check] = []
            if made is not None:
                try:
                    clear_failure(root.failure(asset, key))
                    folder = root.folder(asset, key)
                    found = {**not_drawn, **(metadata_of(key) if metadata_of else {})}
                    metadata = record_metadata(made.record, folder, reused=made.reused, more=found)
                    checks = [*made.record.checks, *([check_now(root, key)] if check_now else [])]
                except Exception as late:  # fails this slide alone; the others continue
                    error = late
            if error is not None or made is None:
                assert error is not None
                failed[key] = error_text(error)
                context.log.error(f"{asset} {key}: {failed[key]}")
                failure = note_failure(context, root, asset, key, error)
                # A partition's page in the UI shows observations, but not the failure of a run over many partitions.
                yield dg.AssetObservation(context.asset_key, partition=key, description="Failed.", metadata=failure)
                continue
            reused += made.reused
            if time.monotonic() - logged >= _LOG_EVERY_S or done == len(keys):
                logged = time.monotonic()
                context.log.info(f"{asset}: {done} of {len(keys)} done, {reused} of them reused, {len(failed)} failed.")
            tags = (fillers.get(key) if made.reused else None) or version_tags(made.record, pointers[key])
            yield from _events(context, made.record, metadata, tags, checks, alone=len(keys) == 1)
    if len(keys) > 1:  # after a run of one partition, which yields a result, the check runs as a step of its own
        stale = _stale(root, asset, settings, code_version(context), decided)
        yield dg.AssetCheckEvaluation(asset_key=context.asset_key, **_up_to_date(stale))
    for summary in summaries:
        if (target := latest_materialization(context.instance, summary.key)) is not None:
            stale = stale_partitions_of(summary, settings, root)
            yield dg.AssetCheckEvaluation(
                asset_key=summary.key, target_materialization_data=target, **_up_to_date(stale)
            )
    if failed:
        first, reason = next(iter(failed.items()))
        raise dg.Failure(
            f"{first} failed: {reason}"
            if len(keys) == 1
            else f"{len(failed)} of {len(keys)} failed; the others are materialized. The first is {first}: {reason} "
            "Fix the cause, then re-execute the backfill from failure.",
            allow_retries=False,
            metadata={"failed": dg.MetadataValue.json(dict(list(failed.items())[:_FAILURES_SHOWN]))},
        )


def up_to_date_checks(assets: Sequence[dg.AssetsDefinition]) -> dg.AssetChecksDefinition:
    """Declares the check `up_to_date` of each asset, which counts stale partitions; it can be executed alone."""

    @dg.multi_asset_check(
        name=_UP_TO_DATE,
        specs=[
            dg.AssetCheckSpec(
                _UP_TO_DATE,
                asset=asset,
                description="Number of partitions that a run would recompute, as settings, code, inputs or weights "
                "have changed.",
            )
            for asset in assets
        ],
        can_subset=True,
    )
    def up_to_date(
        context: dg.AssetCheckExecutionContext, paths: PathsResource, settings: SettingsResource
    ) -> Iterator[dg.AssetCheckResult]:
        for asset in assets:
            if dg.AssetCheckKey(asset.key, _UP_TO_DATE) in context.selected_asset_check_keys:
                stale = stale_partitions_of(asset, settings.value, paths.data_root)
                yield dg.AssetCheckResult(asset_key=asset.key, **_up_to_date(stale))

    return up_to_date


def stale_partitions_of(asset: dg.AssetsDefinition, settings: Settings, root: DataRoot) -> dict[str, str]:
    """The stale partitions of an asset of slides, each with a description of what changed."""
    (spec,) = asset.specs
    decided = deciding_settings(settings, decided_names(spec.metadata), root)
    version = versioned_by_settings(str(spec.code_version), decided)
    return _stale(root, spec.key.to_user_string(), settings, version, decided)


def _stale(root: DataRoot, asset: str, settings: Settings, version: str, decided: Mapping[str, Any]) -> dict[str, str]:
    return stale_partitions(root, asset, version, decided, inputs_now(asset, root, settings))


def _up_to_date(stale: Mapping[str, str]) -> dict[str, Any]:
    return {
        "check_name": _UP_TO_DATE,
        "passed": not stale,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": _stale_sentence(stale),
        "metadata": {"stale_partitions": len(stale), "which": dict(list(stale.items())[:_FAILURES_SHOWN])},
    }


def _stale_sentence(stale: Mapping[str, str]) -> str:
    if set(stale) == {CHAMPION}:
        return f"It is stale ({stale[CHAMPION]}): materialize it."
    if stale:
        return (
            f"{len(stale)} partitions are stale: run the job infer (for H&E slides infer_nuclei) with `stale: true`, "
            "or materialize them here; those that are current are reused."
        )
    return "Nothing is stale."


def _has_ended(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is None or run.is_finished


def _events(
    context: dg.AssetExecutionContext,
    record: StageRecord,
    metadata: Mapping[str, Any],
    tags: Mapping[str, str],
    checks: Sequence[Check],
    *,
    alone: bool,
) -> Iterator[Event]:
    if alone:
        yield dg.MaterializeResult(
            asset_key=context.asset_key, metadata=metadata, data_version=dg.DataVersion(record.data_version)
        )
    else:
        yield dg.AssetMaterialization(context.asset_key, partition=record.partition, metadata=metadata, tags=tags)
    selected = {key.name for key in context.selected_asset_check_keys}
    chosen = [check for check in checks if check.name in selected]
    # Dagster has stored the event above by now; a check that does not name it would count as missing.
    target = latest_materialization(context.instance, context.asset_key, record.partition) if chosen else None
    for check in chosen:
        yield dg.AssetCheckEvaluation(
            asset_key=context.asset_key,
            partition=record.partition,
            target_materialization_data=target,
            **check_fields(check, dg.AssetCheckSeverity.WARN),
        )


def _gap_fillers(context: dg.AssetExecutionContext, root: DataRoot, keys: list[str]) -> dict[str, Mapping[str, str]]:
    """Partitions that `infer` requested only so that there are fewer runs, with the version tags of their last event.

    They have results, which are kept, but the backfill waits for an event of each. The new event carries the tags of
    the previous one, so that a stale partition stays stale.
    """
    tags = context.run.tags
    if tags.get(REQUESTED_BY) not in (BY_INFER, BY_INFER_NUCLEI) or STALE in tags or len(keys) == 1:
        return {}
    latest = context.instance.get_latest_storage_id_by_partition(
        context.asset_key, dg.DagsterEventType.ASSET_MATERIALIZATION, set(keys)
    )
    if not latest:
        return {}
    latest_records = dg.AssetRecordsFilter(context.asset_key, storage_ids=list(latest.values()))
    events = [
        record.asset_materialization
        for record in context.instance.fetch_materializations(latest_records, len(latest)).records
    ]
    failed = root.failed(context.asset_key.to_user_string())
    return {
        str(event.partition): kept_version_tags(event.tags or {})
        for event in events
        if event is not None and event.partition not in failed
    }


def _event_pointers(context: dg.AssetExecutionContext, keys: list[str]) -> dict[str, dict[str, int | None]]:
    """For each partition, the storage id of the event of each upstream asset that is current for it.

    This is the latest event of the partition with the same key or, if the upstream asset is partitioned differently,
    its latest event of all.
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


def version_tags(record: StageRecord, pointers: Mapping[str, int | None]) -> dict[str, str]:
    """The tags that Dagster adds to the event of an Output; an event yielded for one partition must carry its own.

    ``pointers`` has, for each upstream asset, the storage id of the event that was current when its files were read.
    From that event on, Dagster searches for newer versions of a partitioned input.
    """
    tags = {
        "dagster/code_version": record.code_version,
        "dagster/data_version": record.data_version,
        "dagster/data_version_is_user_provided": "true",
    }
    for name, pointer in pointers.items():
        version = EXTERNAL_VERSION if name in EXTERNAL else record.inputs[name]
        tags[f"dagster/input_data_version/{name}"] = version
        tags[f"dagster/input_event_pointer/{name}"] = "NULL" if pointer is None else str(pointer)
    return tags


def kept_version_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of an event that :func:`version_tags` gave it, for an event that reports the same result again."""
    return {name: value for name, value in tags.items() if name.startswith(_VERSION_TAGS)}


def keep_connections(instance: dg.DagsterInstance) -> None:
    """Keeps a connection to each of the instance's databases open between events, even if the database restarts.

    On Postgres, the events of one slide would otherwise open a dozen connections. Dagster's web server also keeps one,
    but would fail once after a restart of the database. Here a kept connection is tested before use and replaced if
    it is broken; Dagster retries that for some seconds.
    """
    instance.optimize_for_webserver(statement_timeout=0, pool_recycle=3600, max_overflow=20)
    # SQLAlchemy's own `pool_pre_ping` is an argument of the engine, and Dagster does not pass it on.
    if not event.contains(QueuePool, "checkout", _ping):
        event.listen(QueuePool, "checkout", _ping)


@contextmanager
def sqlite_held(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Keeps a connection open to each SQLite file that the run's events are written to.

    Dagster opens and closes a connection for each event. Closing the last one moves the write-ahead log into the file
    and deletes it, which took a third of the time of a slide's events.
    """
    storage = instance.event_log_storage
    with ExitStack() as stack:
        if hasattr(storage, "path_for_shard"):  # only SQLite's
            for shard in (run_id, "index"):
                file = Path(storage.path_for_shard(shard)).absolute().as_uri()
                held = stack.enter_context(closing(sqlite3.connect(f"{file}?mode=rw", uri=True, timeout=60)))
                # The first query opens the write-ahead log; after it the connection blocks nobody.
                held.execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield


def _ping(connection: object, record: object, proxy: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    try:
        cursor.execute("SELECT 1")
    except Exception as error:  # each driver has its own class of errors
        # Makes the pool open another connection.
        raise exc.DisconnectionError(str(error)) from error
    finally:
        cursor.close()
