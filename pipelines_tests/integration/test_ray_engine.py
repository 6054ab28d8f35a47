"""The slide engine on a Ray cluster of three nodes on this machine: nodes and workers die, runs are cancelled."""

import os
import time

import pytest

from dermatome.errors import BadImage, BadSetting, BadWeights
from dermatome.pipeline.local import LocalEngine
from dermatome.pipeline.ray_engine import RayEngine, Share, _share
from dermatome.pipeline.work import WorkerDied, WorkerOptions
from pipelines_tests.unit.slide_works import Naming

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def engine(cluster):
    return RayEngine(cluster.address)


def by_key(found):
    results = {one.key: one for one in found}
    assert len(results) == len(found), "no key comes twice"
    return results


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition, what, timeout_s=120):
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.05)


def test_results_are_those_of_the_local_engine(engine, tmp_path):
    keys = [f"k{n}" for n in range(20)] + ["bad1", "odd1", "made1"]
    there = by_key(list(engine.map(Naming(tmp_path, 0.01, together=2), keys)))
    here = by_key(list(LocalEngine().map(Naming(tmp_path), keys)))
    assert sorted(there) == sorted(here)
    for key in keys:
        assert bool(there[key].error) == bool(here[key].error)
        if there[key].error is None:
            assert there[key].result[0] == here[key].result[0]
    assert isinstance(there["bad1"].error, BadImage)
    assert str(there["bad1"].error) == "bad1 is bad."
    assert "Unpicklable: odd1 and more" in str(there["odd1"].error)
    assert len({one.result[1] for one in there.values() if one.error is None}) == 2, "both nodes had some"
    assert list(engine.map(Naming(tmp_path), [])) == []


def test_a_slide_that_kills_its_worker_twice_fails_alone(engine, tmp_path):
    keys = ["k0", "kills", "k1", "k2", "k3"]
    found = by_key(list(engine.map(Naming(tmp_path), keys)))
    assert sorted(found) == sorted(keys)
    assert {key for key, one in found.items() if one.error} == {"kills"}
    assert isinstance(found["kills"].error, WorkerDied)
    said = str(found["kills"].error)
    assert said.startswith("The Ray worker died (")
    assert "while it worked on kills, twice" in said
    assert "\n" not in said


def test_a_slide_whose_worker_was_killed_is_made_by_another(engine, tmp_path):
    keys = ["k0", "once", "k1", "k2"]
    found = by_key(list(engine.map(Naming(tmp_path), keys)))
    assert {key: one.result[0] for key, one in found.items()} == {key: key.upper() for key in keys}


def test_work_that_cannot_be_opened_ends_the_run_with_its_own_error(engine, tmp_path):
    (tmp_path / "unopened").touch()
    with pytest.raises(BadWeights, match="no weights"):
        list(engine.map(Naming(tmp_path), ["a", "b", "c"]))


def test_cancelling_ends_the_workers_and_leaves_nothing_half_written(engine, tmp_path):
    results = engine.map(Naming(tmp_path, 0.1), [*(f"k{n}" for n in range(30)), "long"])
    pids = {next(results).result[1] for _ in range(6)}
    results.close()
    wait_for(lambda: not any(alive(pid) for pid in pids), "the workers to end")
    assert not list(tmp_path.glob("*.part"))


def test_slides_of_a_node_that_is_lost_are_made_on_the_others(cluster, tmp_path):
    lost = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    engine = RayEngine(cluster.address, options=WorkerOptions(group_px=1))
    keys = [f"k{n}" for n in range(60)]
    found, workers = [], set()
    for one in engine.map(Naming(tmp_path, 0.1, together=3), keys):
        found.append(one)
        assert one.error is None
        workers.add(one.result[1])
        if len(workers) == 3 and lost:
            cluster.remove_node(lost)
            lost = None
    assert lost is None, "all three nodes were at work"
    assert sorted(by_key(found)) == sorted(keys)


def test_more_workers_than_the_cluster_has_room_for_are_refused(cluster, tmp_path):
    with pytest.raises(BadSetting, match="has 2 CPUs and 5 slide workers are asked for"):
        list(RayEngine(cluster.address, 5).map(Naming(tmp_path), list("abcdefg")))


@pytest.mark.parametrize(
    ("nodes", "workers", "share"),
    [
        ([(0, 0), (4, 0), (4, 0)], 0, Share(2, 4, 0)),
        ([(8, 0), (4, 0)], 3, Share(3, 4, 0)),
        ([(4, 0)], 4, Share(4, 1, 0)),
        ([(16, 2), (16, 2), (4, 0)], 0, Share(4, 8, 1)),
        ([(16, 2)], 4, Share(4, 4, 0.5)),
    ],
)
def test_a_cluster_is_divided_between_workers(nodes, workers, share):
    assert _share(nodes, workers) == share


def test_a_cluster_that_is_not_there_is_said(tmp_path):
    import ray

    ray.shutdown()
    with pytest.raises(BadSetting, match="There is no Ray cluster at 127.0.0.1:1 "):
        list(RayEngine("127.0.0.1:1").map(Naming(tmp_path), ["a"]))
