"""The batch runner: no key lost or doubled, errors of single slides, bounded memory, cancelling, and killed runs."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermatome.errors import BadImage, BadWeights
from dermatome.pipeline.batch import BatchSettings, Done, Finished, InFlight, KilledRun, Loaded, Work, run_batch
from dermatome.storage.layout import DataRoot

CHECKOUT = Path(__file__).resolve().parents[2]
SMALL = BatchSettings(readers=2, writers=2, waiting=3, waiting_px=100, group_px=30)


class Doubling:
    """Gives each key twice; phases fail, and slides have sizes, as the plan for the key says."""

    def __init__(self, plan=None):
        self.plan = plan or {}
        self.opened = 0
        self.groups = []
        self.alive = Counter()
        self.most = Counter()
        self._lock = threading.Lock()

    def open(self, check):
        self.check = check
        self.opened += 1

    def load(self, key):
        self._fail(key, "load")
        if self._does(key) == "made":
            return Done(key * 2)
        self._count("loaded", 1)
        return Loaded(key, self.plan.get(key, ("", 10))[1], "token")

    def compute(self, loaded):
        self.groups.append(list(loaded))
        if len(loaded) > 1 and any(self._does(key) == "group" for key in loaded):
            raise MemoryError("too much at once")
        for key in loaded:
            self._fail(key, "compute")
        self._count("loaded", -len(loaded))
        self._count("computed", len(loaded))
        return [key * 2 for key in loaded]

    def save(self, key, result, token):
        assert token == "token"
        self._count("computed", -1)
        self._fail(key, "save")
        return result

    def _does(self, key):
        return self.plan.get(key, ("", 10))[0]

    def _fail(self, key, phase):
        if self._does(key) == phase:
            raise BadImage(f"{key} fails in {phase}.")

    def _count(self, what, by):
        with self._lock:
            self.alive[what] += by
            self.most[what] = max(self.most[what], self.alive[what])


def started(work, keys, options=SMALL, in_flight=None):
    return run_batch(Work(work.open, work.load, work.compute, work.save), list(keys), options, in_flight)


def run(*arguments):
    return list(started(*arguments))


outcomes = st.sampled_from(["", "", "", "load", "compute", "save", "made", "group"])


@settings(max_examples=60, deadline=None)
@given(
    plan=st.dictionaries(
        st.text("abcd", min_size=1, max_size=4), st.tuples(outcomes, st.integers(0, 300)), max_size=25
    ),
    options=st.builds(
        BatchSettings,
        readers=st.integers(1, 4),
        writers=st.integers(1, 4),
        waiting=st.integers(1, 5),
        waiting_px=st.integers(1, 400),
        group_px=st.integers(1, 400),
    ),
)
def test_every_key_is_finished_once_with_its_own_result_or_error(plan, options):
    found = run(Doubling(plan), plan, options)
    assert sorted(one.key for one in found) == sorted(plan)
    for one in found:
        outcome = plan[one.key][0]
        if outcome in ("load", "compute", "save"):
            assert one.result is None
            assert str(one.error) == f"{one.key} fails in {outcome}."
        else:
            assert one == Finished(one.key, one.key * 2, None)


@pytest.mark.parametrize("keys", [[], ["a"]])
def test_where_nothing_is_computed_nothing_is_opened(keys):
    work = Doubling({"a": ("made", 1)})
    assert [one.result for one in run(work, keys)] == [key * 2 for key in keys]
    assert work.opened == 0


class Gated(Doubling):
    """Computes only once all that fits into the queue has been loaded."""

    def __init__(self, plan, wait_for):
        super().__init__(plan)
        self._wait_for = wait_for

    def open(self, check):
        while self.alive["loaded"] < self._wait_for:
            time.sleep(0.001)


def test_small_slides_are_computed_together_up_to_the_budget():
    plan = dict.fromkeys("abcdefg", ("", 10))
    work = Gated(plan, 4)
    run(work, plan, BatchSettings(readers=1, writers=1, waiting=10, waiting_px=1000, group_px=30))
    assert max(len(group) for group in work.groups) == 3, work.groups


def test_a_group_that_fails_is_computed_one_by_one():
    plan = {"a": ("", 5), "b": ("", 5), "c": ("compute", 5), "d": ("", 5), "e": ("", 5), "f": ("", 5)}
    work = Gated(plan, 4)
    found = {one.key: one for one in run(work, plan, BatchSettings(readers=1, group_px=1000))}
    assert {key for key, one in found.items() if one.error} == {"c"}
    assert ["c"] in work.groups


def test_what_waits_between_phases_is_bounded_however_many_slides_there_are():
    work = Doubling()
    assert len(run(work, [f"{n}" for n in range(300)])) == 300
    assert work.opened == 1
    assert work.most["loaded"] <= SMALL.waiting + SMALL.readers + 3, "a group that is computed has three at most"
    assert work.most["computed"] <= SMALL.waiting + 2 * 3


def test_keys_are_not_loaded_far_ahead_of_results_nobody_takes():
    work = Doubling()
    results = started(work, [f"{n}" for n in range(1000)])
    next(results)
    time.sleep(0.3)
    results.close()
    assert sum(map(len, work.groups)) + work.most["loaded"] < 40
    until = time.monotonic() + 5
    while [thread for thread in threading.enumerate() if thread.name.startswith("slides-")]:
        assert time.monotonic() < until, "its threads do not end"
        time.sleep(0.01)


def test_an_error_of_opening_ends_the_batch():
    class Unopened(Doubling):
        def open(self, check):
            raise BadWeights("There are no weights.")

    with pytest.raises(BadWeights, match="no weights"):
        run(Unopened(), ["a", "b"])


def test_a_computation_that_loses_a_slide_fails_its_slides():
    class Losing(Doubling):
        def compute(self, loaded):
            return []

    assert [type(one.error) for one in run(Losing(), ["a"])] == [ValueError]


class Slow(Doubling):
    """Checks between the steps of a long computation whether it is cancelled; saves nothing before that computation."""

    def __init__(self, plan):
        super().__init__(plan)
        self.computes_long = threading.Event()
        self.begun, self.saved = [], []

    def compute(self, loaded):
        if "long" in loaded:
            for step in range(10_000):
                self.stopped_at = step
                self.computes_long.set()
                self.check()
                time.sleep(0.005)
        return super().compute(loaded)

    def save(self, key, result, token):
        assert self.computes_long.wait(60)  # the batch goes on only while its caller waits for a result
        self.begun.append(key)
        time.sleep(0.5 if key == "b" else 0.1)
        self.saved.append(key)
        return super().save(key, result, token)


def test_closing_ends_a_long_computation_and_completes_what_is_being_saved(tmp_path):
    work = Slow({"long": ("", 30)})
    notes = InFlight(DataRoot(tmp_path), "asset", "run")
    results = started(work, ["a", "b", "long", "c"], BatchSettings(waiting=5, group_px=30), notes)
    assert next(results).key in "abc"
    results.close()
    assert work.stopped_at < 9_999
    assert sorted(work.begun) == sorted(work.saved)
    assert not list(tmp_path.rglob("*.json")), "a batch that is cancelled suspects no slide"


class Deadly(Doubling):
    """Kills its process at one key, as the kernel does where memory ends; does not end at another."""

    def compute(self, loaded):
        if "kills" in loaded:
            os.kill(os.getpid(), signal.SIGKILL)
        while "long" in loaded:
            print("begun", flush=True)
            time.sleep(0.01)
        return super().compute(loaded)


RUN = """
import signal, sys
from pathlib import Path
from pipelines_tests.unit.test_batch import Deadly, InFlight, DataRoot, started
signal.signal(signal.SIGINT, signal.default_int_handler)
folder, run_id, *keys = sys.argv[1:]
for one in started(Deadly(), keys, in_flight=InFlight(DataRoot(Path(folder)), "asset", run_id)):
    print(one.key, type(one.error).__name__, flush=True)
