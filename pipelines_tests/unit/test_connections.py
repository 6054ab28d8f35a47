"""Connections of a run to the instance's database: cut while nobody used them, and held."""

from pathlib import Path

import dagster as dg
import sqlalchemy
from sqlalchemy.pool import QueuePool

from assets.slide_asset import keep_connections, sqlite_held


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


def test_the_events_of_a_run_share_a_write_ahead_log_that_is_held(tmp_path: Path) -> None:
    storage = {"storage": {"sqlite": {"base_dir": str(tmp_path)}}}
    with dg.instance_for_test(overrides=storage, temp_dir=str(tmp_path)) as instance:
        run = dg.DagsterRun("job", run_id="1")
        instance.report_engine_event("begins", run)

        def logs() -> set[str]:
            instance.report_engine_event("goes on", run)
            return {path.name for path in tmp_path.rglob("*.db-wal")} & {f"{run.run_id}.db-wal", "index.db-wal"}

        assert not logs()
        with sqlite_held(instance, run.run_id):
            assert logs() == {f"{run.run_id}.db-wal", "index.db-wal"}
        assert not logs()
        assert len(instance.all_logs(run.run_id)) == 4
