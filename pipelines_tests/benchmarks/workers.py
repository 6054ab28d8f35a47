"""How the mask stage grows with workers: processes of this machine, and actors on the nodes of a Ray cluster."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dermatome.pipeline.work import Engine
from pipelines_tests.benchmarks.networks import tissue_network
from pipelines_tests.benchmarks.rows import Row, benchmark, not_measured, reported

SIDE_PX = 1024


@benchmark("workers", timeout_s=600, order=36)
def workers(toy: bool) -> Iterator[Row]:
    """Slides a second with one worker that has all cores, with two that share them, and with two Ray nodes."""
    from dermatome.inference.compute import free_cores
    from dermatome.pipeline.cached_stage import Making
    from dermatome.pipeline.local import LocalEngine, share_out
    from dermatome.pipeline.work import WorkerOptions
    from dermatome.storage.layout import DataRoot
    from dermatome.synthetic.skin import toy_slide
    from pipelines_tests.benchmarks.stages import mask_stage, put_slides

    cores = free_cores()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        root = DataRoot(folder / "data")
        side = 128 if toy else SIDE_PX
        keys = put_slides(root, [np.asarray(toy_slide(n, size_px=side).slide.pixels) for n in range(2 if toy else 16)])
        weights = tissue_network(folder, toy)

        def rate(engine: Engine) -> float:
            """Slides a second once the workers are up: the first slides, which wait for that, do not count."""
            shutil.rmtree(folder / "data" / "epidermis_masks", ignore_errors=True)
            work = Making(mask_stage(root, weights, "cpu"), "1", "benchmark")
            times = []
            for done in engine.map(work, keys):
                if done.error is not None:
                    raise done.error
                times.append(time.perf_counter())
            warm = max(1, len(keys) // 4)
            return (len(times) - warm) / (times[-1] - times[warm - 1])

        one = rate(LocalEngine(share_out(WorkerOptions(), 1, cores, 0)))
        said = f"epidermis masks of {len(keys)} toy slides of {side}², slides a second"
        against = "one worker with all cores"
        note = f"{cores} cores in all; workers share them"
        yield reported(f"{said}: 1 local worker", one, "1/s", note=f"{cores} cores")
        two = rate(LocalEngine(share_out(WorkerOptions(), 2, cores, 0)))
        yield reported(f"{said}: 2 local workers", two, "1/s", against=against, reference=one, note=note)
        name = f"{said}: 2 Ray nodes, a worker on each"
        if toy:
            yield not_measured(name, "a cluster takes too long to start for toy size; its engine has tests of its own")
            return
        with _cluster(max(1, cores // 2)) as engine_of:
            there = rate(engine_of(WorkerOptions(threads=max(1, cores // 2))))
        yield reported(name, there, "1/s", against=against, reference=one, note=f"{note}; both nodes are this machine")


@contextmanager
def _cluster(cpus: int) -> Iterator[Callable[..., Engine]]:
    """Two nodes beside a head that takes no work; what makes an engine on them of a worker's options."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    from dermatome.pipeline.ray_engine import RayEngine

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=cpus)
        cluster.wait_for_nodes()
        yield lambda options: RayEngine(cluster.address, 2, options)
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]
