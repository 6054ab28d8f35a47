"""Runs as processes of this machine, which the daemon's run monitoring can tell to be dead.

Dagster's own launcher leaves that to the code server that started them. Where both die together (power cut, out of
memory, `kill`), the run would stay *started* for ever and keep its pool: no other run of the GPU would ever begin.
"""

import json
import os
from pathlib import Path

import dagster as dg
from dagster._core.launcher import DefaultRunLauncher
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

_HERE = ("localhost", "127.0.0.1")
# A process is a little older than the event it says its number in. But Linux says when it began in seconds since the
# machine did, which moves with every step of the clock: one that is set right after a start, or on a laptop that slept,
# must not make living runs look like younger processes. That a dead run's number is taken within the hour is rarer, and
# the run then only counts as alive for as long as that process is.
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
        pids = [
            (int(str(event.dagster_event.event_specific_data.metadata["pid"].value)), event.timestamp)
            for event in started
            if event.dagster_event is not None and "pid" in event.dagster_event.event_specific_data.metadata
        ]
        if not pids or (host and host not in _HERE):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        pid, said_at = pids[-1]
        if is_alive(pid, said_at):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"its process {pid} is gone")


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
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    except OSError:
        return not Path("/proc/stat").exists()
    began = int(booted.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return fields[0] != "Z" and began <= since + _SLACK_S