"""


def process(folder, run_id, keys):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder), run_id, *keys], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )


def test_a_slide_that_kills_its_run_is_tried_once_more_alone_and_then_fails_alone(tmp_path):
    keys = ["kills", *(f"k{n}" for n in range(6))]
    for run_id in ("first", "second"):
        died = process(tmp_path, run_id, keys)
        died.communicate()
        assert died.returncode == -signal.SIGKILL
    found = {one.key: one.error for one in started(Deadly(), keys, SMALL, notes(tmp_path, "third"))}
    assert {key for key, error in found.items() if error} == {"kills"}
    assert isinstance(found["kills"], KilledRun)
    assert "Two runs died while they worked on kills" in str(found["kills"])
    assert not list(tmp_path.rglob("*.json")), "given more memory, it is tried again"


def notes(folder, run_id, ended=("first", "second")):
    return InFlight(DataRoot(folder), "asset", run_id, lambda other: other in ended)


def test_a_slide_in_another_run_that_lives_is_no_suspect(tmp_path):
    notes(tmp_path, "lives").begin("a", alone=True)
    notes(tmp_path, "first").begin("b")
    (tmp_path / "in_flight" / "asset" / "c.json").write_text("{")
    assert notes(tmp_path, "mine").left_by_dead_runs(["a", "b", "c", "d"]) == {"b": False, "c": False}
    work = Doubling()
    assert [one.error for one in run(work, "abcd", SMALL, notes(tmp_path, "mine"))] == [None] * 4
    assert ["b"] in work.groups
    assert ["c"] in work.groups


def test_an_interrupted_run_ends_although_a_computation_does_not(tmp_path):
    interrupted = process(tmp_path, "run", ["long"])
    assert interrupted.stdout.readline() == "begun\n"
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait(90) != 0
    assert not psutil.pid_exists(interrupted.pid)


def test_a_file_that_is_being_saved_is_completed_where_an_interrupt_leaves_the_batch_open(tmp_path):
    program = """if True:
        import sys, time
        from pathlib import Path
        from dermatome.pipeline.batch import Loaded, Work, run_batch

        place = Path(sys.argv[1])

        def save(key, result, token):
            (place / f"{key}.part").touch()
            time.sleep(0 if key == "0" else 2)
            (place / f"{key}.part").rename(place / key)

        work = Work(lambda check: None, Loaded, list, save)
        results = run_batch(work, list("0123"))
        next(results)
        while not (place / "1.part").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt  # outside of the batch, which is still open
    """
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=CHECKOUT, stderr=subprocess.DEVNULL)
    assert "1" in {path.name for path in tmp_path.iterdir()}
    assert not list(tmp_path.glob("*.part"))
