"""Runs on a Ray cluster of 1, 2 and 4 workers on this machine, through the run launcher; one worker is killed."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dermatome.slides.source import inbox_sources
from dermatome.storage.layout import DataRoot
from pipelines_tests.benchmarks.dagster_cost import fill_root
from pipelines_tests.benchmarks.rows import Row, not_measured, reaches, reported
from pipelines_tests.e2e.platform import Platform

WORKERS = (1, 2, 4)
RUNS = 8
SIDE_PX = 3000
MASKS = "epidermis_masks"
_AT_ONCE = 2 * max(WORKERS)
"""Number of runs that Dagster hands to the cluster; Ray holds those that wait for a worker."""


@dataclass(frozen=True)
class _Finished:
    """What became of the runs.

    Attributes:
        seconds: from the first launch to the last end.
        starting: the least seconds from the launch of a run to its first step: of one that did not wait for a worker.
        runs: how many were started, retries included.
        masks: how many slides have one.
    """

    seconds: float
    starting: float
    runs: int
    masks: int


def ray_workers(toy: bool) -> Iterator[Row]:
    """The same runs of one mask each by Dagster's own launcher, one at a time, and by Ray."""
    if toy or not importlib.util.find_spec("dagster_ray"):
        yield not_measured("runs on Ray workers", "toy size" if toy else "dermatome[ray] is not installed")
        return
    own = _course(0)
    what = f"{RUNS} runs, each of one mask of {SIDE_PX} px"
    for workers in WORKERS:
        found = _course(workers)
        yield reported(
            f"{what}, {workers} Ray workers of one core", found.seconds, "s",
            against="Dagster's own launcher, one run at a time", reference=own.seconds,
            note=f"from launch to first step {found.starting:.1f} s, without Ray {own.starting:.1f} s",
        )  # fmt: skip
    found = _course(max(WORKERS), kill=True)
    yield reaches(
        f"{what}, {max(WORKERS)} Ray workers, one killed as it computes: masks", found.masks, "masks", at_least=RUNS,
        note=f"{found.runs} runs, {found.seconds:.0f} s",
    )  # fmt: skip


def _course(workers: int, *, kill: bool = False) -> _Finished:
    """Makes the masks in a fresh data root by so many Ray workers, or with 0 by Dagster's own launcher."""
    with tempfile.TemporaryDirectory(prefix="dermatome-ray-") as made, _cluster(workers) as cluster:
        folder = Path(made)
        root = DataRoot(folder / "data")
        fill_root(root, RUNS, SIDE_PX)
        changed = {"DAGSTER_HOME": str(_home(folder / "home", cluster)), "OMP_NUM_THREADS": "1"}
        with Platform(root.path, log=folder / "platform.log", changed=changed) as platform:
            return _masks(platform, root, cluster if kill else None)


@contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    """A Ray cluster whose head computes nothing; None without workers."""
    if not workers:
        yield None
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": True})
    try:
        for _ in range(workers):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def _home(folder: Path, cluster: Any) -> Path:
    """A folder with the project's `dagster.yaml`, changed for the cluster or for one run at a time."""
    import yaml

    settings = yaml.safe_load(Path("dagster.yaml").read_text())
    runs = 1
    if cluster is not None:
        runs = _AT_ONCE
        names = ["DAGSTER_HOME", "DERMATOME_DATA", "DERMATOME_DAGSTER_STORAGE", "PYTHONPATH", "OMP_NUM_THREADS"]
        ray = {"address": f"http://{cluster.webui_url}", "num_cpus": 1, "env_vars": names}
        settings["run_launcher"] = {"module": "dagster_ray", "class": "RayRunLauncher", "config": {"ray": ray}}
    settings["concurrency"]["pools"]["default_limit"] = runs
    settings["concurrency"]["runs"]["max_concurrent_runs"] = runs
    folder.mkdir()
    (folder / "dagster.yaml").write_text(yaml.safe_dump(settings))
    return folder


def _masks(platform: Platform, root: DataRoot, killed: Any) -> _Finished:
    """Requests the masks, a run for each; with a cluster as ``killed`` one of its workers dies in the meantime."""
    from orchestration.requests import register_slides

    instance = platform.instance()
    sources = list(inbox_sources(root.inbox).values())
    slides = [source.slide for source in sources]
    register_slides(instance, root, sources)
    platform.finished(platform.backfill(["slide_images"], slides))
    backfills = [platform.backfill([MASKS], [slide]) for slide in slides]
    if killed is not None:
        platform.wait_for(lambda: _kill_busy(killed), "a worker with a run", 300)
    for backfill in backfills:
        platform.finished(backfill, timeout_s=900)
    if killed is not None:
        platform.wait_for(lambda: len(root.partitions(MASKS)) == len(slides), "the retry of the killed run", 300)
    runs = _runs(instance, backfills)
    launched = [times["PIPELINE_STARTING"] for times in runs]
    ended = [max(times.values()) for times in runs]
    starting = min(times["STEP_START"] - times["PIPELINE_STARTING"] for times in runs if "STEP_START" in times)
    return _Finished(max(ended) - min(launched), starting, len(runs), len(root.partitions(MASKS)))


def _kill_busy(cluster: Any) -> bool:
    """Kills all processes of a worker on which a run executes, as a power cut does; False if there is none yet."""
    import psutil

    for node in cluster.worker_nodes:
        (raylet,) = node.all_processes["raylet"]
        tree = [psutil.Process(raylet.process.pid), *psutil.Process(raylet.process.pid).children(recursive=True)]
        if any("execute_run" in process.cmdline() for process in tree):
            for process in tree:
                process.kill()
            cluster.remove_node(node, allow_graceful=False)
            return True
    return False


def _runs(instance: Any, backfills: Sequence[str]) -> list[dict[str, float]]:
    """When each kind of event of each run first happened, in seconds of the clock."""
    found = []
    for record in instance.get_run_records():
        run = record.dagster_run
        if run.tags.get("dagster/backfill") in backfills:
            times: dict[str, float] = {}
            for entry in instance.all_logs(run.run_id):
                if entry.dagster_event:
                    times.setdefault(entry.dagster_event.event_type_value, entry.timestamp)
            found.append(times)
    return found
