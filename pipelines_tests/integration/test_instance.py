"""Several processes that open new storage at once: each can, then and later."""

import os
import sqlite3
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PROCESSES, ROUNDS = 4, 6


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
    context = get_context("spawn")
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
