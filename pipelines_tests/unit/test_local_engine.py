"""Several worker processes: keys shared out, deaths survived, nobody left behind when a run is cancelled or killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dermatome.errors import BadImage, BadSetting, BadWeights
from dermatome.pipeline.local import LocalEngine, share_out
from dermatome.pipeline.work import WorkerDied, WorkerOptions
from pipelines_tests.unit.slide_works import Naming

CHECKOUT = Path(__file__).resolve().parents[2]
TWO = LocalEngine((WorkerOptions(), WorkerOptions()))


def wait_for(condition, what, timeout_s=120):
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.02)


def workers_of(pid):
    """Live worker processes below a process."""
    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [one for one in found if "spawn_main" in " ".join(one.cmdline())]


def by_key(found):
    results = {one.key: one for one in found}
    assert len(results) == len(found), "no key comes twice"
    return results


def test_one_worker_works_in_this_process(tmp_path):
    found = by_key(list(LocalEngine().map(Naming(tmp_path), ["a", "b"])))
    assert {key: one.result for key, one in found.items()} == {"a": ("A", os.getpid()), "b": ("B", os.getpid())}


def test_two_workers_share_the_slides_and_errors_stay_with_theirs(tmp_path):
    keys = [f"k{n}" for n in range(150)] + ["bad1", "odd1", "made1"]
    found = by_key(list(TWO.map(Naming(tmp_path, 0.01, together=2), keys)))
    assert sorted(found) == sorted(keys)
    error = found["bad1"].error
    assert isinstance(error, BadImage)
    assert str(error) == "bad1 is bad."
    assert "Unpicklable: odd1 and more" in str(found["odd1"].error)
    assert "slide_works.py" in "".join(found["odd1"].error.__notes__), "where it was raised is kept"
    good = [found[key] for key in keys if key[0] in "km"]
    assert all(one.result[0] == one.key.upper() for one in good)
    assert len({one.result[1] for one in good}) == 2, "both workers had some"
    assert not workers_of(os.getpid())


def test_a_slide_that_kills_its_worker_fails_alone_after_a_second_try(tmp_path):
    keys = ["k0", "kills", "k1", "k2", "k3", "k4", "k5"]
    found = by_key(list(TWO.map(Naming(tmp_path), keys)))
    assert sorted(found) == sorted(keys)
    assert {key for key, one in found.items() if one.error} == {"kills"}
    error = found["kills"].error
    assert isinstance(error, WorkerDied)
    assert str(error).startswith("The worker process died of signal 9 (killed, perhaps for its memory)")


def test_a_slide_whose_worker_was_killed_is_made_by_another(tmp_path):
    keys = ["k0", "once", "k1", "k2", "k3"]
    found = by_key(list(TWO.map(Naming(tmp_path), keys)))
    assert {key: one.result[0] for key, one in found.items()} == {key: key.upper() for key in keys}


def test_workers_that_all_die_end_the_run_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("dermatome.pipeline.pool.DEATHS_IN_A_ROW", 3)
    (tmp_path / "dies").touch()
    with pytest.raises(WorkerDied, match="3 times in a row a worker process died with status 7"):
        list(TWO.map(Naming(tmp_path), [f"k{n}" for n in range(40)]))
    assert not workers_of(os.getpid())


def test_work_that_cannot_be_opened_ends_the_run_with_its_own_error(tmp_path):
    (tmp_path / "unopened").touch()
    with pytest.raises(BadWeights, match="no weights"):
        list(TWO.map(Naming(tmp_path), ["a", "b", "c"]))
    assert not workers_of(os.getpid())


def test_closing_ends_all_workers_and_leaves_nothing_half_written(tmp_path):
    results = TWO.map(Naming(tmp_path, 0.1), [*(f"k{n}" for n in range(30)), "long"])
    next(results)
    assert len(workers_of(os.getpid())) == 2
    results.close()
    assert not workers_of(os.getpid())
    assert not list(tmp_path.glob("*.part"))


RUN = """
import signal
import sys
from pathlib import Path
from dermatome.pipeline.local import LocalEngine
from dermatome.pipeline.work import WorkerOptions
from pipelines_tests.unit.slide_works import Naming

if __name__ == "__main__":
    # A shell that starts tests in the background has this signal ignored, in all that they start, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(sys.argv[1])
    # More slides without an end than one worker takes ahead: each gets one, whichever is up first.
    keys = ["k0", "k1", *(f"long{n}" for n in range(40))]
    one = WorkerOptions(group_px=1)
    for finished in LocalEngine((one,) * int(sys.argv[2])).map(Naming(folder, 0.05), keys):
        print(finished, flush=True)
"""


def started(tmp_path, workers):
    """A process that runs an engine, both of its workers (or the one) in a computation that does not end."""
    script = tmp_path / "run.py"
    script.write_text(RUN)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(workers)],
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    wait_for(lambda: len(list(tmp_path.glob("*.begun"))) == workers, "the workers")
    return process


def begun_by(tmp_path):
    return [int(path.name.split(".")[1]) for path in tmp_path.glob("*.begun")]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_ends_although_a_computation_does_not(tmp_path, workers):
    process = started(tmp_path, workers)
    process.send_signal(signal.SIGINT)
    assert process.wait(90) != 0
    assert not [pid for pid in begun_by(tmp_path) if psutil.pid_exists(pid)]
    assert not list(tmp_path.glob("*.part"))


def test_workers_of_a_killed_run_notice_and_end(tmp_path):
    process = started(tmp_path, 2)
    process.kill()
    process.wait()
    wait_for(lambda: not [pid for pid in begun_by(tmp_path) if psutil.pid_exists(pid)], "the workers to end")
    assert not list(tmp_path.glob("*.part"))


def test_threads_are_divided_and_gpus_taken_in_turn():
    assert [one.threads for one in share_out(WorkerOptions(), 2, 8, 0)] == [4, 4]
    assert [one.threads for one in share_out(WorkerOptions(), 3, 2, 0)] == [1, 1, 1]
    assert [one.device_index for one in share_out(WorkerOptions(), 2, 8, 0)] == [None, None]
    assert [one.device_index for one in share_out(WorkerOptions(), 4, 8, 2)] == [0, 1, 0, 1]


def test_an_engine_without_workers_is_refused():
    with pytest.raises(BadSetting, match="no workers"):
        LocalEngine(())
