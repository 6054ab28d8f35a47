"""Opens Dagster's instance, and creates its storage if need be."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from dermatome.storage.files import locked


@contextmanager
def open_instance() -> Iterator[dg.DagsterInstance]:
    """Opens the instance that the environment names.

    New SQLite storage is created under a lock. Of two processes at once, one can find the tables of the other before
    their version is written and write an older version beside it, after which no process can open the storage ("more
    than one head").
    """
    storage = Path(os.environ["DERMATOME_DAGSTER_STORAGE"])
    storage.mkdir(parents=True, exist_ok=True)
    with locked(storage / "opening.lock"):
        instance = dg.DagsterInstance.get()
    with instance:
        yield instance
