"""A Ray cluster that disappears in the middle of a run, played: waiting for a real one to be given up takes minutes."""

import threading

import pytest

from dermatome.pipeline import ray_engine
from dermatome.pipeline.ray_engine import _Actor, _Actors
from dermatome.pipeline.work import WorkerDied


class Gone:
    """A cluster from which no worker is heard; its head answers ``heads`` times, then not at all or with an error."""

    def __init__(self, heads, breaks):
        self.heads, self.breaks, self.never = heads, breaks, threading.Event()

    def wait(self, refs, num_returns, timeout):
        return [], refs

    def nodes(self):
        self.heads -= 1
        if self.heads >= 0:
            return [{"Alive": True}]
        if self.breaks:
            raise ConnectionError("no head")
        self.never.wait(120)
        return []


@pytest.mark.parametrize("breaks", [True, False])
def test_a_cluster_that_is_gone_ends_the_run(monkeypatch, breaks):
    monkeypatch.setattr(ray_engine, "SILENT_S", 0.0)
    monkeypatch.setattr(ray_engine, "ANSWER_S", 0.2)
    pool = object.__new__(_Actors)
    pool._ray, pool._anyone, pool._answered, pool._began = Gone(2, breaks), True, 0.0, 0.0
    pool._members = [_Actor(seat=0, handle=None, saying="a reference", asked=True)]
    with pytest.raises(WorkerDied, match="cluster is gone"):
        pool.heard(pool._members)
    assert pool._ray.heads == -1, "while the head answered, it was waited on"
    pool.stop(cancel=True)
    pool._ray.never.set()
