"""A run whose process is gone is found out by the daemon's run monitoring, also where its code server died with it."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.launcher.base import WorkerStatus
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    SensorInstigatorData,
)
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.test_utils import create_run_for_test, freeze_time, instance_for_test
from dagster._serdes import serialize_value
from dagster._time import get_current_datetime

from orchestration.definitions import build_defs
from resources.dagster_private import LocalRunLauncher, in_process_with_lock, release_from_future

CHECKOUT = Path(__file__).resolve().parents[2]
LAUNCHER = {"module": "resources.dagster_private", "class": "LocalRunLauncher"}
# Executes a run as Dagster's worker process does, and waits in its only step.
_RUN = """
import sys
import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dagster._core.instance import InstanceRef
from dagster._serdes import deserialize_value
from resources.dagster_private import in_process_with_lock

@dg.op
def wait():
    print("in the step", flush=True)
    input()

@dg.job(executor_def=in_process_with_lock)
def job():
    wait()

with dg.DagsterInstance.from_ref(deserialize_value(sys.argv[1], InstanceRef)) as instance:
    run = instance.create_run_for_job(job)
    print(run.run_id, flush=True)
    execute_run(InMemoryJob(job), run, instance)
"""


@pytest.fixture
def instance():
    with instance_for_test(overrides={"run_launcher": LAUNCHER}) as made:
        assert isinstance(made.run_launcher, LocalRunLauncher)
        yield made


def status(instance, run_id) -> WorkerStatus:
    return instance.run_launcher.check_run_worker_health(instance.get_run_by_id(run_id)).status


@pytest.mark.parametrize("killed", [True, False])
def test_a_run_counts_as_alive_as_long_as_its_process(instance, killed):
    command = [sys.executable, "-c", _RUN, serialize_value(instance.get_ref())]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    ) as process:
        run_id = process.stdout.readline().strip()
        assert process.stdout.readline() == "in the step\n"
        assert instance.get_run_by_id(run_id).status == DagsterRunStatus.STARTED
        for _ in range(2):
            assert status(instance, run_id) == WorkerStatus.RUNNING
        if killed:
            process.kill()
            process.wait()
            for _ in range(2):
                assert status(instance, run_id) == WorkerStatus.FAILED
        else:
            process.communicate("\n")
            assert instance.get_run_by_id(run_id).status == DagsterRunStatus.SUCCESS
            assert not any((Path(instance.storage_directory()) / "run_locks").iterdir())


def test_a_run_that_is_not_in_its_steps_yet_or_runs_elsewhere_counts_as_alive(instance):
    run = create_run_for_test(instance, status=DagsterRunStatus.STARTED)
    assert status(instance, run.run_id) == WorkerStatus.RUNNING


EVENTS = {
    DagsterRunStatus.STARTING: DagsterEventType.RUN_STARTING,
    DagsterRunStatus.STARTED: DagsterEventType.RUN_START,
    DagsterRunStatus.CANCELING: DagsterEventType.RUN_CANCELING,
}


@pytest.mark.parametrize(
    ("before", "afterwards"),
    [
        (DagsterRunStatus.NOT_STARTED, DagsterRunStatus.FAILURE),
        (DagsterRunStatus.STARTING, DagsterRunStatus.FAILURE),
        (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED),
        (DagsterRunStatus.STARTED, DagsterRunStatus.STARTED),
    ],
)
def test_a_run_that_was_starting_when_the_clock_was_set_back_is_ended(instance, before, afterwards):
    with freeze_time(get_current_datetime() + timedelta(days=1)):
        run = create_run_for_test(instance)
        if before in EVENTS:
            instance.report_dagster_event(DagsterEvent(EVENTS[before].value, "a job"), run.run_id)
    now = create_run_for_test(instance, status=before)
    released = release_from_future(instance)
    assert len(released) == (before != afterwards)
    assert all(run.run_id in sentence for sentence in released)
    assert instance.get_run_by_id(run.run_id).status == afterwards
    assert instance.get_run_by_id(now.run_id).status == before
    assert release_from_future(instance) == []


def test_a_sensor_is_evaluated_again_after_the_clock_was_set_back(instance):
    now = get_current_datetime().timestamp()
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("dermatome"), "dermatome")
    for name, tick in (("ahead", now + 86400), ("in time", now - 10)):
        data = SensorInstigatorData(tick, None, 30, f"cursor of {name}", tick)
        origin = RemoteInstigatorOrigin(repository, name)
        instance.add_instigator_state(InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, data))
    [sentence] = release_from_future(instance)
    assert "ahead" in sentence
    kept = {state.instigator_name: state.instigator_data for state in instance.all_instigator_state()}
    assert (kept["ahead"].last_tick_timestamp, kept["ahead"].last_tick_start_timestamp) == (None, None)
    assert kept["ahead"].cursor == "cursor of ahead"
    assert kept["in time"].last_tick_timestamp == now - 10
    assert release_from_future(instance) == []


@pytest.mark.parametrize("file", ["dagster.yaml", "dagster.postgres.yaml"])
def test_the_platform_uses_both_halves(file, tmp_path):
    chosen = yaml.safe_load((CHECKOUT / file).read_text())
    assert chosen["run_launcher"] == LAUNCHER
    assert chosen["run_monitoring"]["enabled"]
    assert build_defs(tmp_path).executor is in_process_with_lock


def test_no_other_module_of_the_platform_uses_private_modules_of_dagster():
    files = [
        file
        for folder in ("orchestration", "assets", "resources", "dermatome")
        for file in (CHECKOUT / folder).rglob("*.py")
    ]
    private = {
        file.name for file in files if "from dagster._" in (text := file.read_text()) or "import dagster._" in text
    }
    assert private == {"dagster_private.py"}
