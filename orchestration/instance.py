"""Opens Dagster's instance, creates its storage if needed, and keeps a second platform from using the same storage."""

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import filelock
import sqlalchemy.exc

from dermatome.errors import StorageFailed
from dermatome.registry.champion import NOT_MATERIALIZED
from dermatome.storage.files import locked, write_atomic


@contextmanager
def open_instance() -> Iterator[dg.DagsterInstance]:
    """Opens the instance that the environment names.

    New SQLite storage is created under a lock. Without it, one of two processes can find the other's tables before
    their version is written, and add an older version; after that no process can open the storage ("more than one
    head").

    Raises:
        StorageFailed: An SQLite file of the storage is damaged, or cannot be written.
    """
    storage = Path(os.environ["DERMATOME_DAGSTER_STORAGE"])
    storage.mkdir(parents=True, exist_ok=True)
    try:
        with locked(storage / "opening.lock"):
            instance = dg.DagsterInstance.get()
        with instance:
            yield instance
    except sqlalchemy.exc.DatabaseError as error:
        if isinstance(error.orig, sqlite3.OperationalError):
            raise StorageFailed(
                f"Dagster's storage {storage} cannot be used ({error.orig}): free or enlarge the disk, check the "
                "permissions of the folder, or stop the other program that uses it."
            ) from error
        if not isinstance(error.orig, sqlite3.DatabaseError):
            raise
        raise StorageFailed(
            f"Dagster's storage {storage} is damaged ({error.orig}). No result is lost: move that folder away and "
            "start a new storage, as docs/howto/dagster-storage.md says."
        ) from error


OPTIONAL = (
    "hpa_images", "tissue_hold_out", "tissue_hold_out_scores", "tissue_champion", "cell_hold_out",
    "cell_hold_out_scores", "cell_champion", "nuclei_hold_out", "nuclei_hold_out_scores", "nuclei_champion",
    "til_scores",
    # Without these, only their tables in the metrics store are empty.
    "annotation_queue", "hpa_agreement", "tissue_search", "tissue_weights", "cell_weights", "nuclei_slides",
    "nuclei_weights", "nucleus_maps",
)  # fmt: skip
"""Assets that are optional inputs: the assets downstream of them can be materialized without them."""


def note_optional(instance: dg.DagsterInstance) -> None:
    """Reports an event for each optional asset that has none. Its data version is the one Dagster uses for no version.

    Before it materializes an asset, the UI asks "Are you sure?" in red if one upstream asset never had any event, as
    if that were a mistake. The event changes nothing else: the asset is still missing for Dagster.
    """
    for asset in OPTIONAL:
        if not instance.fetch_materializations(dg.AssetKey(asset), limit=1).records:
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    asset,
                    description="Not materialized yet. The assets after it can be materialized without it.",
                    tags={"dagster/data_version": NOT_MATERIALIZED},
                )
            )


POOLS = ("gpu", "hpa", "metrics")
"""Concurrency pools of assets that use the GPU (or all cores), send requests to HPA, or write the DuckDB file."""


def show_pools(instance: dg.DagsterInstance) -> None:
    """Sets the default limit of each pool, so that *Deployment > Concurrency* lists the pool before its first run."""
    shown = {pool.name for pool in instance.event_log_storage.get_pool_limits()}
    for pool in POOLS:
        if pool not in shown:
            instance.event_log_storage.initialize_concurrency_limit_to_default(pool)


@contextmanager
def only_platform() -> Iterator[None]:
    """Locks Dagster's storage for this platform: two daemons over one storage would start every run twice.

    Raises:
        StorageFailed: Another platform runs over the storage, or it cannot be written.
    """
    storage = Path(os.environ["DERMATOME_DAGSTER_STORAGE"])
    # The system releases the lock of a process that dies. Each attempt to take the lock empties its file, so the id of
    # the process that holds it lies in another file.
    lock, holder = filelock.FileLock(storage / "platform.lock", fallback_to_soft=False), storage / "platform.pid"
    try:
        storage.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        pid = holder.read_text() if holder.is_file() else "unknown"
        raise StorageFailed(
            f"Another platform runs over {storage} (process {pid}): use that one, end it first, or give this one "
            "another data root."
        ) from error
    except OSError as error:
        raise StorageFailed(f"{storage} cannot be locked ({error.strerror}): check its rights and its disk.") from error
    try:
        write_atomic(holder, f"{os.getpid()} on {socket.gethostname()}".encode())
        yield
        holder.unlink(missing_ok=True)
    finally:
        lock.release()
