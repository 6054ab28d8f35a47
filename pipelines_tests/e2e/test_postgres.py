"""The platform over a real Postgres, as `make ui POSTGRES=host` starts it: daemon, web server and runs as processes."""

import dagster as dg
import pytest
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from assets.slide_asset import keep_connections
from dermatome.storage.layout import DataRoot
from dermatome.synthetic.skin import toy_slide
from orchestration.definitions import build_defs
from orchestration.instance import OPTIONAL
from orchestration.requests import PER_SLIDE, missing_slides, register_slides
from pipelines_tests.e2e.platform import Platform, hpa_slides
from pipelines_tests.faulty_hpa_server import FaultyHpaServer
from pipelines_tests.postgres import connect, postgres_server

SLIDES = 8

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture
def atlas():
    drawn = toy_slide(1, size_px=160).jpeg()
    with FaultyHpaServer() as server:
        server.images = {f"/images/700/{number}_A.jpg": drawn for number in range(SLIDES)}
        del server.images["/images/700/3_A.jpg"]
        yield server


def test_a_backfill_over_postgres(tmp_path, atlas):
    root = DataRoot(tmp_path / "data")
    sources = hpa_slides(root, atlas.url, SLIDES)
    with postgres_server() as postgres:
        platform = Platform(root.path, postgres)
        with platform.instance() as instance:
            assert register_slides(instance, root, sources) == [source.slide for source in sources]
            # Requested before the daemon runs, its first round takes it: the next would come half a minute later.
            infer = build_defs(root.path).resolve_job_def("infer")
            assert infer.execute_in_process(instance=instance).success
            with platform:
                platform.wait_for(lambda: ended(instance), "the backfill's run", timeout_s=200)
                lost = {"slide_images": ["700-3_A"]}
                platform.wait_for(
                    lambda: missing_slides(instance, root, PER_SLIDE[:1]) == lost, "the backfill's end", timeout_s=200
                )
            (run,) = ended(instance)
            assert run.tags["dagster/backfill"] == instance.get_backfills()[0].backfill_id
            assert run.status == dg.DagsterRunStatus.FAILURE, "one slide is not there"
            keep_connections(instance)
            assert ended(instance)
            with connect(postgres) as connection, connection.cursor() as cursor:  # as a restart does
                cursor.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
            assert ended(instance) == [run], "a connection that was cut is opened again"
        with connect(postgres) as connection, connection.cursor() as cursor:
            cursor.execute("select count(*) from event_logs where dagster_event_type = 'ASSET_MATERIALIZATION'")
            assert cursor.fetchone() == (7 + len(OPTIONAL),)
    assert not list((root.path / "dagster").rglob("*.db")), "nothing went to SQLite"


def ended(instance):
    runs = instance.get_runs(dg.RunsFilter(statuses=list(FINISHED_STATUSES)))
    return [run for run in runs if "dagster/backfill" in run.tags]
