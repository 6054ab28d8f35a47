"""Dagster's storage: several processes open a new one at once; a damaged one is said."""

import os
import sqlite3
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import pytest

from dermatome.errors import StorageFailed

CHECKOUT = Path(__file__).resolve().parents[2]
PROCESSES, ROUNDS = 4, 3


def _open(folder, start, results):
    from orchestration.instance import open_instance

    os.environ["DAGSTER_HOME"] = str(CHECKOUT)
    for number in range(ROUNDS):
        os.environ["DERMATOME_DAGSTER_STORAGE"] = str(folder / str(number))
        start.wait(120)
        try:
            with open_instance() as instance:
                instance.get_runs_count()
            results.put("")
        except Exception as error:  # whatever it is, the test shows it
            results.put(repr(error))


@pytest.mark.slow
def test_new_storage_is_made_once_however_many_open_it(tmp_path):
    context = get_context("forkserver")  # one process imports the platform, and each that opens storage is its fork
    context.set_forkserver_preload(["orchestration.instance"])
    start, results = context.Barrier(PROCESSES), context.Queue()
    processes = [context.Process(target=_open, args=(tmp_path, start, results)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    said = [results.get(timeout=300) for _ in range(PROCESSES * ROUNDS)]
    for process in processes:
        process.join(60)
    assert not [text for text in said if text]
    for file in tmp_path.glob("*/**/*.db"):
        with closing(sqlite3.connect(file)) as database:
            assert database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,), file


@pytest.mark.parametrize("kept", [0, 4096], ids=["from the start", "after the header"])
@pytest.mark.parametrize("file", ["history/runs.db", "history/runs/index.db", "schedules/schedules.db"])
def test_a_damaged_file_is_one_sentence_that_says_what_to_do(tmp_path, monkeypatch, file, kept):
    from orchestration.instance import note_optional, open_instance

    monkeypatch.setenv("DAGSTER_HOME", str(CHECKOUT))
    monkeypatch.setenv("DERMATOME_DAGSTER_STORAGE", str(tmp_path))
    with open_instance() as instance:
        note_optional(instance)
    data = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(data[:kept] + bytes(range(1, 256)) * (len(data) // 255))
    with (
        pytest.raises(StorageFailed, match=f"{tmp_path} is damaged .*docs/howto/dagster-storage.md"),
        open_instance() as instance,
    ):
        note_optional(instance)
        instance.get_runs_count()
        instance.all_instigator_state()


def test_storage_that_cannot_be_opened_is_one_sentence(tmp_path, monkeypatch):
    from orchestration.instance import open_instance

    monkeypatch.setenv("DAGSTER_HOME", str(CHECKOUT))
    monkeypatch.setenv("DERMATOME_DAGSTER_STORAGE", str(tmp_path))
    (tmp_path / "history" / "runs.db").mkdir(parents=True)
    with (
        pytest.raises(StorageFailed, match=f"{tmp_path} cannot be used .unable to open database file"),
        open_instance(),
    ):
        pass
