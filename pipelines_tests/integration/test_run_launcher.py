"""A run whose process is gone is found out by the daemon's run monitoring, also where its code server died with it."""

import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.events import EngineEventData
from dagster._core.launcher.base import WorkerStatus
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.test_utils import create_run_for_test, instance_for_test

from orchestration.run_launcher import LocalRunLauncher, is_alive

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def instance():
    launcher = {"run_launcher": {"module": "orchestration.run_launcher", "class": "LocalRunLauncher"}}
    with instance_for_test(overrides=launcher) as made:
        assert isinstance(made.run_launcher, LocalRunLauncher)
        yield made


@pytest.fixture
def child():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def started(instance: dg.DagsterInstance, pid: int, host: str = "localhost") -> dg.DagsterRun:
    run = create_run_for_test(
        instance, status=DagsterRunStatus.STARTED, tags={".dagster/grpc_info": f'{{"host": "{host}"}}'}
    )
    instance.report_engine_event("Started process for run", run, EngineEventData.in_process(pid))
    return run


def status(instance, run) -> WorkerStatus:
    return instance.run_launcher.check_run_worker_health(run).status


def test_a_run_is_alive_as_long_as_its_process(instance, child):
    run = started(instance, child.pid)
    assert status(instance, run) == WorkerStatus.RUNNING
    child.kill()
    child.wait()
    assert status(instance, run) == WorkerStatus.FAILED
    assert status(instance, started(instance, child.pid, host="elsewhere")) == WorkerStatus.RUNNING


def test_a_killed_child_nobody_waited_for_is_dead(child):
    now = time.time()
    assert is_alive(child.pid, now)
    child.kill()
    until = time.monotonic() + 120
    while is_alive(child.pid, now) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_alive(child.pid, now)


def test_another_process_of_the_same_number_is_another(child):
    assert not is_alive(child.pid, time.time() - 7200)
    assert is_alive(child.pid, time.time() - 1800), "the clock was set"


def test_a_run_that_has_not_said_its_process_yet_counts_as_alive(instance):
    run = create_run_for_test(instance, status=DagsterRunStatus.STARTED)
    assert status(instance, run) == WorkerStatus.RUNNING


@pytest.mark.parametrize("file", ["dagster.yaml", "dagster.postgres.yaml"])
def test_the_platform_uses_it(file):
    chosen = yaml.safe_load((CHECKOUT / file).read_text())
    assert chosen["run_launcher"] == {"module": "orchestration.run_launcher", "class": "LocalRunLauncher"}
    assert chosen["run_monitoring"]["enabled"]
