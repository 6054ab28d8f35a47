"""A run whose process is gone is found out by the daemon's run monitoring, also where its code server died with it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.events import EngineEventData
from dagster._core.execution.api import execute_run
from dagster._core.launcher.base import WorkerStatus
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.test_utils import create_run_for_test, instance_for_test

from orchestration import run_launcher
from orchestration.definitions import build_defs
from orchestration.run_launcher import LocalRunLauncher, identity_of, in_known_process, is_alive

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


def test_a_run_says_which_process_it_is_and_a_later_one_of_its_number_is_another(instance, child, monkeypatch):
    @dg.op
    def nothing() -> None: ...

    @dg.job(executor_def=in_known_process)
    def job() -> None:
        nothing()

    run = instance.create_run_for_job(job)
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: child.pid)
        execute_run(InMemoryJob(job), run, instance)
    assert status(instance, run) == WorkerStatus.RUNNING
    monkeypatch.setattr(run_launcher, "_state_and_tick", lambda pid: ("S", 12345))
    assert status(instance, run) == WorkerStatus.FAILED, "a process that began a moment later has its number"


@pytest.mark.parametrize("linux", [True, False])
def test_a_process_keeps_its_identity_until_it_ends(child, monkeypatch, tmp_path, linux):
    if not linux:
        monkeypatch.setattr(run_launcher, "_BOOT_ID", tmp_path / "none")
    known = identity_of(child.pid)
    assert known
    assert identity_of(child.pid) == known
    assert identity_of(os.getpid()) != known
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert identity_of(child.pid) is None, "killed, and nobody waited for it"
    child.wait()
    assert identity_of(child.pid) is None


def test_a_run_that_has_not_said_its_process_yet_counts_as_alive(instance):
    run = create_run_for_test(instance, status=DagsterRunStatus.STARTED)
    assert status(instance, run) == WorkerStatus.RUNNING


@pytest.mark.parametrize("file", ["dagster.yaml", "dagster.postgres.yaml"])
def test_the_platform_uses_it(file):
    chosen = yaml.safe_load((CHECKOUT / file).read_text())
    assert chosen["run_launcher"] == {"module": "orchestration.run_launcher", "class": "LocalRunLauncher"}
    assert chosen["run_monitoring"]["enabled"]


def test_its_runs_say_which_process_they_are(tmp_path):
    assert build_defs(tmp_path).executor is in_known_process
