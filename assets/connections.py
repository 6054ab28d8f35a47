"""A run's connections to the instance's database."""

import dagster as dg
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


def _ping(connection: object, record: object, proxy: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    try:
        cursor.execute("SELECT 1")
    except Exception as error:  # each driver has errors of its own
        # Makes the pool open another connection.
        raise exc.DisconnectionError(str(error)) from error
    finally:
        cursor.close()
