"""Everything that uses modules outside of Dagster's public API; no other file of the platform does.

Dagster 1.13 has no public way to do these, so the tests of this file check every update of Dagster:

- run monitoring that notices the death of a run's process also after its code server died (power cut, out of memory).
  Dagster's own launcher leaves such a run *started* for ever, and it keeps its pool, so no other GPU run would begin;
- a backfill requested by an op with different partitions for each asset, and the partitions of open backfills;
- the staleness that the UI shows;
- runs and sensors that, after the clock was set back, wait until the earlier time of day is reached again;
- the materialization that a check of one partition belongs to: without it Dagster counts the check as missing.
"""

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.events import DagsterEvent
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.in_process import InProcessExecutor
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.loader import LoadingContextForTest
from dagster._core.scheduler.instigation import InstigatorType, SensorInstigatorData
from dagster._core.utils import make_new_backfill_id
from dagster._time import get_current_timestamp

from dermatome.storage.files import locked


class LocalRunLauncher(dg.DefaultRunLauncher):
    """Dagster's own launcher, which also knows whether the process of a run on this machine is alive."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Makes the daemon's run monitoring call :meth:`check_run_worker_health`."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """A run whose lock is free is dead; one without a lock file has not begun its steps, or runs elsewhere."""
        try:
            with _lock_file(self._instance, run.run_id).open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (FileNotFoundError, BlockingIOError):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, "Its process ended without reporting an error.")


class LockingExecutor(InProcessExecutor):
    """Dagster's own executor of runs in one process; it holds a lock on a file as long as the process lives.

    It uses a lock because the id of a process is given to another process after a container restart.
    """

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """Executes the steps under the lock."""
        with locked(_lock_file(plan_context.instance, plan_context.run_id)):
            yield from super().execute(plan_context, execution_plan)


@dg.executor(name="in_process_with_lock")
def in_process_with_lock(context: dg.InitExecutorContext) -> LockingExecutor:
    """The executor of all runs: one process for each run, so that models and imports are loaded once."""
    return LockingExecutor(retries=RetryMode.ENABLED)


def _lock_file(instance: dg.DagsterInstance, run_id: str) -> Path:
    return Path(instance.storage_directory()) / "run_locks" / run_id


def subset_of(
    keys_by_asset: Mapping[str, Sequence[str]], partitions: dg.DynamicPartitionsDefinition
) -> AssetGraphSubset:
    """The partitions of each asset that a backfill is to materialize, as Dagster's type."""
    subsets = {
        dg.AssetKey(asset): partitions.subset_with_partition_keys(keys) for asset, keys in keys_by_asset.items() if keys
    }
    return AssetGraphSubset(subsets, set())  # type: ignore[call-arg]  # a decorator of Dagster hides its fields


def request_backfill(instance: dg.DagsterInstance, subset: AssetGraphSubset, title: str, tags: dict[str, str]) -> str:
    """Requests a backfill from the daemon and returns its id."""
    backfill_id = make_new_backfill_id()
    instance.add_backfill(
        PartitionBackfill.from_asset_graph_subset(
            backfill_id=backfill_id,
            backfill_timestamp=get_current_timestamp(),
            tags=tags,
            dynamic_partitions_store=instance,
            asset_graph_subset=subset,
            title=title,
            description=None,
            run_config=None,
        )
    )
    return backfill_id


def keys_in_progress(instance: dg.DagsterInstance) -> dict[str, set[str]]:
    """For each asset, the partitions that open backfills will materialize."""
    in_progress: dict[str, set[str]] = {}
    for backfill in instance.get_backfills(filters=BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED])):
        if backfill.asset_backfill_data is not None:
            for key, keys in backfill.asset_backfill_data.target_subset.partitions_subsets_by_asset_key.items():
                in_progress.setdefault(key.to_user_string(), set()).update(keys.get_partition_keys())
    return in_progress


def is_in_progress(instance: dg.DagsterInstance, tags: Mapping[str, str]) -> bool:
    """Whether a backfill with these tags is open."""
    statuses = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]
    return bool(instance.get_backfills(filters=BulkActionsFilter(statuses=statuses, tags=tags), limit=1))


def latest_materialization(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, partition: str | None = None
) -> AssetCheckEvaluationTargetMaterializationData | None:
    """The latest materialization of an asset or partition, as the target of a check evaluation; None if missing."""
    partitions = None if partition is None else [partition]
    latest = instance.fetch_materializations(dg.AssetRecordsFilter(asset_key, asset_partitions=partitions), limit=1)
    for record in latest.records:
        return AssetCheckEvaluationTargetMaterializationData(
            storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
        )
    return None


def stale_status(instance: dg.DagsterInstance, defs: dg.Definitions, asset: str, key: str | None = None) -> str:
    """The status that the UI shows for an asset, or one of its partitions: ``FRESH``, ``STALE`` or ``MISSING``."""
    graph = defs.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return str(resolver.get_status(dg.AssetKey(asset), key).value)


_FUTURE_S = 60.0
"""Allowed difference between the clocks of the machines of one platform, s."""


def release_from_future(instance: dg.DagsterInstance) -> list[str]:
    """Releases runs and sensors that wait for times that lie in the future since the clock was set back.

    Dagster's time limits and sensor intervals compare times of day. After the clock was set back by a day (or corrected
    after a start with a wrong time), a run whose process died while it started would hold its pool for that day, and no
    sensor would be evaluated. Such runs are ended, and started again like other dead runs; such sensors are evaluated
    at once, and keep their cursors.

    Returns:
        A sentence for each run and sensor that was released.
    """
    latest = get_current_timestamp() + _FUTURE_S
    released = []
    new, canceling = dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.CANCELING
    statuses = [new, dg.DagsterRunStatus.STARTING, canceling]
    for record in instance.get_run_records(dg.RunsFilter(statuses=statuses)):
        run, sentence = record.dagster_run, "It was starting or being terminated when the clock was set back."
        since = record.create_timestamp if run.status == new else record.update_timestamp
        if since.timestamp() > latest:
            if run.status == canceling:
                instance.report_run_canceled(run, sentence)
            else:
                instance.report_run_failed(run, sentence)
            released.append(f"Run {run.run_id} was ended. {sentence}")
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        data = state.instigator_data
        if isinstance(data, SensorInstigatorData):
            ticked = max(data.last_tick_timestamp or 0, data.last_tick_start_timestamp or 0)
            if ticked > latest:
                never = data._replace(last_tick_timestamp=None, last_tick_start_timestamp=None)
                instance.update_instigator_state(state.with_data(never))
                released.append(f"The sensor {state.instigator_name} is evaluated again: the clock was set back.")
    return released
