"""Connections of a run to the instance's database: cut while nobody used them, and held."""

from pathlib import Path

import sqlalchemy
from sqlalchemy.pool import QueuePool

from assets.slide_asset import keep_connections


class NoInstance:
    def optimize_for_webserver(self, **options: int) -> None:
        assert options["statement_timeout"] == 0


def test_a_connection_that_was_cut_is_opened_again(tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/a.db", poolclass=QueuePool, pool_size=1)
    for _ in range(2):  # runs of one process share what listens
        keep_connections(NoInstance())  # type: ignore[arg-type]
    with engine.connect() as connection:
        connection.connection.driver_connection.close()  # type: ignore[union-attr]
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("select 7")).scalar() == 7
