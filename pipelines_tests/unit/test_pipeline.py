"""One worker's overlapped phases: no key lost or doubled, own errors, bounded memory, an end when cancelled."""

import threading
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermatome.errors import BadImage, BadSetting, BadWeights
from dermatome.pipeline.work import AlreadyMade, Finished, WorkerOptions
from dermatome.pipeline.worker import Worker

SMALL = WorkerOptions(readers=2, writers=2, waiting=3, waiting_px=100, group_px=30)


class Doubling:
    """Gives each key twice; phases fail, and slides have sizes, as the plan for the key says."""

    def __init__(self, plan=None):
        self.plan = plan or {}
        self.opened = 0
        self.groups = []
        self.alive = Counter()
        self.most = Counter()
        self._lock = threading.Lock()

    def open(self, seat):
        self.opened += 1

    def read(self, key):
        self._fail(key, "read")
        if self._does(key) == "made":
            return AlreadyMade(key * 2)
        self._count("read", 1)
        return key

    def pixels(self, read):
        return self.plan.get(read, ("", 10))[1]

    def compute(self, reads):
        self.groups.append(list(reads))
        if len(reads) > 1 and any(self._does(key) == "group" for key in reads):
            raise MemoryError("too much at once")
        for key in reads:
            self._fail(key, "compute")
        self._count("read", -len(reads))
        self._count("found", len(reads))
        return [key * 2 for key in reads]

    def write(self, key, found):
        self._count("found", -1)
        self._fail(key, "write")
        return found

    def _does(self, key):
        return self.plan.get(key, ("", 10))[0]

    def _fail(self, key, phase):
        if self._does(key) == phase:
            raise BadImage(f"{key} fails in {phase}.")

    def _count(self, what, by):
        with self._lock:
            self.alive[what] += by
            self.most[what] = max(self.most[what], self.alive[what])


def run(work, keys, options=SMALL):
    return list(Worker(work, options).run(keys))


outcomes = st.sampled_from(["", "", "", "read", "compute", "write", "made", "group"])


@settings(max_examples=60, deadline=None)
@given(
    plan=st.dictionaries(
        st.text("abcd", min_size=1, max_size=4), st.tuples(outcomes, st.integers(0, 300)), max_size=25
    ),
    options=st.builds(
        WorkerOptions,
        readers=st.integers(1, 4),
        writers=st.integers(1, 4),
        waiting=st.integers(1, 5),
        waiting_px=st.integers(1, 400),
        group_px=st.integers(1, 400),
    ),
)
def test_every_key_is_finished_once_with_its_own_result_or_error(plan, options):
    found = run(Doubling(plan), list(plan), options)
    assert sorted(one.key for one in found) == sorted(plan)
    for one in found:
        outcome = plan[one.key][0]
        if outcome in ("read", "compute", "write"):
            assert one.result is None
            assert str(one.error) == f"{one.key} fails in {outcome}."
        else:
            assert one == Finished(one.key, one.key * 2, None)


def test_no_keys_open_nothing():
    work = Doubling()
    assert run(work, []) == []
    assert work.opened == 0


def test_the_work_is_opened_once_for_all_runs():
    work = Doubling()
    worker = Worker(work, SMALL)
    assert len(list(worker.run("ab"))) + len(list(worker.run("cd"))) == 4
    assert work.opened == 1


class Gated(Doubling):
    """Computes only once all that fits into the read-ahead has been read."""

    def __init__(self, plan, wait_for):
        super().__init__(plan)
        self._wait_for = wait_for

    def open(self, seat):
        while self.alive["read"] < self._wait_for:
            time.sleep(0.001)


def test_small_slides_are_computed_together_up_to_the_budget():
    plan = dict.fromkeys("abcdefg", ("", 10))
    work = Gated(plan, 4)
    run(work, list(plan), WorkerOptions(readers=1, writers=1, waiting=10, waiting_px=1000, group_px=30))
    assert max(len(group) for group in work.groups) == 3, work.groups


def test_a_group_that_fails_is_tried_one_by_one():
    plan = {"a": ("", 5), "b": ("compute", 5), "c": ("", 5)}
    work = Gated(plan, 3)
    found = {one.key: one for one in run(work, list(plan))}
    assert {key for key, one in found.items() if one.error} == {"b"}
    assert ["b"] in work.groups


def test_what_waits_between_phases_is_bounded_however_many_slides_there_are():
    keys = [f"{n}" for n in range(300)]
    work = Doubling()
    assert len(run(work, keys)) == 300
    assert work.most["read"] <= SMALL.waiting + SMALL.readers + 3, "a group in the device's hands is three at most"
    assert work.most["found"] <= SMALL.waiting + SMALL.writers + 3


def test_keys_are_not_read_far_ahead_of_results_nobody_takes():
    taken = []
    keys = (taken.append(n) or f"{n}" for n in range(1000))
    results = Worker(Doubling(), SMALL).run(keys)
    next(results)
    time.sleep(0.3)
    results.close()
    assert len(taken) < 40


def test_an_error_of_opening_ends_the_run():
    class Unopened(Doubling):
        def open(self, seat):
            raise BadWeights("There are no weights.")

    with pytest.raises(BadWeights, match="no weights"):
        run(Unopened(), ["a", "b"])


def test_a_computation_that_loses_a_slide_fails_its_slides():
    class Losing(Doubling):
        def compute(self, reads):
            return []

    assert [type(one.error) for one in run(Losing(), ["a"])] == [ValueError]


class Slow(Doubling):
    """Checks between the steps of a long computation whether it is still wanted."""

    def open(self, seat):
        self.seat = seat
        self.stopped_at = None
        self.begun, self.written = [], []

    def compute(self, reads):
        if "long" in reads:
            for step in range(10_000):
                self.stopped_at = step
                self.seat.check()
                time.sleep(0.005)
        return super().compute(reads)

    def write(self, key, found):
        self.begun.append(key)
        time.sleep(0.2)
        self.written.append(key)
        return super().write(key, found)


def test_closing_ends_a_long_computation_and_lets_writers_finish():
    work = Slow({"long": ("", 30)})
    results = Worker(work, SMALL).run(["a", "b", "long", "c"])
    assert next(results).key in "ab"
    while work.stopped_at is None:
        time.sleep(0.01)
    results.close()
    assert work.stopped_at < 9_999
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("slides-")]
    assert sorted(work.begun) == sorted(work.written), "what was being written was written whole"


class Checking(Doubling):
    """Asks before each computation whether its run was cancelled."""

    def open(self, seat):
        self.seat = seat

    def compute(self, reads):
        self.seat.check()
        return super().compute(reads)


def test_a_run_that_is_over_does_not_cancel_the_next():
    worker = Worker(Checking(), SMALL)
    for _ in range(2):
        assert [one.result for one in worker.run(["a"])] == ["aa"]


def test_closing_the_worker_ends_its_run():
    worker = Worker(Doubling(), SMALL)
    results = worker.run(f"{n}" for n in range(1000))
    next(results)
    worker.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("slides-")]


@pytest.mark.parametrize("name", ["readers", "writers", "waiting", "waiting_px", "group_px"])
def test_options_below_one_are_refused(name):
    with pytest.raises(BadSetting, match=name):
        WorkerOptions(**{name: 0})
