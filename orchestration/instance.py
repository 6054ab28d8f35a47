"""Dagster's instance, opened where its storage may still have to be made."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from dermatome.storage.files import locked


@contextmanager
def open_instance() -> Iterator[dg.DagsterInstance]:
    """The instance that the environment names.

    New SQLite storage is made by one process alone: of two at once, one can find the other's tables before their
    version is written, write an older one beside it, and no process can open the storage ever after ("more than one
    head").
    """
    storage = Path(os.environ["DERMATOME_DAGSTER_STORAGE"])
    storage.mkdir(parents=True, exist_ok=True)
    with locked(storage / "opening.lock"):
        instance = dg.DagsterInstance.get()
    with instance:
        yield instance
