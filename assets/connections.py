"""A run's connections to the instance's database."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import dagster as dg
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from sqlalchemy import event, exc
from sqlalchemy.pool import QueuePool


def keep_connections(instance: dg.DagsterInstance) -> None:
    """Keeps a connection to each of the instance's databases between events, whatever befalls the database meanwhile.

    On Postgres, a slide's events would otherwise open a dozen connections. Dagster's web server keeps one likewise, but
    would fail once after the database was restarted: here a kept connection is asked first whether it still answers,
    and otherwise another is opened, for which Dagster tries for some seconds.
    """
    instance.optimize_for_webserver(statement_timeout=0, pool_recycle=3600, max_overflow=20)
    # SQLAlchemy's own `pool_pre_ping` is for whoever makes the engine, and Dagster does not pass it on.
    if not event.contains(QueuePool, "checkout", _ping):
        event.listen(QueuePool, "checkout", _ping)


@contextmanager
def sqlite_held(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Holds a connection to each file that the events of a run go to, where those are SQLite's.

    Dagster opens one for each event and closes it. Whoever closes the last one moves the write-ahead log into the file
    and deletes it, which took a third of the time of a slide's events.
    """
    storage = instance.event_log_storage
    with ExitStack() as stack:
        if isinstance(storage, SqliteEventLogStorage):
            for shard in (run_id, "index"):
                file = Path(storage.path_for_shard(shard)).absolute().as_uri()
                held = stack.enter_context(closing(sqlite3.connect(f"{file}?mode=rw", uri=True, timeout=60)))
                # It takes its part in the log with the first look, and is in nobody's way when that is over.
                held.execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield


def _ping(connection: object, record: object, proxy: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    try:
        cursor.execute("SELECT 1")
    except Exception as error:  # each driver has errors of its own
        # Makes the pool open another connection.
        raise exc.DisconnectionError(str(error)) from error
    finally:
        cursor.close()
