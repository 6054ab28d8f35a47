"""Runs as processes of this machine, which the daemon's run monitoring can tell to be dead.

Dagster's own launcher leaves that to the code server that started them. Where both die together (power cut, out of
memory, `kill`), the run would stay *started* for ever and keep its pool: no other run of the GPU would ever begin.

A number alone does not name a process: a container that is started again gives out the same small ones. So a run says
with its number what no later process of that number has, and the launcher looks for that.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.in_process import InProcessExecutor
from dagster._core.launcher import DefaultRunLauncher
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

_HERE = ("localhost", "127.0.0.1")
_PROCESS = "process"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Of runs that said their number only. A process is a little older than the event it says its number in. But Linux says
# when it began in seconds since the machine did, which moves with every step of the clock: one that is set right after
# a start, or on a laptop that slept, must not make living runs look like younger processes. That a dead run's number is
# taken within the hour is rarer, and the run then only counts as alive for as long as that process is.
_SLACK_S = 3600.0


class LocalRunLauncher(DefaultRunLauncher):
    """Dagster's own launcher, with a look at whether a run's process is alive."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Makes the daemon's run monitoring ask."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the process that said it works on ``run`` is there; what runs elsewhere counts as alive."""
        host = json.loads(run.tags.get(GRPC_INFO_TAG, "{}")).get("host", "")
        started = self._instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
        said = [
            (event.dagster_event.event_specific_data.metadata, event.timestamp)
            for event in started
            if event.dagster_event is not None and "pid" in event.dagster_event.event_specific_data.metadata
        ]
        if not said or (host and host not in _HERE):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        metadata, said_at = next((one for one in said if _PROCESS in one[0]), said[-1])
        pid = int(str(metadata["pid"].value))
        if identity_of(pid) == metadata[_PROCESS].value if _PROCESS in metadata else is_alive(pid, said_at):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"its process {pid} is gone")


class KnownProcessExecutor(InProcessExecutor):
    """Dagster's own executor of runs in one process, which says first which process that is."""

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """Says so, then executes the steps."""
        pid = os.getpid()
        yield DagsterEvent.engine_event(
            plan_context,
            f"This run is process {pid}",
            event_specific_data=EngineEventData({"pid": str(pid), _PROCESS: str(identity_of(pid))}),
        )
        yield from super().execute(plan_context, execution_plan)


@dg.executor(name="in_known_process")
def in_known_process(context: dg.InitExecutorContext) -> KnownProcessExecutor:
    """The executor of all runs: one process a run."""
    return KnownProcessExecutor(retries=RetryMode.ENABLED)


def identity_of(pid: int) -> str | None:
    """What tells the process ``pid`` from those that have its number before or after it; None where none runs.

    On Linux that is the machine's start and the tick at which the process began: no step of the clock changes them.
    """
    if not _BOOT_ID.exists():
        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else f"{pid} {process.create_time()}"
        except psutil.Error:
            return None
    try:
        state, began = _state_and_tick(pid)
    except OSError:
        return None
    return None if state == "Z" else f"{pid} {began} {_BOOT_ID.read_text().strip()}"


def is_alive(pid: int, since: float) -> bool:
    """Whether the process ``pid`` runs that was there at ``since``, seconds since 1970; not one that took its number.

    Linux says when a process began; elsewhere its number alone must do.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # It is somebody's, and runs.
        pass
    try:
        state, tick = _state_and_tick(pid)
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    except OSError:
        return not Path("/proc/stat").exists()
    began = int(booted.split()[1]) + tick / os.sysconf("SC_CLK_TCK")
    return state != "Z" and began <= since + _SLACK_S


def _state_and_tick(pid: int) -> tuple[str, int]:
    """A process's state and when it began, in ticks since the machine did."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[19])
